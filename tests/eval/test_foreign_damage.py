"""Foreign files that are damaged, mixed, reordered, doubled or cut: one line, exit code 2, no verdict."""

import json
import shutil
import zipfile

import pytest

from eval_harness.cli.app import main

from .foreign_files import FIXTURES, KINDS, LmEval, as_lm_eval_045

METRICS = ["--metric", "acc", "--metric", "exact_match,strict-match"]


def refused(capsys, tmp_path, a, b, *words):
    """Exit code 2, one line, nothing in the report folder; returns the line."""
    report = tmp_path / "report"
    code = main(["gate", str(a), str(b), "--report", str(report), *words])
    said = capsys.readouterr()
    assert code == 2, said.out
    assert said.out == ""
    assert said.err.count("\n") == 1, said.err
    assert "Traceback" not in said.err
    assert not list(report.glob("*"))
    return said.err


def words_of(kind):
    return METRICS if kind == "lm_eval" else []


def cut_in_a_line(file):
    raw = file.read_bytes()
    file.write_bytes(raw[: int(len(raw) * 0.7)])


def flip_a_byte(file):
    raw = bytearray(file.read_bytes())
    raw[len(raw) // 2 :: 7] = b"\xff" * len(raw[len(raw) // 2 :: 7])
    file.write_bytes(bytes(raw))


BYTES = {
    "cut in a line": cut_in_a_line,
    "bytes overwritten": flip_a_byte,
    "empty": lambda file: file.write_bytes(b""),
    "blank": lambda file: file.write_bytes(b"\n\n"),
    "a list in a list": lambda file: file.write_bytes(b"[[1]]"),
    "nested without end": lambda file: file.write_bytes(b"[" * 100_000),
    "gone": lambda file: file.unlink(),
    "binary": lambda file: file.write_bytes(bytes(range(256)) * 40),
}
ROWS = {
    "one row missing": lambda rows: rows[:-1],
    "half of the rows": lambda rows: rows[: len(rows) // 2],
    "first row missing": lambda rows: rows[1:],
    "no row": lambda rows: [],
    "a row twice": lambda rows: [*rows, rows[0]],
    "all rows twice": lambda rows: rows + rows,
    "one row for another": lambda rows: [rows[1], *rows[1:]],
    "turned round": lambda rows: rows[::-1],
    "two rows exchanged": lambda rows: [rows[1], rows[0], *rows[2:]],
    "a row without fields": lambda rows: [{}, *rows[1:]],
    "a row that is a list": lambda rows: [[1, 2], *rows[1:]],
    "a row that is null": lambda rows: [None, *rows[1:]],
}


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("damage", sorted(BYTES))
@pytest.mark.parametrize("side", ["a", "b"])
def test_damaged_files(kind, damage, side, tmp_path, capsys):
    made = {name: KINDS[kind](tmp_path, name) for name in "ab"}
    BYTES[damage](made[side].file())
    refused(capsys, tmp_path, made["a"].path(), made["b"].path(), *words_of(kind))


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("damage", sorted(ROWS))
@pytest.mark.parametrize("side", ["a", "b"])
def test_rows_that_are_not_those_of_the_other_result(kind, damage, side, tmp_path, capsys):
    made = {name: KINDS[kind](tmp_path, name) for name in "ab"}
    made[side].write(ROWS[damage](made[side].read()))
    refused(capsys, tmp_path, made["a"].path(), made["b"].path(), *words_of(kind))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_both_results_doubled_alike(kind, tmp_path, capsys):
    made = {name: KINDS[kind](tmp_path, name) for name in "ab"}
    for result in made.values():
        result.write(result.read() * 2)
    refused(capsys, tmp_path, made["a"].path(), made["b"].path(), *words_of(kind))


@pytest.mark.parametrize("first", sorted(KINDS))
@pytest.mark.parametrize("second", sorted(KINDS))
def test_results_of_two_programs(first, second, tmp_path, capsys):
    if first == second:
        return
    (tmp_path / "1").mkdir(), (tmp_path / "2").mkdir()
    a, b = KINDS[first](tmp_path / "1", "a"), KINDS[second](tmp_path / "2", "b")
    assert "two programs" in refused(capsys, tmp_path, a.path(), b.path())


CHANGES = {
    "jsonl": [
        ({"score": 1.5}, "[0, 1]"),
        ({"score": "1"}, "[0, 1]"),
        ({"score": None}, "[0, 1]"),
        ({"score": float("nan")}, "[0, 1]"),
        ({"id": None}, "id"),
        ({"id": "other"}, "missing in"),
        ({"prompt": "Another?"}, "another prompt_hash"),
        ({"prompt": ""}, "on one side only"),
        ({"cluster": "c"}, "on one side only"),
        ({"rank": 1}, "unknown field"),
        ({"repeat": "x"}, "repeat"),
    ],
    "alpaca_eval": [
        ({"preference": 3}, "from 1 to 2"),
        ({"preference": "2"}, "from 1 to 2"),
        ({"preference": True}, "from 1 to 2"),
        ({"generator_2": "someone"}, "mixes several"),
        ({"annotator": "someone"}, "mixes several"),
        ({"output_1": "Another."}, "another doc_hash"),
        ({"instruction": "Another?"}, "missing in"),
    ],
    "lm_eval": [
        ({"doc_hash": "0"}, "belong together"),
        ({"prompt_hash": "0"}, "damaged sample"),
        ({"acc": 7.0}, "belong together|[0, 1]|which metric"),
        ({"acc": 0.25}, "belong together|which metric"),
        ({"arguments": {}}, "damaged sample"),
        ({"resps": 3}, "not as lm_eval"),
        ({"doc_id": 39}, "twice|two documents"),
    ],
    "inspect": [
        ({"error": {"message": "x"}}, "without a score"),
        ({"scores": {}}, "without a score"),
        ({"scores": {"match": {"value": "?"}}}, "scores|--metric|belong together|which metric"),
        ({"scores": {"match": {"value": "I"}}}, "belong together"),
        ({"scores": 3}, "not as inspect"),
        ({"input": "Another?"}, "do not ask the same"),
        ({"epoch": 2}, "order|missing"),
        ({"messages": "x"}, "not as inspect"),
    ],
}


@pytest.mark.parametrize(
    ("kind", "change", "message"), [(kind, *case) for kind, cases in CHANGES.items() for case in cases]
)
def test_one_field_of_one_row(kind, change, message, tmp_path, capsys):
    made = {name: KINDS[kind](tmp_path, name) for name in "ab"}
    rows = made["b"].read()
    rows[0] = {**rows[0], **change}
    made["b"].write(rows)
    said = refused(capsys, tmp_path, made["a"].path(), made["b"].path(), *words_of(kind))
    assert any(part in said for part in message.split("|")), said


def test_another_reference_or_annotator(tmp_path, capsys):
    a, b = (KINDS["alpaca_eval"](tmp_path, name) for name in "ab")
    for field in ("generator_1", "annotator"):
        rows = b.read()
        b.write([{**row, field: "other"} for row in rows])
        assert "the runs differ in" in refused(capsys, tmp_path, a.path(), b.path())
        b.write(rows)


# -- lm-eval: what a folder may hold


@pytest.mark.parametrize("damage", ["one row missing", "a row twice", "two rows exchanged", "turned round"])
def test_the_layout_of_lm_eval_045(damage, tmp_path, capsys):
    a, b = LmEval(tmp_path, "a"), LmEval(tmp_path, "b")
    as_lm_eval_045(a), as_lm_eval_045(b)
    b.task = "gsm8k"  # two filters
    b.write(ROWS[damage](b.read()))
    refused(capsys, tmp_path, a.path(), b.path(), *METRICS)


def test_without_hashes_documents_are_counted(tmp_path, capsys):
    a, b = LmEval(tmp_path, "a"), LmEval(tmp_path, "b")
    for result in (a, b):
        table = json.loads(result.results().read_text())
        del table["task_hashes"]
        result.results().write_text(json.dumps(table))
        result.write(result.read()[:-1])
    assert "39 documents" in refused(capsys, tmp_path, a.path(), b.path(), *METRICS)


def test_two_evaluations_in_one_folder(tmp_path, capsys):
    a, b = LmEval(tmp_path, "a"), LmEval(tmp_path, "b")
    folder = a.results().parent
    for path in (tmp_path / "b").glob("*/*"):
        shutil.copy(path, folder / path.name)
    assert "several evaluations" in refused(capsys, tmp_path, a.path(), b.path(), *METRICS)
    for other in sorted(folder.glob("results_*"))[1:]:
        other.unlink()
    assert "samples of another evaluation" in refused(capsys, tmp_path, a.path(), b.path(), *METRICS)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("versions", {"swag": 2.5, "storycloze_2016": 1, "gsm8k": 3}, "version and shots of swag"),
        ("lm_eval_version", "0.4.9", "lm-eval version"),
        ("chat_template_sha", "0", "chat_template_sha"),
        ("config", {"gen_kwargs": {"temperature": 1}}, "gen_kwargs"),
        ("results", {}, "unreadable results"),
        ("results", [], "unreadable results"),
        ("configs", None, "unreadable results"),
        ("n-shot", {"swag": "x"}, "not as lm_eval"),
        ("task_hashes", 3, "not as lm_eval"),
    ],
)
def test_results_that_differ(key, value, message, tmp_path, capsys):
    a, b = LmEval(tmp_path, "a"), LmEval(tmp_path, "b")
    table = json.loads(b.results().read_text())
    b.results().write_text(json.dumps({**table, key: value}))
    assert message in refused(capsys, tmp_path, a.path(), b.path(), *METRICS)


