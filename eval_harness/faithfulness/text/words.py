"""Words, names, numbers and n-grams of a text, by rule.

A word of any script is letters with their marks, without which Hindi or Arabic falls apart; in scripts that
set no spaces every character is a word.
"""

import functools
import itertools
import re
from collections import Counter
from collections.abc import Sequence

import regex

from eval_harness.faithfulness.text.sentences import split_sentences, words_of

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
_LETTERS = rf"(?:[[\p{{L}}\p{{Nl}}\p{{No}}]--[{_UNSPACED}]]\p{{M}}*)+"
_SIGN = rf"[[{_UNSPACED}]&&\p{{L}}]\p{{M}}*"
_TOKEN = regex.compile(
    rf"\d+(?:[.,:]\d+)*|{_SIGN}|{_LETTERS}(?:[-'\u2019]{_LETTERS})*", regex.VERSION1 | regex.UNICODE
)
_RUN = regex.compile(rf"{_SIGN}|(?:[[\p{{L}}\p{{N}}]--[{_UNSPACED}]]\p{{M}}*)+", regex.VERSION1)
_SIGNS = regex.compile(_SIGN, regex.VERSION1)
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")

# Function words and verbs of reporting: never a name, whatever the case of the text.
STOP_WORDS = words_of(
    "a about above after again against all almost along already also although always am among an "
    "and another any are aren't around as at away back be became because become been before "
    "behind being below between both but by came can can't cannot come could couldn't did didn't "
    "do does doesn't doing don't done down during each either else end enough even ever every few "
    "first for former found from further gave get gets getting give given go goes going gone got "
    "had hadn't has hasn't have haven't having he he's her here hers herself him himself his how "
    "however i i'm if in including into is isn't it it's its itself just last later least less "
    "like made make makes making many may me might mine more most much must my myself near never "
    "new next no nor not now of off often old on once one only or other others our ours ourselves "
    "out over own part per put said same saw say saying says see seen set several shall she she's "
    "should shouldn't since so some someone something still such take taken takes tell than that "
    "that's the their theirs them themselves then there there's these they they're this those "
    "though through time to told too took toward towards under until up upon us use used using "
    "very want wanted was wasn't way we we're went were weren't what when where whether which "
    "while who who's whom whose why will with within without won't would wouldn't yet you you're "
    "your yours yourself n't 's 'll 're 've 'd"
)
_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
)
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
NUMBER_WORDS = {word: float(value) for value, word in enumerate(_SMALL)}
NUMBER_WORDS |= {word: 10.0 * number for number, word in enumerate(_TENS, 2)}
NUMBER_WORDS |= {
    f"{ten}-{one}": 10.0 * (t + 2) + o for t, ten in enumerate(_TENS) for o, one in enumerate(_SMALL[1:10], 1)
}
_SCALES = {"hundred": 1e2, "thousand": 1e3, "million": 1e6, "billion": 1e9, "trillion": 1e12}
_SCALES |= {"k": 1e3, "m": 1e6, "bn": 1e9, "tn": 1e12}


def is_function_word(word: str) -> bool:
    """Whether a word, in any case, is one of STOP_WORDS or one's contraction (I'll, they've)."""
    plain = word.lower().replace("\u2019", "'")
    return plain in STOP_WORDS or plain.partition("'")[0] in STOP_WORDS


def tokens(text: str) -> list[str]:
    """Words and numbers in order, as written; possessive endings are cut off."""
    return [re.sub(r"['\u2019]s?$", "", token) for token in _TOKEN.findall(text)]


def words(text: str) -> list[str]:
    """Lower-cased tokens."""
    return [token.lower() for token in tokens(text)]


@functools.lru_cache(maxsize=1024)
def content_words(text: str) -> frozenset[str]:
    """Distinct words that are no function words of English."""
    return frozenset(word for word in words(text) if not is_function_word(word))


def says_nothing(text: str, document: str) -> bool:
    """Whether a text shares no word of content with the document."""
    return content_words(document).isdisjoint(content_words(text))


def runs(text: str) -> list[str]:
    """Lower-cased runs of letters and digits: of a text in ASCII the tokens of the rouge-score package."""
    return [str(run) for run in _RUN.findall(text.lower())]


