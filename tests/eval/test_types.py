import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eval_harness.run.folder import parse_result, read_items, read_result, write_run
from eval_harness.types import SCHEMA_VERSION, ItemRecord, ModelIdentity, Score, SuiteResult, parse, plain

text = st.text(max_size=12)
scores = st.builds(
    Score,
    task=text,
    metric=text,
    value=st.floats(0, 1),
    stderr=st.none() | st.floats(0, 1),
    n=st.integers(0, 9),
    comparable=st.booleans(),
    main=st.booleans(),
    is_group=st.booleans(),
    notes=st.lists(text, max_size=2).map(tuple),
)
identities = st.builds(ModelIdentity, kind=text, label=text, weights=text, tokenizer=text)
results = st.builds(
    SuiteResult,
    suite=text,
    preset=text,
    preset_version=st.integers(1, 9),
    key=text,
    model=identities,
    scores=st.lists(scores, max_size=3).map(tuple),
    settings=st.dictionaries(text, st.integers()),
    seeds=st.dictionaries(text, st.integers()),
    versions=st.dictionaries(text, text),
    environment=st.dictionaries(text, text),
    counts=st.dictionaries(text, st.integers()),
    comparable=st.booleans(),
    notes=st.lists(text, max_size=2).map(tuple),
    schema_version=st.just(SCHEMA_VERSION),
)
items = st.builds(
    ItemRecord,
    task=text,
    doc_id=st.integers(0, 99),
    prompt_hash=text,
    doc_hash=text,
    cluster=text,
    metrics=st.dictionaries(text, st.floats(0, 1) | st.lists(st.booleans())),
    outputs=st.lists(text),
    target=text,
    prompt=text,
)


@given(results)
def test_result_survives_json(result):
    assert parse_result(json.loads(json.dumps(plain(result)))) == result


@given(items)
def test_item_survives_json(item):
    assert parse(ItemRecord, json.loads(json.dumps(plain(item)))) == item


@pytest.fixture
def result():
    return SuiteResult(
        "reasoning",
        "quick",
        1,
        "k",
        ModelIdentity("hf", "m", "w", "t"),
        (Score("t", "acc,none", 0.5, None, 4),),
        {},
        {},
        {},
        {},
        {},
        True,
    )


def test_another_schema_version_is_refused(result):
    with pytest.raises(ValueError, match="schema_version"):
        parse_result({**plain(result), "schema_version": SCHEMA_VERSION + 1})


def test_unknown_and_missing_keys_are_named(result):
    with pytest.raises(ValueError, match="surprise"):
        parse_result({**plain(result), "surprise": 1})
    data = plain(result)
    del data["suite"]
    with pytest.raises(ValueError, match="suite"):
        parse_result(data)


def test_run_folder_round_trip(result, tmp_path):
    record = ItemRecord("t", 0, "p", "d", "c", {"acc,none": 1.0}, [[-1.5, True]], "0", "prompt \u2028 line")
    write_run(tmp_path, result, [record, record])
    assert read_result(tmp_path) == result
    assert read_items(tmp_path) == [record, record]


def test_score_lookup_names_what_there_is(result):
    assert result.score("t", "acc,none").value == 0.5
    with pytest.raises(KeyError, match="acc,none"):
        result.score("t", "acc")