def test_a_task_without_samples(tmp_path, capsys):
    a, b = LmEval(tmp_path, "a"), LmEval(tmp_path, "b")
    a.file().unlink()
    assert "the samples of storycloze_2016 are missing" in refused(capsys, tmp_path, a.path(), b.path())


# -- Inspect: the ZIP file


def repack(path, change):
    """Write a log anew with its members changed: change(name -> bytes) edits the mapping."""
    from eval_harness.gate.foreign.inspect_log import _member

    with zipfile.ZipFile(path) as archive:
        members = {name: _member(archive, name) for name in archive.namelist()}
    extra = change(members) or []
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in [*members.items(), *extra]:
            archive.writestr(name, content)


def edit(members, name, **fields):
    members[name] = json.dumps({**json.loads(members[name]), **fields}).encode()


def header(**fields):
    return lambda members: edit(members, "header.json", **fields)


def exchange(members):
    first, second = "samples/q00_epoch_1.json", "samples/q01_epoch_1.json"
    members[first], members[second] = members[second], members[first]


LOGS = {
    "failed": (header(status="error"), "did not succeed"),
    "cancelled": (header(status="cancelled"), "did not succeed"),
    "running": (header(status="started"), "did not succeed"),
    "invalidated": (header(invalidated=True), "did not succeed"),
    "unfinished": (lambda m: m.pop("header.json") and None, "not finished"),
    "without summaries": (lambda m: m.pop("summaries.json") and None, "unreadable log"),
    "a sample missing": (lambda m: m.pop("samples/q05_epoch_1.json") and None, "unreadable log"),
    "samples exchanged": (exchange, "holds sample"),
    "a sample twice": (
        lambda m: [("samples/q05_epoch_1.json", m["samples/q05_epoch_1.json"])],
        "there twice",
    ),
    "another score": (
        lambda m: edit(m, "samples/q00_epoch_1.json", scores={"match": {"value": 0.25}}),
        "summary is another one",
    ),
    "no JSON": (lambda m: m.update({"header.json": b"{"}), "unreadable log"),
    "header a list": (lambda m: m.update({"header.json": b"[]"}), "not as inspect"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("damage", sorted(LOGS))
def test_logs_of_inspect_that_are_not_whole(damage, tmp_path, capsys):
    for name in "ab":
        shutil.copy(FIXTURES / "inspect" / f"{name}.eval", tmp_path / f"{name}.eval")
    change, message = LOGS[damage]
    repack(tmp_path / "a.eval", change)
    said = refused(capsys, tmp_path, tmp_path / "a.eval", tmp_path / "b.eval")
    assert any(part in said for part in message.split("|")), said


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.eval", "a_0.3.70.eval"])
def test_cut_logs_of_inspect(share, name, tmp_path, capsys):
    raw = (FIXTURES / "inspect" / name).read_bytes()
    (tmp_path / "a.eval").write_bytes(raw[: int(len(raw) * share)])
    refused(capsys, tmp_path, tmp_path / "a.eval", FIXTURES / "inspect" / "b.eval")


@pytest.mark.parametrize("name", ["a.eval", "a_0.3.70.eval"])
def test_bits_of_a_log_of_inspect(name, tmp_path, capsys):
    """A bit turned in any member is found by its checksum."""
    raw = bytearray((FIXTURES / "inspect" / name).read_bytes())
    with zipfile.ZipFile(FIXTURES / "inspect" / name) as archive:
        entry = archive.getinfo("samples/q03_epoch_1.json")
    raw[entry.header_offset + 400] ^= 1
    (tmp_path / "a.eval").write_bytes(bytes(raw))
    refused(capsys, tmp_path, tmp_path / "a.eval", FIXTURES / "inspect" / "b.eval")


def test_a_model_that_graded_itself(tmp_path, capsys):
    for name in "ab":
        shutil.copy(FIXTURES / "inspect" / f"{name}_json.json", tmp_path / f"{name}.json")
        log = json.loads((tmp_path / f"{name}.json").read_text())
        log["eval"]["scorers"] = [{"name": "model_graded_qa", "options": {}}]
        (tmp_path / f"{name}.json").write_text(json.dumps(log))
    assert "graded itself" in refused(capsys, tmp_path, tmp_path / "a.json", tmp_path / "b.json")


# -- the command line


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--metric", "acc"], "--metric"),
        (["--cluster", "story"], "--cluster"),
        (["--margin", "2"], "--margin"),
        (["--alpha", "0.7"], "--alpha"),
        (["--gates", "quick", "--margin", "0.1"], "one of the two ways"),
        (["--baseline", "somewhere"], "one of the two"),
    ],
)
def test_words_that_do_not_fit(words, message, tmp_path, capsys):
    a, b = (KINDS["jsonl"](tmp_path, name).path() for name in "ab")
    assert message in refused(capsys, tmp_path, a, b, *words)


def test_a_folder_that_holds_nothing(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    other = KINDS["jsonl"](tmp_path, "b").path()
    assert "no known format" in refused(capsys, tmp_path, tmp_path / "empty", other)


def test_an_old_report_does_not_outlive_a_refusal(tmp_path, capsys):
    a, b = (KINDS["jsonl"](tmp_path, name) for name in "ab")
    assert main(["gate", str(a.path()), str(b.path()), "--report", str(tmp_path / "report")]) == 1
    capsys.readouterr()
    a.write(a.read()[:-1])
    refused(capsys, tmp_path, a.path(), b.path())
