"""The page of runs: what stands in it, what it reads of the harness, what it refuses."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import made_records
import made_runs
import pytest

from sparsepo_plugin import cli
from sparsepo_plugin.report import evaluation

FIXTURES = Path(__file__).parents[1] / "fixtures"
EVIL = "</script><script>alert(1)</script> \u202e"


def report(*names, out, **flags):
    given = [part for flag, values in flags.items() for value in values for part in (f"--{flag}", str(value))]
    return cli.main(["report", *map(str, names), "-o", str(out), *given])


def parts(page):
    data = json.loads(re.search(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"))[1])
    return {part["name"]: part["blocks"] for part in data["parts"]}, data


def texts(blocks):
    """Every text of blocks, in order."""
    for block in blocks:
        yield from (block[key] for key in ("text", "quote", "fold") if key in block)
        if "table" in block:
            for row in (block["table"]["head"], *block["table"]["rows"]):
                yield from row
        yield from texts(block.get("blocks", ()))


def refusal(capsys):
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture
def verdict(tmp_path):
    """A report.json as eval-harness writes it, with one flipped item."""
    paired = {"difference": -0.25, "low": -0.5, "high": 0.0, "baseline": 0.5, "candidate": 0.25}
    gate = {"name": "win <b>", "blocking": False, "verdict": "REGRESSED", "margin": 0.05, "items": 8}
    flip = {"gate": gate["name"], "task": "own", "doc_id": 3, "change": "lost", "prompt": EVIL, "target": ""}
    flip |= {"choices": [], "baseline_outputs": ["x" * 3000], "candidate_outputs": ["worse"]}
    flip |= {"baseline_value": 0.5, "candidate_value": 0.0, "orders": [0.0, None]}
    data = {
        **{"verdict": "REGRESSED", "alpha": 0.05, "suite": "win_rate", "preset": "own", "preset_version": 1},
        **{"candidate": {"label": "ours"}, "baseline": {"label": "theirs"}, "schema_version": 1},
        "gates": [{**gate, "p_holm": 0.01, "notes": ["few"], "paired": {**paired, "lost": 2, "gained": 0}}],
        **{"flips": [flip], "notes": ["beware"], "facts": [["judge", "made"]]},
    }
    path = tmp_path / "eval/report/report.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(data))
    return path


def test_one_run_has_its_numbers_settings_curves_masks_and_tokens(tmp_path, capsys):
    run = made_runs.write(tmp_path / "run", adam={"lr": 1e-3}, logger={"x": 1})
    made_records.write(run / "tokens.jsonl", made_records.rows(2))
    (run / "sparsepo_run.json").write_text(json.dumps({"versions": {"torch": "2.13"}}))
    assert report(run, out=tmp_path / "page.html") == 0
    assert "run; open it in a browser" in capsys.readouterr().out
    found, data = parts(tmp_path / "page.html")
    assert list(found) == ["summary", "configuration", "curves", "masks"]
    rows = dict(found["summary"][0]["table"]["rows"])
    assert rows["steps"] == "20"
    assert rows["loss"] == "1.2 \u2192 1.4"
    settings = dict(found["configuration"][0]["table"]["rows"])
    assert (settings["loss"], settings["adam.lr"]) == ("sparsepo", "0.001")
    assert "2.13" in " ".join(texts(found["configuration"]))
    assert len(found["curves"][0]["pictures"]) == 12
    assert len(data["tokens"]["pairs"]) == 2


def test_the_difference_of_two_runs_stands_first_and_marked(tmp_path):
    runs = [made_runs.write(tmp_path / f"beta{beta}", beta=beta) for beta in (0.1, 0.5)]
    assert report(*runs, out=tmp_path / "page.html") == 0
    found, _ = parts(tmp_path / "page.html")
    first, rest = found["configuration"][:2]
    assert first["table"]["rows"] == [["model.beta", "0.1", "0.5"]]
    assert first["table"]["marked"] == [0]
    assert rest["fold"] == "2 settings that agree"


def test_options_that_only_one_loss_has_do_not_hide_what_differs(tmp_path):
    one = made_runs.write(tmp_path / "a", loss="sparsepo", sparsepo={"masks": "common", "floor": 0.0})
    other = made_runs.write(tmp_path / "b", loss="dpo", beta=0.5)
    assert report(one, other, out=tmp_path / "page.html") == 0
    first, options, _ = parts(tmp_path / "page.html")[0]["configuration"]
    assert [row[0] for row in first["table"]["rows"]] == ["loss", "model.beta"]
    assert options["fold"] == "2 options of one loss"


def test_two_seeds_side_by_side_are_two_lines_and_three_are_a_band(tmp_path):
    runs = [made_runs.write(tmp_path / f"s{seed}", seed=seed) for seed in range(3)]
    assert report(*runs[:2], out=tmp_path / "two.html") == 0
    assert report(*runs, out=tmp_path / "three.html") == 0
    two, three = (parts(tmp_path / name)[0] for name in ("two.html", "three.html"))
    assert "s0" in list(texts(two["curves"]))
    assert "s0 (3 seeds)" in list(texts(three["curves"]))
    assert len(three["summary"][0]["table"]["rows"]) == 3
    assert three["configuration"][0]["table"]["head"] == ["run", "train.seed"]


def test_evaluations_are_given_or_lie_in_the_run_and_their_texts_are_text(tmp_path, verdict):
    run = made_runs.write(tmp_path / "run")
    shutil.copytree(FIXTURES / "runs_schema_1/reasoning", run / "eval")
    for given in (verdict, verdict.parent, verdict.parent.parent):
        assert report(run, out=tmp_path / "page.html", eval=[given]) == 0
        page = (tmp_path / "page.html").read_text()
        assert page.count("</script>") == 2
        found, _ = parts(tmp_path / "page.html")
        words = list(texts(found["evaluation"]))
        assert "REGRESSED: ours against theirs; win_rate:own v1, alpha 0.05" in words
        assert {"win <b> (not blocking)", "-0.250", "Note: beware", "judge"} <= set(words)
        assert "</script><script>alert(1)</script> \u27e8U+202E\u27e9" in words
        assert "Judge's share for the candidate: 0 with its text first, no verdict second" in words
        assert any(word.startswith("[1000 characters cut]") for word in words)
        assert "candidate; reasoning:reasoning v1" in words


def test_every_report_of_the_harness_that_is_kept_can_be_read():
    """The files are the harness's own; the package that reads them here does not import it."""
    for suite in ("reasoning", "win_rate", "faithfulness"):
        path = evaluation.locate(str(FIXTURES / "runs_schema_1" / suite))
        assert len(evaluation.read(path)) >= 3
        decision = FIXTURES / "runs_schema_1" / suite / "decision.json"
        assert len(evaluation.read(decision)) >= 3


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "got another form"),
        ("[]", "got another form"),
        ('{"gates": 1, "verdict": "KEPT"}', "got another form"),
        ('{"gates": [{}]}', "got another form"),
        ('{"scores": []}', "got another form"),
        ('"gates"', "got another form"),
    ],
)
def test_a_damaged_evaluation_is_one_line_and_writes_nothing(text, words, tmp_path, capsys):
    run = made_runs.write(tmp_path / "run")
    (tmp_path / "report.json").write_text(text)
    assert report(run, out=tmp_path / "page.html", eval=[tmp_path / "report.json"]) == 2
    assert words in refusal(capsys)
    assert not (tmp_path / "page.html").exists()


