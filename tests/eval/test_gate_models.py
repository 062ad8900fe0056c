"""The gate on real runs: generated multiple-choice tasks of shipped schemas, a tiny model trained on them."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from eval_harness.cli.app import main
from eval_harness.run.folder import read_result
from sparsepo_plugin.demo.choices import write_choice_tasks

from .conftest import CHOICE_ITEMS as ITEMS

pytestmark = pytest.mark.slow


def noisy_copy(model, folder, scale, seed=0):
    """The same model with normal noise of `scale` standard deviations added to every weight matrix."""
    from transformers import AutoModelForCausalLM

    shutil.copytree(model, folder)
    loaded = AutoModelForCausalLM.from_pretrained(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in loaded.parameters():
            if weight.dim() > 1:
                weight.add_(scale * weight.std() * torch.randn(weight.shape, generator=generator))
    loaded.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def measure(choice_tasks, tmp_path_factory):
    """measure(model, out, *flags): `eval-harness run` on the generated tasks."""
    cache = tmp_path_factory.mktemp("cache")

    def call(model, out, *flags):
        args = ["run", "--model", model, "--suites", f"reasoning:{choice_tasks / 'tasks.yaml'}"]
        args += ["--data", choice_tasks / "data.yaml", "--out", out, "--cache", cache]
        args += ["--device", "cpu", "--dtype", "float32", "--batch-size", "64", *flags]
        assert main([str(arg) for arg in args]) == 0
        return out

    return call


@pytest.fixture(scope="session")
def baseline(measure, trained, tmp_path_factory):
    return measure(trained, tmp_path_factory.mktemp("runs") / "baseline")


def gate(run, baseline, gates, capsys):
    code = main([str(a) for a in ("gate", run, "--baseline", baseline, "--gates", gates)])
    captured = capsys.readouterr()
    report = run / "report" / "report.json"
    return code, json.loads(report.read_text()) if report.is_file() else captured.err


@pytest.fixture
def gates(choice_tasks):
    return choice_tasks / "gates.yaml"


def test_the_trained_model_can_do_both_tasks(baseline):
    scores = {s.task: s.value for s in read_result(baseline).scores if s.metric == "acc,none"}
    assert scores["swag"] >= 0.8
    assert scores["storycloze_2016"] >= 0.8


def test_a_noisy_copy_has_regressed(measure, trained, baseline, gates, tmp_path, capsys):
    noisy = noisy_copy(trained, tmp_path / "noisy", 1.0)
    code, decision = gate(measure(noisy, tmp_path / "run"), baseline, gates, capsys)
    assert code == 1
    assert decision["verdict"] == "REGRESSED"
    flip = next(f for f in decision["flips"] if f["gate"] == "grammar" and f["change"] == "lost")
    assert len(flip["choices"]) == len(flip["baseline_outputs"]) == 4
    # the page shows the endings that both models weighed
    page = (tmp_path / "run" / "report" / "report.html").read_text()
    assert flip["choices"][0].strip() in page


def test_the_same_model_twice_is_kept(measure, trained, baseline, gates, tmp_path, capsys):
    copy = shutil.copytree(trained, tmp_path / "copy")
    code, decision = gate(measure(copy, tmp_path / "run", "--no-cache"), baseline, gates, capsys)
    assert code == 0
    assert {g["verdict"] for g in decision["gates"]} == {"KEPT"}
    assert all(g["paired"]["lost"] == g["paired"]["gained"] == 0 for g in decision["gates"])
    assert any("same model" in note for note in decision["notes"])


def test_one_task_missing_is_an_error(measure, trained, baseline, gates, tmp_path, capsys):
    run = measure(trained, tmp_path / "run", "--tasks", "grammar")
    code, line = gate(run, baseline, gates, capsys)
    assert code == 2
    assert "a task is missing in the candidate" in line
    assert "storycloze_2016" in line
    assert not Path(run / "report").exists()


def test_twenty_items_leave_it_undecided(measure, trained, gates, tmp_path, capsys):
    runs = [measure(trained, tmp_path / name, "--limit", "20") for name in ("run", "base")]
    code, decision = gate(*runs, gates, capsys)
    assert code == 3
    assert {g["verdict"] for g in decision["gates"]} == {"UNDECIDED"}
    assert all(g["needed"] > 20 for g in decision["gates"])
    assert decision["gates"][0]["notes"] == [f"20 items, planned for {ITEMS}"]


def test_the_generated_gates_are_strong_enough(gates, capsys):
    assert main(["validate", "--gates", str(gates)]) == 0, capsys.readouterr().err


def test_the_same_seed_writes_the_same_items(choice_tasks, tmp_path):
    write_choice_tasks(tmp_path, ITEMS, seed=2)
    for path in choice_tasks.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    labels = [json.loads(line)["label"] for line in (tmp_path / "swag.jsonl").read_text().splitlines()]
    assert {labels.count(label) > ITEMS // 8 for label in range(4)} == {True}
