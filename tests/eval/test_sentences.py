"""The sentence splitter: by rule, nothing lost."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval_harness.faithfulness.text.sentences import split_sentences

from . import naive_sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rained. We left.", ["It rained.", "We left."]),
        (
            "Mr. Smith met Dr. J. K. Lee on Jan. 5. He paid $3.5 million.",
            ["Mr. Smith met Dr. J. K. Lee on Jan. 5.", "He paid $3.5 million."],
        ),
        ("He likes U.S. policy. The U.S. The end.", ["He likes U.S. policy.", "The U.S.", "The end."]),
        ('"It\'s over!" she said. What? No. 5 won.', ['"It\'s over!" she said.', "What?", "No. 5 won."]),
        ("Use e.g. Apples, cf. Pears. Then stop.", ["Use e.g. Apples, cf. Pears.", "Then stop."]),
        (
            "the u.s. senate met . he said so . '' she left",
            ["the u.s. senate met .", "he said so . ''", "she left"],
        ),
        ("said sources.The deal is off.", ["said sources.", "The deal is off."]),
        ("See bbc.com or 3.5 or v1.2.3 for more.", ["See bbc.com or 3.5 or v1.2.3 for more."]),
        (
            "He waited... and left. I did. So did I. Me too.",
            ["He waited... and left.", "I did.", "So did I.", "Me too."],
        ),
        ("Title without stop\nBody text. More", ["Title without stop", "Body text.", "More"]),
        (
            "It ended at 5 p.m. Then it rained (a lot!). Yes.",
            ["It ended at 5 p.m.", "Then it rained (a lot!).", "Yes."],
        ),
        ("\u4f60\u597d\u3002\u518d\u89c1\uff01", ["\u4f60\u597d\u3002", "\u518d\u89c1\uff01"]),
        ("", []),
        (" \n\t ", []),
        ("...", ["..."]),
    ],
)
def test_splits(text, expected):
    assert split_sentences(text) == expected


@given(st.text(alphabet="aB .!?\n\"'5\u3002(", max_size=60))
def test_nothing_is_lost_and_nothing_is_empty(text):
    found = split_sentences(text)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(sentence.strip() == sentence and sentence for sentence in found)


@given(st.lists(st.sampled_from(["Anna left.", "Who came?", "It cost 3.5 pounds!"]), max_size=8))
def test_plain_sentences_come_back(sentences):
    assert split_sentences(" ".join(sentences)) == sentences


PIECES = [
    *"aBcI .!?\n\"'5\u3002()\u2026\u201d\u2019\u201c`-\u00a0\t*",
    "Mr",
    "U.S",
    "e.g",
    "The ",
    "'' ",
    "No",
    "p.m",
    ". ",
    "J. ",
]


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40).map("".join))
def test_the_splits_are_those_of_the_plain_rules(text):
    assert split_sentences(text) == naive_sentences.split_sentences(text)


@pytest.mark.parametrize(
    "text",
    [
        "Anna left. " * 32000,
        "Mr. " * 32000,
        "a.b" * 64000,
        "a." * 64000 + "bb. X",
        "J. K. " * 16000,
        ".)" * 50000,
        "a . b " * 32000,
        ". ((( " * 20000,
        "e.g. " + " " * 100000 + "X",
    ],
    ids=["sentences", "titles", "no spaces", "dots", "initials", "closers", "tokens", "openers", "blanks"],
)
def test_a_line_of_any_length_is_split_in_linear_time(text):
    started = time.process_time()
    split_sentences(text)
    assert time.process_time() - started < 1.0  # copying at every mark took 3 to 8 s
