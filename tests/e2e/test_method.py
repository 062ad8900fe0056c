"""Every loss, mask source and recipe with the real trainer: 20 steps, then the files it leaves."""

from __future__ import annotations

import json
import math

import pytest
from safetensors.torch import load_file
from training import LOSSES, RECIPES, REFERENCE_FREE
from transformers import AutoModelForCausalLM

from sparsepo_plugin import checkpoint, registry
from sparsepo_plugin.demo.tiny import FAMILIES

pytestmark = pytest.mark.slow

MASKED = [f"{family} {loss}" for family in FAMILIES for loss in ("mapo", "sparsepo")]
RUNS = sorted({*(f"llama {loss}" for loss in LOSSES), *MASKED, "llama gentle"})


def test_the_runs_cover_every_registered_loss():
    assert set(LOSSES) == set(registry.names())


@pytest.mark.parametrize("name", RUNS)
def test_twenty_steps_move_the_policy_and_leave_a_plain_checkpoint(name, method_runs):
    run = method_runs[name]
    assert run.code == 0, run.err[-2000:]
    assert "Traceback" not in run.err
    lines = run.lines("train")
    assert [line["step"] for line in lines] == list(range(1, 21))
    assert all(math.isfinite(line["loss"]) for line in lines)
    if name.split()[1] not in REFERENCE_FREE:
        assert lines[0]["margin"] == 0
    assert lines[-1]["margin"] != lines[0]["margin"]
    model, report = AutoModelForCausalLM.from_pretrained(run.folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.model_type == name.split()[0]
    assert (run.folder / checkpoint.WEIGHTS).is_file() is ("sparsepo" in name)


@pytest.mark.parametrize("name", sorted(MASKED))
def test_masks_differ_between_tokens_on_every_family(name, method_runs):
    last = method_runs[name].lines("train")[-1]
    assert last["chosen_sequence_kl"] > 0
    assert 0 < last["reward_mask_mean"] < 3
    assert last["chosen_reward_mask_mean"] != last["rejected_reward_mask_mean"]
    if "mapo" in name:
        assert last["reward_mask_mean"] < 1
        # The smallest value of every row is exactly 0 in one group; in the mean of four it hardly ever is.
        assert last["reward_mask_sparsity"] < 0.2
        return
    saved = checkpoint.load_masks(method_runs[name].folder)
    seed = json.loads((method_runs[name].folder / checkpoint.RECORD).read_text())
    fresh = saved.options.build_masks(checkpoint.ReferenceShape(**seed["reference_shape"]), seed=3)
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(saved.module.parameters(), fresh.parameters()))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_gets_the_work_it_asks_for_and_no_other(loss, method_runs):
    work = method_runs[f"llama {loss}"].work
    needs = registry.get(loss).options().needs()
    batches = 20
    if loss == "sparsepo":  # evaluated first and last: batches of 4 and 3, both models without gradients
        batches = 24
        assert (work["policy"], work["reference"]) == (20, 28)
    else:
        assert work["policy"] == batches
        assert work["reference"] == batches * needs.reference
    assert work["hidden_states"] == batches * needs.hidden_states
    assert work["token_kl"] == batches * needs.token_kl


@pytest.mark.parametrize("name", [*(f"llama {loss}" for loss in LOSSES), *MASKED])
def test_every_loss_is_computed_through_the_fused_head(name, method_runs):
    work = method_runs[name].work
    assert (work["fused"], work["logits"]) == (24 if name == "llama sparsepo" else 20, 0)


def test_without_the_fused_head_the_loss_reads_logits(method_runs):
    """So the counts above can tell one from the other."""
    for head in ("rows", "off"):
        work = method_runs[f"head {head}"].work
        assert (work["fused"], work["logits"]) == (0, 20)


def test_dpo_and_simpo_do_the_least(method_runs):
    for loss, reference, kl in (("dpo", 20, 0), ("simpo", 0, 0), ("mapo", 20, 20)):
        work = {"policy": 20, "reference": reference, "hidden_states": 0, "token_kl": kl}
        assert method_runs[f"llama {loss}"].work == {**work, "fused": 20, "logits": 0}


def test_a_loss_of_another_package_trains_with_its_options(method_runs):
    run = method_runs["llama gentle"]
    assert json.loads((run.folder / "sparsepo_run.json").read_text())["options"]["strength"] == 0.25
    first, *_, last = run.lines("train")
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert last["loss"] != first["loss"]


def test_the_token_record_holds_every_token_of_the_first_pairs(method_runs):
    run = method_runs["llama sparsepo"]
    rows = [json.loads(line) for line in (run.folder / "tokens.jsonl").read_text().splitlines()]
    assert [(row["pair"], row["side"]) for row in rows] == [
        (pair, side) for pair in range(3) for side in ("chosen", "rejected")
    ]
    _, evaluated = run.lines("eval")  # before the first step and after the last
    for row in rows:
        assert row["schema_version"] == 1
        assert row["step"] == evaluated["step"] == 20
        lengths = {
            len(row[key])
            for key in ("tokens", "token_ids", "reward_mask", "kl_mask", "log_ratio", "token_kl")
        }
        assert lengths == {len(row["tokens"])}
        assert row["tokens"][-1] == "<eos>"
        assert row["prompt"].split()[1] in ("one", "another")
        assert row["reward_mask"] == row["kl_mask"]
        assert min(row["token_kl"]) >= 0
        assert any(row["log_ratio"])


def test_a_mask_that_dies_is_reported_once_with_the_remedy(method_runs):
    run = method_runs["dying"]
    assert run.code == 0
    assert run.lines("train")[-1]["reward_mask_sparsity"] == 1
    warnings = [
        line for line in run.out.splitlines() if line.startswith("warning: the reward mask has been 0")
    ]
    assert len(warnings) == 1
    assert "for 20 steps" in warnings[0]
    assert "--sparsepo.init unit" in warnings[0]
    assert "warning" not in method_runs["llama sparsepo"].out


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_of_the_paper_runs_on_a_tiny_model(path, method_runs):
    run = method_runs[path.stem]
    assert run.code == 0, run.err[-2000:]
    assert len(run.lines("train")) >= 3
    options = json.loads((run.folder / "sparsepo_run.json").read_text())
    assert options["loss"] == ("mapo" if "mapo" in path.stem else "sparsepo")
    if "tldr" in path.stem:
        assert (run.folder / "adapter_config.json").is_file()
    else:
        assert load_file(run.folder / "model.safetensors")
