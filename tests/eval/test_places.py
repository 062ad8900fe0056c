"""Where results go: asked before the work, one run at a time, never half of two runs."""

import json
import subprocess
import sys
import threading

import pytest

from eval_harness.cli.app import main
from eval_harness.errors import UserError
from eval_harness.files.places import check_file, check_folder, held
from eval_harness.run.folder import read_items, read_result

from .runs import make_run, values
from .test_win_rate import files, run  # noqa: F401 - fixtures

SIDES = values(280, 6, 6, 108)


@pytest.fixture
def file(tmp_path):
    """A file where a folder should be."""
    (tmp_path / "file").write_text("mine")
    return tmp_path / "file"


@pytest.fixture
def runs(tmp_path):
    for name, side in (("a", 0), ("b", 1)):
        make_run(tmp_path / name, {"alpha": SIDES[side]}, name)
    return tmp_path


def refused(args, capsys, file):
    capsys.readouterr()
    assert main(list(map(str, args))) == 2
    line = capsys.readouterr().err.strip()
    assert "\n" not in line
    assert "is no folder" in line or "is a folder" in line
    assert file.read_text() == "mine"
    return line


@pytest.mark.parametrize("below", ["", "folder", "folder/deeper"])
def test_out_that_is_a_file_is_refused_before_anything_is_hashed(model_a, file, tmp_path, capsys, below):
    model = ["--model", model_a, "--suites", "reasoning"]
    assert "--out" in refused(["run", *model, "--out", file / below], capsys, file)
    assert "--cache" in refused(
        ["run", *model, "--out", tmp_path / "o", "--cache", file / below], capsys, file
    )
    assert "--out" in refused(["run", *model, "--dry-run", "--out", file / below], capsys, file)
    assert not (tmp_path / "o").exists()


def test_a_mistyped_result_makes_no_folder_and_costs_no_report(runs, capsys):
    a, b, lost = runs / "a", runs / "b", runs / "mistyped"
    assert main(list(map(str, ["gate", a, "--baseline", b, "--gates", "quick"]))) in (0, 1, 2, 3)
    (a / "report").mkdir(exist_ok=True)
    (a / "report/report.json").write_text("earlier")
    mistyped = [["gate", lost, "--gates", "quick"], ["gate", lost, b], ["report", lost], ["compare", a, lost]]
    mistyped += [["gate", a, lost], ["gate", a, "--baseline", lost, "--gates", "quick"]]
    for words in mistyped:
        capsys.readouterr()
        assert main(list(map(str, words))) == 2
        line = capsys.readouterr().err.strip()
        assert "\n" not in line
        assert "mistyped" in line
    assert not lost.exists()
    assert (a / "report/report.json").read_text() == "earlier"


def test_reports_are_asked_where_they_go_and_the_old_ones_stay(runs, file, capsys):
    gate = ["gate", runs / "a", "--baseline", runs / "b", "--gates", "quick"]
    refused([*gate, "--report", file], capsys, file)
    refused(["report", runs / "a", "--baseline", runs / "b", "--out", file], capsys, file)


def test_tables_are_asked_where_they_go_before_anything_is_judged(file, tmp_path, capsys):
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps({"prompt": "p", "chosen": "x", "rejected": "y"}) + "\n")
    agreement = ["agreement", "--judge", "length", "--data", data]
    (tmp_path / "table.md").mkdir()
    refused([*agreement, "--out", tmp_path / "table.md"], capsys, file)
    refused([*agreement, "--out", file / "table.md"], capsys, file)
    refused([*agreement, "--cache", file], capsys, file)
    scorers = ["scorer-agreement", "--scorer", "entity-overlap", "--data", tmp_path / "no.jsonl"]
    refused([*scorers, "--out", file / "table.md"], capsys, file)
    refused([*scorers, "--out", tmp_path / "table.md"], capsys, file)


def test_a_dangling_link_and_an_endless_name_are_no_places(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for folder in (tmp_path / "link", tmp_path / ("x" * 300)):
        with pytest.raises(UserError):
            check_folder(folder, "--out")
    check_folder(tmp_path / "new" / "deeper", "--out")
    check_file(tmp_path / "new" / "table.md", "--out")
    assert not (tmp_path / "new").exists()


def test_a_folder_has_one_run_at_a_time(tmp_path):
    with held(tmp_path / "out"):
        with pytest.raises(UserError, match="another run is writing there"):
            held(tmp_path / "out").__enter__()
        script = "import pathlib, sys; from eval_harness.files.places import held; "
        script += f"held(pathlib.Path({str(tmp_path / 'out')!r})).__enter__()"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
        assert "another run is writing there" in done.stderr
    assert not (tmp_path / "out").exists()  # nothing was written
    with held(tmp_path / "out"):
        (tmp_path / "out" / "result").write_text("x")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["result"]
    (tmp_path / "mine").mkdir()
    with held(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").is_dir()  # a folder that was there stays


def test_only_the_first_process_of_a_run_holds_its_folder(tmp_path, monkeypatch):
    with held(tmp_path / "out"):
        monkeypatch.setenv("RANK", "1")
        with held(tmp_path / "out"):
            assert (tmp_path / "out").is_dir()


def test_two_runs_into_one_folder_leave_one_whole_run(run, files, tmp_path, capsys):  # noqa: F811
    """The second, with another judge, starts while the first one measures."""
    from eval_harness.judges.programs import LengthJudge

    started, go_on = threading.Event(), threading.Event()
    answers = LengthJudge.answers

    def slowly(self, questions):
        started.set()
        assert go_on.wait(60)
        return answers(self, questions)

    codes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LengthJudge, "answers", slowly)
        first = threading.Thread(target=lambda: codes.append(run(*files, "--judge", "length")))
        first.start()
        assert started.wait(60)
        assert run(*files, "--judge", "length", "--judge-set", "shorter=true", "--overwrite") == 2
        go_on.set()
        first.join()
    assert codes == [0]
    assert "another run is writing there" in capsys.readouterr().err
    result = read_result(tmp_path / "out")
    assert dict(result.facts)["judge"] == "longer text"
    assert len(read_items(tmp_path / "out")) == result.counts["items"]
    assert not (tmp_path / "out" / ".eval-harness.lock").exists()
