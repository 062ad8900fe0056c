"""The sentence splitter: by rule, nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval_harness.faithfulness.text.sentences import split_sentences


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
