"""The demo's language: sampler and posterior agree, and the measures are what they claim."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import pytest

from sparsepo_plugin.demo import grammar
from sparsepo_plugin.demo.language import (
    BAD,
    GOOD,
    POLARITY,
    Pair,
    attainable_auc,
    auc,
    entropy_floor,
    generate_pairs,
    planted_posterior,
    read_jsonl,
    vocabulary,
    write_jsonl,
)


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return generate_pairs(2000, seed=7)


def _rows(pairs: list[Pair]) -> list[tuple[str, list[str], tuple[bool, ...]]]:
    return [
        (pair.prompt, response.split(), flags)
        for pair in pairs
        for response, flags in ((pair.chosen, pair.chosen_planted), (pair.rejected, pair.rejected_planted))
    ]


def test_seed_fixes_the_pairs_and_count_only_appends() -> None:
    state = random.getstate()
    assert generate_pairs(20, seed=3) == generate_pairs(30, seed=3)[:20]
    assert random.getstate() == state
    assert generate_pairs(20, seed=3) != generate_pairs(20, seed=4)
    with pytest.raises(ValueError, match="seed -1"):
        generate_pairs(1, seed=-1)


def test_classes_share_no_word_and_cover_the_vocabulary(pairs: list[Pair]) -> None:
    words = vocabulary()
    assert len(words) == len(set(words))
    assert 180 <= len(words) <= 200
    used = {word for prompt, response, _ in _rows(pairs) for word in (*prompt.split(), *response)}
    assert used == set(words)


def test_grammar_rows_are_distributions_whose_successors_differ_in_class() -> None:
    for state, (_, rate, row) in grammar.GRAMMAR.items():
        assert math.isclose(sum(row.values()), 1.0), state
        classes = [grammar.GRAMMAR[after][0] for after in row if after != grammar.END]
        assert len(classes) == len(set(classes)), f"words after {state} do not reveal the state"
        assert 0 <= rate * max(grammar.CANDOUR.values()) < 1
        if grammar.END in row:  # else the posterior would have to condition on the word's existence
            assert not any(grammar.GRAMMAR[after][1] for after in row if after != grammar.END)


def test_responses_keep_their_shape(pairs: list[Pair]) -> None:
    lengths = {len(words) for _, words, _ in _rows(pairs)}
    assert (min(lengths), max(lengths)) == (grammar.MIN_WORDS, grammar.MAX_WORDS)
    for pair in pairs[:200]:
        assert pair.prompt == pair.prompt.strip()
        for text, flags in ((pair.chosen, pair.chosen_planted), (pair.rejected, pair.rejected_planted)):
            assert text == " " + " ".join(text.split())
            assert len(flags) == len(text.split())
            assert text[-1] in ".!"


def test_flags_mark_exactly_the_polar_words(pairs: list[Pair]) -> None:
    for _, words, flags in _rows(pairs):
        assert flags == tuple(word in GOOD + BAD for word in words)


def test_planted_words_follow_the_preference_with_the_stated_probability(pairs: list[Pair]) -> None:
    chosen = [word in GOOD for pair in pairs for word in pair.chosen.split() if word in GOOD + BAD]
    rejected = [word in BAD for pair in pairs for word in pair.rejected.split() if word in GOOD + BAD]
    for hits in (chosen, rejected):
        assert sum(hits) / len(hits) == pytest.approx(POLARITY, abs=4 * math.sqrt(0.13 / len(hits)))


def test_sides_differ_in_ordinary_words_but_not_in_distribution(pairs: list[Pair]) -> None:
    counts = [Counter(w for words in side for w in words.split() if w not in GOOD + BAD)
              for side in ([p.chosen for p in pairs], [p.rejected for p in pairs])]  # fmt: skip
    totals = [sum(count.values()) for count in counts]
    distance = sum(abs(counts[0][w] / totals[0] - counts[1][w] / totals[1]) for w in vocabulary()) / 2
    assert distance < 0.03
    overlap = [
        len(set(p.chosen.split()) & set(p.rejected.split())) / len(set(p.chosen.split())) for p in pairs
    ]
    assert sum(overlap) / len(overlap) < 0.6


def test_planted_share_is_in_range(pairs: list[Pair]) -> None:
    flags = [flag for _, _, row in _rows(pairs) for flag in row]
    assert 0.06 < sum(flags) / len(flags) < 0.12


def test_posterior_is_calibrated_also_near_the_length_limit(pairs: list[Pair]) -> None:
    bins: dict[tuple[float, bool], list[tuple[float, bool]]] = {}
    for prompt, words, flags in _rows(pairs):
        for position, (value, flag) in enumerate(zip(planted_posterior(prompt, words), flags, strict=True)):
            late = position >= grammar.MAX_WORDS - 6
            bins.setdefault((round(value, 1 if late else 2), late), []).append((value, flag))
    for key, items in bins.items():
        expected = sum(value for value, _ in items)
        spread = math.sqrt(sum(value * (1 - value) for value, _ in items))
        assert sum(flag for _, flag in items) == pytest.approx(expected, abs=4 * spread + 1e-9), key
    large = [key for key, items in bins.items() if len(items) >= 100]
    assert sum(value > 0 for value, late in large if not late) >= 8, "too few bins to mean anything"
    assert sum(value > 0 for value, late in large if late) >= 2, "too few bins near the limit"


def test_length_limit_changes_the_posterior() -> None:
    opening = ["the", "cook", "is", "new", "."] * 6
    words = [*opening, "the", "cook", "is"]
    free, limited = planted_posterior("describe one kitchen scene :", [*words, "new"])[3::30]
    # The last "is" is word 33 of 36. A preposition would need two words more and a stop, which no longer fit.
    assert free == pytest.approx(0.45 * 0.6 * 0.9)
    assert limited == pytest.approx(0.45 / 0.75 * 0.6 * 0.9)


def test_posterior_reads_only_the_prefix(pairs: list[Pair]) -> None:
    for prompt, words, _ in _rows(pairs[:20]):
        whole = planted_posterior(prompt, words)
        for length in range(1, len(words) + 1):
            assert planted_posterior(prompt, words[:length]) == whole[:length]


def test_posterior_by_hand() -> None:
    # "the" opens; then a person (.55) or a modifier (.45), planted with .35 * 1.4 after "review".
    row = planted_posterior("review one stage scene :", ["the", "superb"])
    assert row == pytest.approx([0.0, 0.45 * 0.35 * 1.4])


@pytest.mark.parametrize(
    ("prompt", "words"),
    [("sing one stage scene :", ["the"]), ("review one stage scene :", ["the", "is"]), ("", [])],
)
def test_posterior_rejects_what_the_language_cannot_say(prompt: str, words: list[str]) -> None:
    with pytest.raises(ValueError, match="expected"):
        planted_posterior(prompt, words)


def test_auc_matches_brute_force() -> None:
    rng = random.Random(0)
    for _ in range(20):
        scores = [rng.choice([0.0, 0.1, 0.1, 0.5, 2.0]) for _ in range(30)]
        labels = [rng.random() < 0.3 for _ in range(30)]
        above = [s for s, label in zip(scores, labels, strict=True) if label]
        below = [s for s, label in zip(scores, labels, strict=True) if not label]
        wins = sum((a > b) + 0.5 * (a == b) for a, b in itertools.product(above, below))
        assert auc(scores, labels) == pytest.approx(wins / (len(above) * len(below)))


def test_auc_without_a_class_is_nan_and_lengths_must_match() -> None:
    assert math.isnan(auc([1.0, 2.0], [True, True]))
    assert math.isnan(auc([], []))
    with pytest.raises(ValueError, match="2 scores for 1 labels"):
        auc([1.0, 2.0], [True])


def test_attainable_auc_is_not_trivial_and_beats_simpler_readers(pairs: list[Pair]) -> None:
    best = attainable_auc(pairs)
    assert 0.75 < best < 0.97
    labels = [flag for row in _rows(pairs) for flag in row[2]]
    by_position: dict[int, list[bool]] = {}
    by_word_before: dict[str, list[bool]] = {}
    for _, words, flags in _rows(pairs):
        for position, (before, flag) in enumerate(zip(["", *words], flags, strict=False)):
            by_position.setdefault(position, []).append(flag)
            by_word_before.setdefault(before, []).append(flag)
    position_score = [
        sum(by_position[i]) / len(by_position[i]) for _, _, f in _rows(pairs) for i in range(len(f))
    ]
    word_score = [
        sum(by_word_before[b]) / len(by_word_before[b]) for _, w, _ in _rows(pairs) for b in ("", *w[:-1])
    ]
    rng = random.Random(1)
    assert auc([rng.random() for _ in labels], labels) == pytest.approx(0.5, abs=0.02)
    assert auc(position_score, labels) < best - 0.2  # fitted on these very labels, and still far below
    assert auc(word_score, labels) < best - 0.003


def test_entropy_floor_is_the_mean_log_probability_of_the_sampler() -> None:
    # 15 words and the end. The first stop is too early to end at, so .43 of its row is scaled by 1 / .55.
    text = " the cook is superb . the cook is superb while the cook is superb ."
    pair = Pair("recall one kitchen scene :", text, text, (), ())
    rank = [(r + 1) ** -0.5 for r in range(8)]
    the, link, conj, stop = rank[0] / sum(rank), 1 / sum(rank[:5]), rank[1] / sum(rank[:3]), 1 / sum(rank[:2])
    clause = the * 0.55 * (0.2 / 24 + 0.8 / 4) * 0.45 * link * 0.45 * (0.6 * 0.6 / 8)
    grammar_steps = 0.8 * (0.65 * stop) * (0.43 / 0.55) * (0.15 * conj) * (0.65 * stop) * 0.45
    polarity = (POLARITY**3 + (1 - POLARITY) ** 3) / 2  # all three good: the reader does not know the side
    assert entropy_floor([pair]) == pytest.approx(-math.log(clause**3 * grammar_steps * polarity) / 16)


def test_entropy_floor_wants_whole_responses() -> None:
    with pytest.raises(ValueError, match="cannot end here"):
        entropy_floor([Pair("recall one kitchen scene :", " the cook", " the cook", (), ())])
    assert math.isnan(entropy_floor([]))


def test_jsonl_round_trip_leaves_no_scratch_file(tmp_path: Path, pairs: list[Pair]) -> None:
    path = tmp_path / "new" / "pairs.jsonl"
    for count in (30, 20):
        write_jsonl(pairs[:count], path)
    assert read_jsonl(path) == pairs[:20]
    assert [entry.name for entry in path.parent.iterdir()] == ["pairs.jsonl"]


def test_failed_write_keeps_the_old_file(
    tmp_path: Path, pairs: list[Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "pairs.jsonl"
    write_jsonl(pairs[:2], path)
    monkeypatch.setattr("os.replace", Mock(side_effect=OSError("full")))
    with pytest.raises(OSError, match="full"):
        write_jsonl(pairs[:5], path)
    assert read_jsonl(path) == pairs[:2]
    assert [entry.name for entry in tmp_path.iterdir()] == ["pairs.jsonl"]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        '{"prompt": "p"}',
        '{"prompt": "p", "chosen": " a b", "rejected": " a", "chosen_planted": [true],'
        ' "rejected_planted": [true]}',
    ],
)
def test_bad_line_is_named(tmp_path: Path, line: str, pairs: list[Pair]) -> None:
    path = tmp_path / "pairs.jsonl"
    write_jsonl(pairs[:1], path)
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ValueError, match="line 2"):
        read_jsonl(path)
