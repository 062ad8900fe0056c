"""Mappings of local files: every preset has one that fits; all mistakes at once, with the converter."""

import gzip
import json
from pathlib import Path

import pytest

from eval_harness.errors import UserError
from eval_harness.files.rows import read_rows
from eval_harness.reasoning.data import load_mapping
from eval_harness.reasoning.tasks import check_data
from eval_harness.run.preset import preset_names
from eval_harness.run.runner import load_suite_preset

SHIPPED = Path(__file__).parents[2] / "configs/eval/data"
ARC = {"id": "1", "question": {"stem": "Why?", "choices": [{"text": "a", "label": "A"}]}, "answerKey": "A"}


def row_of(source, columns):
    if source.convert == "arc_original":
        return ARC
    row = {column: f"{column} 2" for column in columns} | source.where
    return row | ({"choices": ["a", "b"]} if source.convert else {})


@pytest.mark.parametrize("name", preset_names("reasoning"))
def test_every_preset_has_a_mapping_that_names_all_its_tasks_and_reads_their_files(name, tmp_path):
    preset = load_suite_preset("reasoning", name)
    (tmp_path / "map.yaml").write_text((SHIPPED / f"{name}.yaml").read_text())
    mapping = load_mapping(tmp_path / "map.yaml")
    files = {}
    for task, group in preset.tasks().items():
        splits = mapping.splits(task)
        assert splits, f"{task} is not in the mapping"
        for source in splits.values():
            row = row_of(source, group.columns)
            files.setdefault(source.file, []).extend([row] * (source.skip + 6))
    for path, rows in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    assert check_data(preset, mapping, tmp_path / "cache").keys() == preset.tasks().keys()


def quick(tmp_path, text):
    (tmp_path / "map.yaml").write_text(f"version: 1\ntasks:\n{text}")
    mapping = load_mapping(tmp_path / "map.yaml")
    return check_data(load_suite_preset("reasoning", "quick"), mapping, tmp_path / "cache")


def test_all_mistakes_are_named_at_once_each_once_and_with_the_converter(tmp_path):
    (tmp_path / "arc.jsonl").write_text(json.dumps(ARC))
    (tmp_path / "odd.jsonl").write_text('{"x": 1}')
    lines = ["gsm8k: {test: gone.jsonl}", "arc_challenge: {test: arc.jsonl}", "hellaswag: {test: odd.jsonl}"]
    with pytest.raises(UserError) as error:
        quick(tmp_path, "".join(f"  {line}\n" for line in [*lines, '"mmlu_*": {test: away.jsonl}']))
    said = str(error.value)
    assert said.startswith("4 mistakes: (1) ")
    assert "gone.jsonl" in said
    assert said.count("away.jsonl") == 1  # of 57 tasks
    assert "write convert: arc_original (AI2's own ARC layout" in said
    assert "name a row converter: arc_original, musr_choices" in said
    assert "\n" not in said


def test_mistakes_of_the_mapping_itself_are_named_at_once(tmp_path):
    with pytest.raises(UserError, match=r"2 mistakes: \(1\) .*arc_orignal.*\(2\) .*takes"):
        quick(tmp_path, "  a: {test: {file: x, convert: arc_orignal}}\n  b: {test: {file: x, takes: 1}}\n")


def test_a_wrong_converter_says_what_it_reads(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"question": "a"}')
    with pytest.raises(UserError, match="converter arc_original: AI2's own ARC layout"):
        quick(tmp_path, "  arc_challenge: {test: {file: x.jsonl, convert: arc_original}}\n")


def test_rows_of_a_parquet_file(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"question": "q", "choices": {"text": ["a"], "label": ["A"]}}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert read_rows(tmp_path / "x.parquet") == rows
    whole = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="unreadable data file"):
        read_rows(tmp_path / "x.parquet")


def test_the_page_names_every_converter_and_every_shipped_mapping():
    from eval_harness.reasoning.converters import CONVERTERS

    page = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in CONVERTERS)
    assert all(f"configs/eval/data/{path.name}" in page for path in SHIPPED.iterdir())