def share_of_letters(text: str, *, ascii_only: bool) -> float:
    """Share of the letters that are ASCII, or else of scripts with spaces; 1 for a text without letters."""
    letters = sum(map(str.isalpha, text))
    if not letters:
        return 1.0
    kept = sum(sign.isascii() and sign.isalpha() for sign in text)
    return (kept if ascii_only else letters - len(_SIGNS.findall(text))) / letters


def ngrams(items: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    """Counts of the n-grams of a token list."""
    return Counter(tuple(items[i : i + order]) for i in range(len(items) - order + 1))


def numbers(text: str) -> list[float]:
    """Numbers in order: digits (1,000 and 1.5m), number words, and both with a scale (three million).

    One in words is left out: it is rarely a count.
    """
    values: list[float] = []
    pieces = re.findall(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:-[^\W\d_]+)*", text.lower())
    scaled = False
    for piece, following in itertools.zip_longest(pieces, pieces[1:], fillvalue=""):
        value, scale = _value(piece), _SCALES.get(following)
        if scaled or value is None:
            scaled = False
        elif scale is not None:
            values.append(value * scale)
            scaled = True
        elif piece != "one":
            values.append(value)
    return values


def _value(piece: str) -> float | None:
    if not _NUMBER.fullmatch(piece):
        return NUMBER_WORDS.get(piece)
    plain = re.sub(r",(?=\d{3}(?:\D|$))", "", piece)
    try:
        return float(plain)
    except ValueError:  # 1.2.3 or 10,5: a version or a score; its digits are compared as they stand
        return float(re.sub(r"\D", "", plain))


def names(sentences: Sequence[str], caseless: bool) -> list[list[str]]:
    """What may be a name, per sentence: runs of capitalised words, lower-cased, in order.

    The first word of a sentence counts only within a run (`Anna Smith is`) or if it stands capitalised inside
    some sentence too. In a caseless text every word counts that is no stop word and no number.
    """
    split = [tokens(sentence) for sentence in sentences]
    if caseless:
        return [[w.lower() for w in s if not is_function_word(w) and not w[0].isdigit()] for s in split]
    inside = _inner_capitals(split)
    return [_runs(sentence, inside) for sentence in split]


def is_caseless(summary: Sequence[str], document: str) -> bool:
    """Whether a summary (its sentences) was lower-cased, so that names cannot be told by capitals.

    True without a capital inside its sentences, if it has none at all, if the document has none either, or if
    it writes a word small that the document writes only with a capital.
    """
    ours = [tokens(sentence) for sentence in summary]
    if _inner_capitals(ours):
        return False
    theirs = [tokens(sentence) for sentence in split_sentences(document)]
    capitals = {word.lower() for word in _inner_capitals(theirs)}
    if not capitals or not any(word[:1].isupper() for sentence in ours for word in sentence):
        return True
    small = {word for sentence in theirs for word in sentence if word.islower()}
    return any(word in capitals - small for sentence in ours for word in sentence)


def _inner_capitals(sentences: Sequence[Sequence[str]]) -> set[str]:
    return {word for sentence in sentences for word in sentence[1:] if _capital(word)}


def _capital(word: str) -> bool:
    return word[:1].isupper() and not is_function_word(word)


def _runs(sentence: list[str], inside: set[str]) -> list[str]:
    runs: list[str] = []
    run: list[str] = []
    for number, word in enumerate([*sentence, ""]):
        starts = number == 0 and word not in inside and not _capital((sentence[1:2] or [""])[0])
        if _capital(word) and not starts:
            run.append(word.lower())
        elif run:
            runs.append(" ".join(run))
            run = []
    return runs


def known(name: str, document: set[str]) -> bool:
    """Whether every word of a name is in the document, in singular or plural."""
    return all(_seen(word, document) for word in name.split())


def _seen(word: str, document: set[str]) -> bool:
    if word in document:
        return True
    if len(word) > 3 and (word.removesuffix("s") in document or f"{word}s" in document):
        return True
    return "-" in word and all(part in document for part in word.split("-") if part)


def nearest(sentence: str, document_sentences: Sequence[str]) -> str:
    """The document sentence that shares most words with a sentence; the first of equals, empty of none."""
    content = content_words(sentence)
    shared = [len(content & set(words(other))) for other in document_sentences]
    return document_sentences[shared.index(max(shared))] if shared else ""
