"""The sentence splitter as it was first written, which copies the rest of the line at every mark."""

import re

from eval_harness.faithfulness.text.sentences import (
    _CLOSERS,
    _COMMON_STARTS,
    _MARK,
    _NEVER,
    _OPENERS,
    _SHORT,
    _TITLES,
)

_DOTTED = re.compile(r"(?:[A-Za-z]\.)+[A-Za-z]$")


def split_sentences(text: str) -> list[str]:
    """Sentences of a text."""
    return [sentence for line in text.splitlines() for sentence in _split_line(line)]


def _split_line(line: str) -> list[str]:
    sentences, start = [], 0
    for mark in _MARK.finditer(line):
        end = mark.end()
        if end <= start:
            continue
        while end < len(line) and line[end] in _CLOSERS:
            end += 1
        # Tokenised text puts a closing quote apart: `word . '' Next`.
        if spaced := re.match(r"\s+(?:''|\u201d|\u2019|\"(?=\s))", line[end:]):
            end += spaced.end()
        if _ends_here(line, start, mark, end):
            sentences.append(line[start:end])
            start = end
    sentences.append(line[start:])
    return [stripped for sentence in sentences if (stripped := sentence.strip())]


def _ends_here(line: str, start: int, mark: re.Match[str], end: int) -> bool:
    rest = line[end:]
    if not rest.strip():
        return True
    if mark.group()[0] in "\u3002\uff01\uff1f":
        return True
    if not rest[0].isspace():
        # `market.The` was glued when the text was scraped; `3.5`, `bbc.com` and `U.S.` were not.
        before = line[max(start, mark.start() - 2) : mark.start()]
        return (
            mark.group() == "."
            and len(before) == 2
            and before.isalpha()
            and before.islower()
            and rest[:1].isupper()
            and rest[1:2].islower()
        )
    following = rest.lstrip()
    if not _may_start(following):
        # A tokenised full stop stands alone, whatever follows it.
        return mark.group() == "." and line[mark.start() - 1 : mark.start()].isspace()
    return mark.group() != "." or not _is_abbreviation(line[start : mark.start()], following)


def _may_start(following: str) -> bool:
    first = following.lstrip(_OPENERS + " ")[:1]
    return not first or not first.isalpha() or not first.islower() or following[0] in "\"'\u201c\u2018«`"


def _is_abbreviation(before: str, following: str) -> bool:
    """Whether the full stop after `before` belongs to its last word."""
    words = before.split()
    word = words[-1].lstrip(_OPENERS + _CLOSERS) if words and not before[-1].isspace() else ""
    low = word.lower()
    if low in _TITLES or low in _NEVER:
        return True
    first = following.lstrip(_OPENERS + " ")[:1]
    if low in _SHORT:
        return first.isdigit() or first.islower()
    if len(word) == 1 and word.isalpha() and word.isupper():
        return word != "I"  # an initial: J. Smith
    # U.S. Senate or the U.S. The: only a small word can tell.
    return bool(_DOTTED.search(word)) and following.split()[0] not in _COMMON_STARTS