def test_a_foreign_file_beside_a_run_is_left_out_and_said(tmp_path):
    run = made_runs.write(tmp_path / "run")
    (run / "other").mkdir()
    (run / "other/result.json").write_text("{}")
    (tmp_path / "run-eval").mkdir()
    shutil.copy(FIXTURES / "runs_schema_1/reasoning/result.json", tmp_path / "run-eval")
    assert report(run, out=tmp_path / "page.html") == 0
    words = list(texts(parts(tmp_path / "page.html")[0]["evaluation"]))
    assert words[0].startswith("Left out: ")
    assert "candidate; reasoning:reasoning v1" in words


def test_what_is_no_run_no_evaluation_or_not_ours_to_write_is_refused(tmp_path, capsys):
    run = made_runs.write(tmp_path / "run")
    (tmp_path / "mine.html").write_text("<html>mine</html>")
    (tmp_path / "bad").mkdir()
    shutil.copy(run / "metrics.jsonl", tmp_path / "bad")
    (tmp_path / "bad/sparsepo_run.json").write_text("{")
    made_records.write(tmp_path / "cut/tokens.jsonl", made_records.rows(1)[:1])
    shutil.copy(run / "metrics.jsonl", tmp_path / "cut")
    for names, flags, words in (
        ([tmp_path / "gone"], {}, "got no metrics.jsonl"),
        ([run, run], {}, "got it twice"),
        ([run], {"eval": [tmp_path / "gone"]}, "--eval"),
        ([run], {"eval": [tmp_path / "bad"]}, "got no report.json or report/report.json or result.json"),
        ([tmp_path / "bad"], {}, "sparsepo_run.json: got no JSON object"),
        ([tmp_path / "cut"], {}, "has no rejected response"),
    ):
        assert report(*names, out=tmp_path / "page.html", **flags) == 2
        assert words in refusal(capsys)
    assert report(run, out=tmp_path / "mine.html") == 2
    assert "sparsepo did not write" in refusal(capsys)
    assert not (tmp_path / "page.html").exists()


def test_an_empty_record_a_run_of_one_step_and_one_without_configuration(tmp_path):
    run = made_runs.write(tmp_path / "run", steps=1)
    (run / "tokens.jsonl").write_text("")
    for name in ("sparsepo_config.yaml", "mask_histograms.jsonl"):
        (run / name).unlink()
    assert report(run, out=tmp_path / "page.html") == 0
    found, data = parts(tmp_path / "page.html")
    assert "run: No token record: train with --eval.dataset and --LOSS.record N." in list(
        texts(found["summary"])
    )
    assert "No effective configuration lies in the folder." in list(texts(found["configuration"]))
    assert "masks" not in found
    assert data["tokens"] is None


def test_a_run_of_an_older_release_has_its_page(tmp_path):
    assert report(FIXTURES / "run_0.1.0/out", out=tmp_path / "page.html") == 0
    found, data = parts(tmp_path / "page.html")
    assert list(found) == ["summary", "configuration", "curves", "masks"]
    assert len(data["tokens"]["pairs"]) == 2
