"""Run folders of schema version 1, written by commit 01f6d8c, open, compare and gate as they did."""

import json
import shutil

import pytest

from eval_harness.cli.app import main
from eval_harness.files.texts import printable
from eval_harness.gate.reports import markdown
from eval_harness.gate.verdicts import parse_decision
from eval_harness.run.folder import read_items, read_result, write_run
from eval_harness.types import SCHEMA_VERSION

from .conftest import REPO

OLD = REPO / "tests" / "fixtures" / "runs_schema_1"
SUITES = ("reasoning", "faithfulness", "win_rate")
# What the statistics make of the same numbers is theirs to test; everything else must be equal.
INFERRED = ("stderr", "low", "high", "p", "method", "variance", "design_effect", "effective")
# Better when smaller: version 1 showed 1 - x without saying so; now the means are its own, with a note.
TURNED = "self_bleu,none"


@pytest.fixture(params=SUITES)
def old(request, tmp_path):
    return shutil.copytree(OLD / request.param, tmp_path / request.param)


def decided(data):
    """A decision without what statistics inferred."""
    gates = []
    for gate in data["gates"]:
        measured = {key: value for key, value in gate["paired"].items() if key not in INFERRED}
        if gate["metric"] == TURNED:
            del measured["baseline"], measured["candidate"]
        notes = [n for n in gate["notes"] if "clusters" not in n and "smaller is better" not in n]
        gates.append({**gate, "paired": measured, "notes": notes, "p_holm": None, "needed": None})
    # Runs of version 1 did not record what a judge said in either order.
    assert not any(flip.get("orders") for flip in data["flips"])
    flips = [{key: value for key, value in flip.items() if key != "orders"} for flip in data["flips"]]
    return {**data, "gates": gates, "flips": flips}


def test_gate_and_compare_say_what_they_said(old, capsys):
    code = main(["gate", str(old), "--gates", str(old / "gates.yaml")])
    recorded = json.loads((old / "decision.json").read_text())
    assert code == recorded["exit_code"]
    assert decided(json.loads((old / "report" / "report.json").read_text())) == decided(recorded)
    assert main(["compare", str(old), str(old / "baseline"), "--json"]) == 0
    said = capsys.readouterr().out
    anew = json.loads(said[said.index("\n{") :])
    assert decided({**anew, "flips": []}) == decided(json.loads((old / "default_gates.json").read_text()))


def test_a_stored_decision_reads_as_it_did(old):
    decision = parse_decision(json.loads((old / "decision.json").read_text()))
    # Since then what a terminal or a browser would obey is shown as an escape.
    assert markdown.render(decision) == printable((old / "decision.md").read_bytes().decode())


def test_results_are_upgraded_once_and_lose_nothing(old, tmp_path):
    for folder in (old, old / "baseline"):
        raw, result = json.loads((folder / "result.json").read_text()), read_result(folder)
        assert (raw["schema_version"], result.schema_version) == (1, SCHEMA_VERSION)
        for before, score in zip(raw["scores"], result.scores, strict=True):
            assert score.is_group == before["task"].startswith("group:")
            assert score.task == before["task"].removeprefix("group:")
            assert score.main == (before["normalised"] is not None)
            assert (score.value, score.n, score.notes) == (
                before["value"],
                before["n"],
                tuple(before["notes"]),
            )
        assert result.max_unjudged == raw["settings"].get("max_unjudged")
        assert ("win_rate" in result.asked) == (raw["suite"] == "win_rate")
        write_run(tmp_path / "again", result, read_items(folder))
        assert read_result(tmp_path / "again") == result


def test_runs_of_the_old_and_the_new_format_meet(old, tmp_path):
    new = tmp_path / "new"
    write_run(new, read_result(old / "baseline"), read_items(old / "baseline"))
    args = ["gate", old, "--baseline", new, "--gates", old / "gates.yaml"]
    assert main(list(map(str, args))) == json.loads((old / "decision.json").read_text())["exit_code"]
    if old.name == "win_rate":  # against another opponent nothing is compared
        settings = {**read_result(new).settings, "win_rate": {"opponent": "other"}}
        data = {**json.loads((new / "result.json").read_text()), "settings": settings}
        (new / "result.json").write_text(json.dumps(data))
        assert main(list(map(str, args))) == 2


@pytest.mark.parametrize(
    "change", [{"schema_version": 3}, {"schema_version": None}, {"surprise": 1}, {"scores": [{}]}]
)
def test_what_is_of_no_known_version_is_one_line(tmp_path, capsys, change):
    old = shutil.copytree(OLD / "reasoning", tmp_path / "old")
    data = {**json.loads((old / "result.json").read_text()), **change}
    (old / "result.json").write_text(json.dumps(data))
    assert main(["gate", str(old), "--gates", str(old / "gates.yaml")]) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith("eval-harness: unreadable result")
    assert "\n" not in said
