"""Local data: mapping files, converters, and every mistake named."""

import ast
import json

import pytest

from eval_harness.errors import UserError
from eval_harness.files.rows import read_rows
from eval_harness.reasoning.converters import arc_original, musr_choices
from eval_harness.reasoning.data import load_mapping, prepare_split, select_rows

from . import tiny


def mapping(folder, text):
    path = folder / "map.yaml"
    path.write_text("version: 1\ntasks:\n" + text)
    return load_mapping(path)


def test_star_fills_file_and_filter(tmp_path):
    tiny.write_rows(tmp_path / "x-anatomy.jsonl", [{"s": "anatomy", "v": 1}, {"s": "law", "v": 2}])
    source = mapping(tmp_path, '  "mmlu_*": {test: {file: "x-{1}.jsonl", where: {s: "{1}"}}}').splits(
        "mmlu_anatomy"
    )
    assert [r["v"] for r in select_rows(source["test"])] == [1]


def test_first_pattern_wins_and_other_tasks_stay_on_the_hub(tmp_path):
    found = mapping(tmp_path, '  a_b: {test: one.jsonl}\n  "a_*": {test: two.jsonl}')
    assert found.splits("a_b")["test"].file.name == "one.jsonl"
    assert found.splits("a_c")["test"].file.name == "two.jsonl"
    assert found.splits("b_a") is None


def test_skip_and_take_slice_in_file_order(tmp_path):
    tiny.write_rows(tmp_path / "x.jsonl.gz", [{"v": i} for i in range(10)])
    source = mapping(tmp_path, "  t: {test: {file: x.jsonl.gz, skip: 3, take: 2}}").splits("t")["test"]
    assert [r["v"] for r in select_rows(source)] == [3, 4]


def test_arc_original_layout_becomes_the_hubs():
    row = {
        "id": "1",
        "question": {"stem": "why", "choices": [{"text": "x", "label": "A"}, {"text": "y", "label": "B"}]},
        "answerKey": "B",
    }
    assert arc_original(row) == {
        "id": "1",
        "question": "why",
        "choices": {"text": ["x", "y"], "label": ["A", "B"]},
        "answerKey": "B",
    }


def test_musr_choices_become_the_text_of_a_list():
    row = musr_choices({"choices": ["it's", 'a "b"']})
    assert ast.literal_eval(row["choices"]) == ["it's", 'a "b"']
    assert musr_choices(row) == row


def test_prepared_file_is_named_by_content_and_holds_the_rows(tmp_path):
    rows = [{"a": "\u2028é", "b": 1}, {"a": "y", "b": 2}]
    tiny.write_rows(tmp_path / "x.jsonl.gz", rows)
    source = mapping(tmp_path, "  t: {test: x.jsonl.gz}").splits("t")["test"]
    first = prepare_split(source, ("a", "b"), "t", tmp_path / "p")
    assert [json.loads(line) for line in first.read_text().split("\n") if line] == rows
    assert prepare_split(source, ("a",), "t", tmp_path / "p") == first
    tiny.write_rows(tmp_path / "x.jsonl.gz", rows[:1])
    assert prepare_split(source, ("a",), "t", tmp_path / "p") != first


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  t: {test: {file: x.jsonl, wher: {}}}", "wher.*where"),
        ("  t: {test: {convert: arc_original}}", "file"),
        ("  t: {test: {file: x.jsonl, convert: arc_orignal}}", "arc_original"),
    ],
)
def test_mistakes_in_a_mapping_are_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        mapping(tmp_path, text)


@pytest.mark.parametrize(
    "text", ["version: 2\ntasks: {}", "- 1", "version: 1", "version: 1\ntasks: {}\nrots: x", "a: [1"]
)
def test_files_that_are_no_mapping_are_refused(tmp_path, text):
    (tmp_path / "m.yaml").write_text(text)
    with pytest.raises(UserError, match="data mapping"):
        load_mapping(tmp_path / "m.yaml")
    with pytest.raises(UserError, match="no such data mapping"):
        load_mapping(tmp_path / "none.yaml")


def test_broken_rows_are_located(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": \n')
    with pytest.raises(UserError, match=r"x.jsonl, line 2"):
        read_rows(tmp_path / "x.jsonl")
    whole = tiny.write_rows(tmp_path / "x.jsonl.gz", [{"a": "text " * 500}] * 50).read_bytes()
    (tmp_path / "x.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="unreadable data file"):
        list(read_rows(tmp_path / "x.jsonl.gz"))
    (tmp_path / "y.jsonl.gz").write_text("no gzip")
    with pytest.raises(UserError, match="unreadable data file"):
        list(read_rows(tmp_path / "y.jsonl.gz"))


def test_a_row_without_a_column_is_named(tmp_path):
    tiny.write_rows(tmp_path / "x.jsonl", [{"a": 1, "b": 1}, {"a": 1}])
    source = mapping(tmp_path, "  t: {test: x.jsonl}").splits("t")["test"]
    with pytest.raises(UserError, match=r"row 2.*missing \['b'\]"):
        prepare_split(source, ("a", "b"), "t", tmp_path)
    filtered = mapping(tmp_path, "  t: {test: {file: x.jsonl, where: {c: 1}}}").splits("t")["test"]
    with pytest.raises(UserError, match=r"wrong columns.*expected: c"):
        select_rows(filtered)
