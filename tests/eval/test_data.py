"""Local data: mapping files, converters, and every mistake named."""

import ast
import gzip
import json

import pytest

from eval_harness.errors import UserError
from eval_harness.files.rows import read_rows
from eval_harness.reasoning.converters import arc_original, musr_choices
from eval_harness.reasoning.data import load_mapping
from eval_harness.reasoning.prepared import prepare_splits, select_rows

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
    source = mapping(tmp_path, "  t: {test: x.jsonl.gz}").splits("t")
    first = prepare_splits(source, ("a", "b"), "t", tmp_path / "p")["test"]
    assert [json.loads(line) for line in first.read_text().split("\n") if line] == rows
    assert prepare_splits(source, ("a",), "t", tmp_path / "p")["test"] == first
    tiny.write_rows(tmp_path / "x.jsonl.gz", rows[:1])
    assert prepare_splits(source, ("a",), "t", tmp_path / "p")["test"] != first


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


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz"])
def test_a_byte_order_mark_is_not_text(name, tmp_path):
    raw = '{"id": "é"}\r\n{"id": "b"}\r\n'.encode("utf-8-sig")
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert read_rows(tmp_path / name) == [{"id": "é"}, {"id": "b"}]


def test_a_row_without_a_column_is_named(tmp_path):
    tiny.write_rows(tmp_path / "x.jsonl", [{"a": 1, "b": 1}, {"a": 1}])
    source = mapping(tmp_path, "  t: {test: x.jsonl}").splits("t")
    with pytest.raises(UserError, match=r"row 2.*missing \['b'\]"):
        prepare_splits(source, ("a", "b"), "t", tmp_path)
    filtered = mapping(tmp_path, "  t: {test: {file: x.jsonl, where: {c: 1}}}").splits("t")["test"]
    with pytest.raises(UserError, match=r"wrong columns.*expected: c"):
        select_rows(filtered)


DATES = ["2024-01-02", "2023-12-31", "1999-05-06", "2020-02-29"]
MIXED = ["2024-01-02T03:04:05Z", "2024-01-02 03:04", "2024-01-02T03:04:05.678+01:00", "2024-01-02"]


@pytest.mark.parametrize("texts", [DATES, MIXED, [*DATES[:3], "no date"]])
def test_texts_that_look_like_dates_stay_texts(tmp_path, texts):
    """As `datasets` will read them: in columns, lists and objects."""
    import datasets

    rows = [{"input": t, "nested": {"x": [t], "n": n}, "one": 1.5} for n, t in enumerate(texts)]
    tiny.write_rows(tmp_path / "x.jsonl", rows)
    tiny.write_rows(tmp_path / "y.jsonl", [{"input": "text", "nested": {"x": [], "n": 1}, "more": True}])
    splits = mapping(tmp_path, "  t: {test: x.jsonl, train: y.jsonl}").splits("t")
    files = prepare_splits(splits, ("input",), "t", tmp_path / "p")
    assert {path.suffix for path in files.values()} == {".parquet"}
    loaded = datasets.load_dataset("parquet", data_files={k: str(v) for k, v in files.items()})
    assert [{k: row[k] for k in rows[0]} for row in loaded["test"]] == rows
    assert loaded["train"][0]["more"] is True
    assert prepare_splits(splits, ("input",), "t", tmp_path / "p") == files


def test_dates_reach_prompt_and_target_as_they_are(cli, model_a, data, tmp_path):
    import shutil

    from eval_harness.run.folder import read_items

    from .conftest import BBH

    shutil.copytree(data.parent, tmp_path / "data")
    rows = [{"input": f"{DATES[0]}", "target": date} for date in (DATES * 2)]
    tiny.write_rows(tmp_path / "data/bbh/boolean_expressions.jsonl.gz", rows)
    text = (tmp_path / "data/data.yaml").read_text()
    gsm = [{"question": DATES[0], "answer": f"{d}\n#### 5"} for d in DATES] * 4
    tiny.write_rows(tmp_path / "data/gsm.jsonl", [*gsm, {"question": DATES[1], "answer": DATES[2]}])
    (tmp_path / "data/data.yaml").write_text(text)
    args = ["--model", model_a, "--suites", "reasoning:quick", "--tasks", f"gsm8k,{BBH}", "--limit", "4"]
    args += ["--generation", "max_gen_toks=4", "--dtype", "float32"]
    assert cli(*args, mapping=tmp_path / "data/data.yaml") == 0
    for item in read_items(tmp_path / "out"):
        assert "00:00:00" not in item.prompt + item.target
        assert DATES[0] in item.prompt


def test_columns_of_several_types_beside_dates_are_one_line(tmp_path):
    tiny.write_rows(tmp_path / "x.jsonl", [{"a": DATES[0], "b": 1}, {"a": "x", "b": "one"}])
    splits = mapping(tmp_path, "  t: {test: x.jsonl}").splits("t")
    with pytest.raises(UserError, match="several types"):
        prepare_splits(splits, ("a",), "t", tmp_path / "p")


def test_dates_and_times_in_a_mapping_are_texts(tmp_path):
    rows = [{"d": "2024-01-02", "t": "12:30:00"}, {"d": "2024-01-03", "t": "1"}]
    tiny.write_rows(tmp_path / "x.jsonl", rows)
    found = mapping(tmp_path, "  t: {test: {file: x.jsonl, where: {d: 2024-01-02, t: 12:30:00}}}")
    assert select_rows(found.splits("t")["test"]) == rows[:1]


def test_dates_on_the_command_line_are_texts():
    from eval_harness.files.configs import key_values

    given = key_values(["a=2024-01-02", "b=12:30:00", "c=1:30.5", "d=7", "e=1.5", "f=[2024-01-02]"], "--x")
    assert given == {"a": "2024-01-02", "b": "12:30:00", "c": "1:30.5", "d": 7, "e": 1.5, "f": ["2024-01-02"]}


@pytest.mark.parametrize("row", ['{"a": "x\\ud800y"}', '{"\\udc00": "x", "a": 1}', '{"a": [["\\udfff"]]}'])
def test_half_a_surrogate_pair_is_one_line(tmp_path, row):
    (tmp_path / "x.jsonl").write_text('{"a": "fine"}\n' + row + "\n")
    splits = mapping(tmp_path, "  t: {test: x.jsonl}").splits("t")
    for _ in range(2):
        with pytest.raises(UserError, match=r"x.jsonl, row 2: half of a surrogate pair"):
            prepare_splits(splits, ("a",), "t", tmp_path / "p")
    assert not (tmp_path / "p").exists()


def test_a_line_of_brackets_is_no_row(tmp_path):
    for text in ("[" * 200_000, '{"a": ' + "[" * 200_000):
        (tmp_path / "x.jsonl").write_text(text)
        with pytest.raises(UserError, match="unreadable data file"):
            read_rows(tmp_path / "x.jsonl")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "  t: {test: {file: x.jsonl, skip: -1}}",
            r"t.test: skip; got: -1; expected: an integer of at least 0",
        ),
        ("  t: {test: {file: x.jsonl, take: 0}}", "take.*at least 1"),
        ("  t: {test: {file: x.jsonl, take: two}}", "take.*at least 1"),
        ("  t: {test: {file: x.jsonl, standin: perhaps}}", "standin.*true or false"),
        ("  t: {test: {file: x.jsonl, where: [a]}}", "where.*COLUMN"),
        ("  t: {test: 7}", "a file name"),
        ("  t: x.jsonl", "tasks t.*|mapping"),
    ],
)
def test_values_of_a_mapping_that_do_not_fit_are_named(tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        mapping(tmp_path, text)
