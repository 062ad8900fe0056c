"""Sentences by rule: no data, no download, the same on every machine.

English first: a mark that ends a sentence, then what may start one. Abbreviations, initials, decimal numbers
and marks inside a quotation do not end a sentence; tokenised text (`word . Next`) is split as well.
"""

import re


def words_of(text: str) -> frozenset[str]:
    """The words of a text as a set: word lists read better so."""
    return frozenset(text.split())


_MARK = re.compile(r"[.!?\u2026]+|[\u3002\uff01\uff1f]+")
_CLOSERS = "\"'\u201d\u2019»)]}"
_OPENERS = "\"'\u201c\u2018«`([{-\u2013\u2014*•"
_SKIPPED = frozenset(_OPENERS + " ")
_QUOTES = "\"'\u201c\u2018«`"
# Followed by a capital all the same: titles and ranks.
_TITLES = words_of(
    "mr mrs ms mx dr prof rev fr sr jr st hon gov sen rep gen col maj capt cmdr lt sgt cpl pvt "
    "adm amb pres supt insp messrs mt ft"
)
# Followed by a number or a small letter where they do not end the sentence.
_SHORT = words_of(
    "no nos vol fig figs p pp ch sec art eq al approx est dept cf vs v etc ca inc ltd corp co "
    "bros jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed thu thur thurs fri "
    "sat sun a.m p.m e.g i.e"
)
_NEVER = words_of("e.g i.e cf vs v al approx ca")
_DOTTED = re.compile(r"[A-Za-z]\.[A-Za-z]")
_SPACED_QUOTE = re.compile(r"\s+(?:''|\u201d|\u2019|\"(?=\s))")
_WORD = re.compile(r"\S+")


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences.

    Args:
      text: any text; line ends also end sentences.

    Returns:
      Sentences without surrounding white space, none empty; together they hold every other character of the
      text in order.
    """
    return [sentence for line in text.splitlines() for sentence in _split_line(line)]


def _split_line(line: str) -> list[str]:
    """Sentences of a line, in time linear in its length: nothing is copied or read again at every mark."""
    sentences, start, last = [], 0, len(line.rstrip())
    for mark in _MARK.finditer(line):
        end = mark.end()
        if end <= start:
            continue
        while end < len(line) and line[end] in _CLOSERS:
            end += 1
        # Tokenised text puts a closing quote apart: `word . '' Next`.
        if spaced := _SPACED_QUOTE.match(line, end):
            end = spaced.end()
        if end >= last or _ends_here(line, start, mark, end):
            sentences.append(line[start:end])
            start = end
    sentences.append(line[start:])
    return [stripped for sentence in sentences if (stripped := sentence.strip())]


def _ends_here(line: str, start: int, mark: re.Match[str], end: int) -> bool:
    if mark.group()[0] in "\u3002\uff01\uff1f":
        return True
    if not line[end].isspace():
        # `market.The` was glued when the text was scraped; `3.5`, `bbc.com` and `U.S.` were not.
        before = line[max(start, mark.start() - 2) : mark.start()]
        return (
            mark.group() == "."
            and len(before) == 2
            and before.isalpha()
            and before.islower()
            and line[end : end + 1].isupper()
            and line[end + 1 : end + 2].islower()
        )
    following = end
    while line[following].isspace():
        following += 1
    first = _first_sign(line, following)
    if first.isalpha() and first.islower() and line[following] not in _QUOTES:
        # A small letter starts no sentence. A tokenised full stop stands alone, whatever follows it.
        return mark.group() == "." and line[mark.start() - 1 : mark.start()].isspace()
    return mark.group() != "." or not _is_abbreviation(line, start, mark.start(), following)


def _first_sign(line: str, place: int) -> str:
    """The first sign from a place on that opens nothing; empty at the end."""
    while place < len(line) and line[place] in _SKIPPED:
        place += 1
    return line[place : place + 1]


def _is_abbreviation(line: str, start: int, stop: int, following: int) -> bool:
    """Whether the full stop at `stop` belongs to the word before it; the next word starts at `following`."""
    begin = stop
    while begin > start and not line[begin - 1].isspace():
        begin -= 1
    word = line[begin:stop].lstrip(_OPENERS + _CLOSERS)
    low = word.lower()
    if low in _TITLES or low in _NEVER:
        return True
    first = _first_sign(line, following)
    if low in _SHORT:
        return first.isdigit() or first.islower()
    if len(word) == 1 and word.isalpha() and word.isupper():
        return word != "I"  # an initial: J. Smith
    # U.S. Senate or the U.S. The: only a small word can tell.
    next_word = _WORD.match(line, following)
    return bool(_DOTTED.fullmatch(word[-3:])) and (not next_word or next_word[0] not in _COMMON_STARTS)


_COMMON_STARTS = words_of(
    "The A An In On At It He She They We You I This That These Those But And Or So If When While "
    "As For From By To His Her Their Its There Here After Before However Meanwhile"
)
