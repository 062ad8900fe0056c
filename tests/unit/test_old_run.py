"""What version 0.1.0 left, newer code opens: pages, plots, mask modules, configurations, checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from sparsepo_plugin import checkpoint, cli
from sparsepo_plugin.report.plots.groups import read_runs
from sparsepo_plugin.run_folder import configuration, histograms, metrics, tokens
from sparsepo_plugin.types import ReferenceState

OLD = Path(__file__).parents[1] / "fixtures" / "run_0.1.0"


@pytest.fixture
def old(tmp_path, monkeypatch):
    """A copy of the run, which was started in the folder that holds its model and data."""
    folder = tmp_path / "run"
    shutil.copytree(OLD, folder)
    monkeypatch.chdir(folder)
    return folder


def test_every_file_of_its_output_folder_is_read(old):
    rows = metrics.read(old / "out")
    assert [row["step"] for row in rows["train"]] == [1, 2, 3, 4]
    assert [row["step"] for row in rows["eval"]] == [0, 2, 4]
    assert all(row["reward_mask_mean"] > 0 for row in rows["eval"])
    assert [row["step"] for row in histograms.read(old / "out")] == [0, 2, 4]
    assert configuration.read(old / "out")["sparsepo.masks"] == "independent"
    record = tokens.read(tokens.locate(old / "out"))
    assert (record.step, [pair.number for pair in record.pairs]) == (4, [0, 1])
    for pair in record.pairs:
        for response in (pair.chosen, pair.rejected):
            assert all(values is not None for values in response.values.values())
            assert len(response.values["reward_mask"]) == len(response.tokens)
    (run,) = read_runs(["out"])
    assert run.configuration["model.beta"] == 0.1


def test_its_tokens_become_a_page_and_its_metrics_plots(old, capsys):
    assert cli.main(["view", "out", "-o", "page.html"]) == 0, capsys.readouterr().err
    assert "2 pairs after step 4" in capsys.readouterr().out
    assert '"loss sparsepo","beta 0.1","step 4","2 pairs"' in (old / "page.html").read_text()
    pytest.importorskip("matplotlib")
    assert cli.main(["plot", "out", "-o", "plots"]) == 0, capsys.readouterr().err
    assert (old / "plots" / "mask_histogram.svg").is_file()


def test_its_mask_module_gives_the_masks_that_it_recorded(old):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    saved = checkpoint.load_masks(old / "out")
    assert (saved.loss.name, saved.options.width, saved.options.reward_l1) == ("sparsepo", 4, 0.01)
    assert set(json.loads((old / "out/sparsepo_masks.json").read_text())["options"]) <= set(
        vars(saved.options)
    )
    fresh = checkpoint.initial_masks(old / "out", 42).state_dict()
    assert any(not torch.equal(value, fresh[name]) for name, value in saved.module.state_dict().items())
    model = AutoModelForCausalLM.from_pretrained(old / "model", dtype=torch.float32)
    pair = tokens.read(old / "out/tokens.jsonl").pairs[0]
    response = pair.chosen
    prompt = AutoTokenizer.from_pretrained(old / "model")(pair.prompt)["input_ids"]
    ids = torch.tensor([[*prompt, *response.token_ids]])
    seen = torch.arange(ids.shape[1] - 1)[None] >= len(prompt) - 1
    with torch.no_grad():
        states = model(ids, output_hidden_states=True).hidden_states[1:]
        masks = saved.module(ReferenceState(states, seen, ids))
    for name in ("reward_mask", "kl_mask"):
        got = getattr(masks, name)[seen].tolist()
        assert got == pytest.approx(response.values[name], abs=1e-5), name


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ([], None),
        (["--sparsepo.record", "0"], None),
        (["--sparsepo.width", "2"], "sparsepo.width is 2 now and was 4"),
        (["--model.beta", "0.2"], "model.beta is 0.2 now and was 0.1"),
    ],
)
def test_its_configuration_and_checkpoint_are_known_again(old, capsys, changed, words):
    argv = ["validate", "--config", "out/sparsepo_config.yaml", "--ckpt.load_enable", *changed]
    code = cli.main(argv)
    output = capsys.readouterr()
    assert code == (0 if words is None else 2), output.err
    if words is not None:
        assert words in output.err


def test_its_command_line_goes_on_without_the_anchor_that_is_the_default_now(old, capsys):
    """Options that it took as they were then; a file that names no anchor, unlike the effective one."""
    content = yaml.safe_load((old / "out/sparsepo_config.yaml").read_text())
    assert content["sparsepo"].pop("anchor") == 0.0
    (old / "run.yaml").write_text(yaml.safe_dump(content))
    argv = ["validate", "--config", "run.yaml", "--ckpt.load_enable"]
    assert cli.main(argv) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert "sparsepo: anchor stays 0.0, as this run was begun by an earlier version" in out
    assert "SparsePOOptions(anchor=0.0," in out.splitlines()[-1]
    assert cli.main([*argv, "--sparsepo.anchor", "3"]) == 2
    assert "sparsepo.anchor is 3.0 now and was 0.0" in capsys.readouterr().err
