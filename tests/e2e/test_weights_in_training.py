"""The data's weights in real trainings: however rows are laid out, stopped or evaluated."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from training import FP32, run_many

from sparsepo_plugin import cli
from sparsepo_plugin.adapters.openrlhf.dataset import PromptLength, PromptLengths
from sparsepo_plugin.adapters.openrlhf.outputs import make_batch, make_shared_batch

LAYOUTS = {
    "shared": [],
    "whole": ["--perf.prefix", "off"],
    "packed": ["--perf.prefix", "off", "--ds.packing_samples"],
    "shared and packed": ["--ds.packing_samples"],
    "all logits": ["--perf.prefix", "off", "--perf.head", "off"],
    "by length": ["--data.length_batching"],
}


@pytest.fixture(scope="module")
def runs(inputs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    data = ["--data.dataset", str(inputs.weighted), "--data.max_samples", "32", "--train.max_epochs", "1"]
    evaluated = ["--eval.dataset", str(inputs.held_out_weighted), "--eval.at_start", "--tisdpo.record", "2"]
    common = [*inputs.flags(), *FP32, *data, "--loss", "tisdpo", "--tisdpo.transform", "none"]
    argvs = {name: [*common, *flags, *evaluated] for name, flags in LAYOUTS.items()}
    saved = ["--ckpt.save_steps", "2", "--ckpt.path", str(folder / "stopped/steps")]
    argvs["stopped"] = [*common, *saved]
    argvs["otpo"] = [*inputs.flags(), *FP32, *data, "--loss", "otpo"]
    argvs["otpo packed"] = [*argvs["otpo"], "--ds.packing_samples", "--perf.prefix", "off"]
    argvs["column"] = [*inputs.flags(), *FP32, *data, "--loss", "sparsepo", "--sparsepo.source", "column"]
    first = run_many(folder, argvs)
    shutil.copytree(folder / "stopped", folder / "again/stopped")
    (folder / "again/stopped/steps/latest").write_text("global_step2")
    resumed = [*common, "--ckpt.load_enable", "--ckpt.save_steps", "2"]
    resumed += ["--ckpt.path", str(folder / "again/stopped/steps")]
    return first | {"resumed": run_many(folder / "again", {"stopped": resumed})["stopped"]}


@pytest.mark.parametrize("name", [*LAYOUTS, "stopped", "otpo", "otpo packed", "column", "resumed"])
def test_every_run_ends_well(name, runs):
    assert runs[name].code == 0, runs[name].err[-2000:]


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in ("shared", "by length")])
def test_every_layout_gives_the_same_losses_and_weights(name, runs):
    assert runs[name].losses() == pytest.approx(runs["shared"].losses(), abs=2e-5)
    for split in ("train", "eval"):
        got, want = (
            [line["reward_mask_mean"] for line in runs[which].lines(split)] for which in (name, "shared")
        )
        assert got == pytest.approx(want, abs=1e-6)
    # The rate warms up from 0, so that the second step still finds the policy where the first one did.
    assert len(set(runs["shared"].losses())) == 3


def test_a_loss_on_policy_states_does_not_depend_on_the_layout(runs):
    assert runs["otpo packed"].losses() == pytest.approx(runs["otpo"].losses(), abs=2e-5)


def test_a_resumed_run_goes_on_with_the_datas_weights(runs):
    assert runs["resumed"].losses()[-2:] == pytest.approx(runs["stopped"].losses()[-2:], abs=1e-6)


def test_the_record_shows_the_datas_weights_and_1_where_there_is_none(runs, inputs):
    rows = [json.loads(line) for line in (runs["shared"].folder / "tokens.jsonl").read_text().splitlines()]
    data = [json.loads(line) for line in inputs.held_out_weighted.read_text().splitlines()]
    for row in rows:
        spans = data[row["pair"]][f"{row['side']}_weights"]
        text = data[row["pair"]][row["side"]]
        told = {text[start:end]: number for start, end, number in spans}
        for token, mask in zip(row["tokens"], row["reward_mask"]):
            if mask not in (1.0,):
                assert told[token.strip()] == pytest.approx(mask)
        assert row["reward_mask"][-1] == 1.0
        assert sum(mask != 1.0 for mask in row["reward_mask"]) == sum(number != 1 for *_, number in spans)


def test_a_mask_of_the_data_weighs_both_terms(runs):
    last = runs["column"].lines("train")[-1]
    assert last["reward_mask_mean"] == last["kl_mask_mean"]
    assert 0 < last["reward_mask_mean"] < 1


@pytest.mark.parametrize("data", ["many", "held_out"])
def test_data_without_weights_are_refused_before_a_model_is_loaded(data, inputs, capsys, tmp_path):
    argv = ["validate", *inputs.flags(), "--loss", "tgdpo", "--ckpt.output_dir", str(tmp_path / "out")]
    argv += ["--data.dataset", str(inputs.many if data == "many" else inputs.weighted)]
    argv += ["--eval.dataset", str(inputs.held_out)] if data == "held_out" else []
    assert cli.main(argv) == 2
    error = capsys.readouterr().err
    assert "got no columns chosen_weights and rejected_weights, expected them with --loss tgdpo" in error
    assert ("--eval.dataset" in error) is (data == "held_out")
    assert len(error.strip().splitlines()) == 1


def test_every_way_to_lay_out_rows_puts_the_numbers_at_the_same_tokens():
    prompts, pairs = [[1, 2, 3], [4]], [([5, 6, 7], [8, 9]), ([5], [5, 6, 7, 8])]
    weights = [([0.1, 0.2, 0.3], [0.4, 0.5]), ([0.6], [0.7, 0.8, 0.9, 1.0])]
    rows = [[p + pair[side] for p, pair in zip(prompts, pairs)] for side in (0, 1)]
    padded = []
    for side in rows:
        width = max(map(len, side))
        ids = torch.tensor([row + [0] * (width - len(row)) for row in side])
        padded.append((ids, torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in side])))
    lengths = PromptLengths(
        PromptLength(len(prompt), n, weights=numbers)
        for n, (prompt, numbers) in enumerate(zip(prompts, weights))
    )
    width = max(ids.shape[1] for ids, _ in padded)
    ids, attention = (
        torch.cat([torch.nn.functional.pad(side[part], (0, width - side[0].shape[1])) for side in padded])
        for part in (0, 1)
    )
    want = [[0.1, 0.2, 0.3], [0.6], [0.4, 0.5], [0.7, 0.8, 0.9, 1.0]]
    batches = [make_batch(ids, attention, lengths * 2, packed=packed) for packed in (False, True)]
    batches += [make_shared_batch(*padded, lengths, packed=packed) for packed in (False, True)]
    for batch in batches:
        response = batch.window.labels[:, 1:] != -100
        for row, numbers in enumerate(want):
            assert batch.weights[row][response[row]].tolist() == pytest.approx(numbers)
        assert batch.weights[~response].isnan().all()
