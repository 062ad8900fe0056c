"""The answer store and the journal, without any model."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval_harness.models.answer_cache import AnswerCache
from eval_harness.models.answer_store import AnswerStore, entry_key
from eval_harness.types import NO_ANSWER

text = st.text(max_size=6)
parts = st.tuples(
    text, text, text, st.sampled_from(["loglikelihood", "generate_until"]), st.lists(text, max_size=2)
)


def request(*args, task="t"):
    return SimpleNamespace(args=args, task_name=task)


@pytest.fixture
def store(tmp_path):
    opened = AnswerStore(tmp_path / "s.sqlite")
    yield opened
    opened.close()


@given(parts, parts)
def test_keys_are_equal_only_where_every_part_is(one, two):
    assert (entry_key(*one) == entry_key(*two)) == (one == two)


def test_values_round_trip_exactly_and_the_first_stays(store, tmp_path):
    values = {"a": [-1.2345678901234567e-5, True], "b": "text \u2028", "c": None}
    store.write(values)
    store.write({"a": "other"})
    again = AnswerStore(tmp_path / "s.sqlite")
    assert again.read(["a", "b", "c", "d"]) == values
    assert len(again) == 3
    again.close()


def test_a_failed_batch_leaves_nothing(store):
    with pytest.raises(TypeError):
        store.write({"a": 1, "b": object()})
    assert len(store) == 0


def test_more_keys_than_one_statement_takes(store):
    store.write({str(i): i for i in range(1200)})
    assert len(store.read([str(i) for i in range(1300)])) == 1200


def test_only_missing_requests_are_asked(store):
    journal = AnswerCache(store, "n", {"t": "1"})
    asked = []

    def ask(requests):
        asked.extend(r.args for r in requests)
        return [(len(r.args[0]) * -1.0, True) for r in requests]

    journal.answer("loglikelihood", [request("a", "x"), request("bb", "x")], ask, 0)
    found = journal.answer(
        "loglikelihood", [request("bb", "x"), request("ccc", "x"), request("a", "x")], ask, 0
    )
    assert found == [(-2.0, True), (-3.0, True), (-1.0, True)]
    assert asked == [("a", "x"), ("bb", "x"), ("ccc", "x")]
    assert journal.counts["computed"] == 3
    assert journal.counts["reused"] == 2


def test_identical_requests_are_counted_apart(store):
    journal = AnswerCache(store, "n", {})
    answers = iter(["one", "two", "three"])
    same = [request("p", {"do_sample": True})] * 2
    ask = lambda requests: [next(answers) for _ in requests]  # noqa: E731
    assert journal.answer("generate_until", same, ask, 0) == ["one", "two"]
    assert journal.answer("generate_until", [*same, same[0]], ask, 0) == ["one", "two", "three"]


def test_task_version_and_namespace_separate(store):
    calls = []

    def ask(requests):
        calls.append(len(requests))
        return ["x" for _ in requests]

    for space, version in (("n", "1"), ("n", "2"), ("m", "1"), ("n", "1")):
        AnswerCache(store, space, {"t": version}).answer("generate_until", [request("p", {})], ask, 0)
    assert calls == [1, 1, 1]


def test_batches_are_stored_as_they_finish_and_a_crash_keeps_them(store):
    journal = AnswerCache(store, "n", {})
    requests = [request(f"p{i}", {"until": []}) for i in range(6)]

    def crash(part):
        for batch in (part[:2], part[2:4]):
            journal.commit()  # what the engine does when a batch starts
            for r in batch:
                # vllm reports changed settings: only the prompt identifies the request
                journal.add_partial("generate_until", (r.args[0], {"until": ["</s>"]}), r.args[0].upper())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        journal.answer("generate_until", requests, crash, 0)
    assert len(store) == 2  # the second batch was still open
    seen = []
    ask = lambda part: [seen.append(r.args[0]) or r.args[0].upper() for r in part]  # noqa: E731
    assert AnswerCache(store, "n", {}).answer("generate_until", requests, ask, 0) == [
        f"P{i}" for i in range(6)
    ]
    assert seen == ["p2", "p3", "p4", "p5"]


def test_pieces_bound_what_a_crash_loses(store):
    journal, sizes = AnswerCache(store, "n", {}), []

    def ask(part):
        sizes.append(len(part))
        if len(sizes) == 3:
            raise KeyboardInterrupt
        return ["x"] * len(part)

    with pytest.raises(KeyboardInterrupt):
        journal.answer("generate_until", [request(f"p{i}", {}) for i in range(10)], ask, 4)
    assert sizes == [4, 4, 2]
    assert len(store) == 8


def test_failed_answers_are_not_kept(store):
    journal = AnswerCache(store, "n", {}, each=True)

    def ask(part):
        journal.add_partial("generate_until", part[0].args, NO_ANSWER)
        return [NO_ANSWER]

    assert journal.answer("generate_until", [request("p", {})], ask, 0) == [NO_ANSWER]
    assert len(store) == 0
    assert journal.counts["failed"] == 1


def test_one_prompt_under_two_settings_waits_for_the_end(store):
    journal = AnswerCache(store, "n", {})
    requests = [request("p", {"max_gen_toks": 1}), request("p", {"max_gen_toks": 2})]

    def ask(part):
        journal.add_partial("generate_until", ("p", {"other": 1}), "wrong")
        return ["one", "two"]

    assert journal.answer("generate_until", requests, ask, 0) == ["one", "two"]
    assert AnswerCache(store, "n", {}).answer("generate_until", requests, ask, 0) == ["one", "two"]
