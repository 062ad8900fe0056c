"""Log-probabilities of the reference computed before the training: the same numbers, no reference kept."""

from __future__ import annotations

import pytest
import torch
from datasets import load_from_disk
from peft import LoraConfig
from trl_runs import SPARSE, lines, losses

from sparsepo_plugin import registry
from sparsepo_plugin.adapters import reference_logps
from sparsepo_plugin.adapters.trl import SparsePOTrainer, precomputed
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.forward.window import response_window

POSSIBLE = [
    name
    for name in registry.names()
    if reference_logps.possible(registry.get(name).options().needs())
    and registry.get(name).options().needs().reference
    and not registry.get(name).options().needs().token_weights
]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Rows that are made in memory are cached in a folder that datasets makes for the process."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def trained(tiny, folder, name, options=None, **args):
    trainer = tiny.trainer(
        folder, name, options, max_steps=4, evaluate=True, eval_strategy="steps", eval_steps=4, **args
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", POSSIBLE)
def test_the_same_losses_and_no_reference_in_memory(tiny, tmp_path, name):
    assert {"dpo", "ipo", "cdpo", "dpop"} <= set(POSSIBLE)
    whole = trained(tiny, tmp_path / "whole", name)
    stored = trained(tiny, tmp_path / "stored", name, precompute_ref_log_probs=True)
    assert stored.ref_model is None
    assert losses(tmp_path / "stored") == pytest.approx(losses(tmp_path / "whole"), abs=1e-6)
    for left, right in zip(whole.model.parameters(), stored.model.parameters(), strict=True):
        assert torch.allclose(left, right, atol=1e-6)
    rows = [lines(tmp_path / kind, "eval") for kind in ("whole", "stored")]
    assert rows[1][0]["loss"] == pytest.approx(rows[0][0]["loss"], abs=1e-6)


def test_with_lora_the_base_model_is_the_reference(tiny, tmp_path):
    found = []
    for kind in (False, True):
        torch.manual_seed(0)
        lora = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
        args = {"max_steps": 3, "precompute_ref_log_probs": kind, "given": {"peft_config": lora}}
        trainer = tiny.trainer(tmp_path / str(kind), "dpo", **args)
        trainer.train()
        found.append(losses(tmp_path / str(kind)))
    assert found[1] == pytest.approx(found[0], abs=1e-6)
    assert found[0][0] != pytest.approx(0.6931, abs=1e-3)


def test_losses_without_a_reference_compute_none(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(SparsePOTrainer, "compute_ref_log_probs", None)
    trainer = tiny.trainer(tmp_path, "simpo", precompute_ref_log_probs=True, max_steps=1)
    trainer.train()
    assert "ref_chosen_logps" not in trainer.train_dataset.column_names


def test_they_are_computed_once_and_not_taken_for_upstreams_sums(tiny, tmp_path, monkeypatch):
    calls = []
    real = SparsePOTrainer.compute_ref_log_probs
    monkeypatch.setattr(
        SparsePOTrainer, "compute_ref_log_probs", lambda *args: calls.append(1) or real(*args)
    )
    tiny.rows(8).save_to_disk(tmp_path / "rows")
    given = {"train_dataset": load_from_disk(tmp_path / "rows")}
    first = tiny.trainer(tmp_path / "a", "dpo", precompute_ref_log_probs=True, given=given)
    assert len(calls) == 2
    again = tiny.trainer(tmp_path / "b", "ipo", precompute_ref_log_probs=True, given=given)
    assert len(calls) == 2
    assert again.train_dataset[0]["chosen_ids"] == first.train_dataset[0]["chosen_ids"]
    assert len(first.train_dataset[0]["ref_chosen_logps"]) == precomputed.width(first.train_dataset)
    rows = tiny.rows(2)
    names = {precomputed.marked(rows, first.args)._fingerprint for _ in range(2)}
    shorter = tiny.trainer(tmp_path / "c", "dpo", max_length=32).args
    names |= {rows._fingerprint, precomputed.marked(rows, shorter)._fingerprint}
    assert len(names) == 3


@pytest.mark.parametrize("name", ["sparsepo", "mapo", "tdpo1"])
def test_losses_that_read_more_refuse_it(tiny, tmp_path, name):
    options = SPARSE if name == "sparsepo" else None
    with pytest.raises(UserError, match=r"^precompute_ref_log_probs: got True, expected False with"):
        tiny.trainer(tmp_path, name, options, precompute_ref_log_probs=True)


def test_numbers_of_other_responses_are_refused():
    ids = torch.arange(10).view(2, 5)
    labels = ids.masked_fill(torch.arange(5) < 2, -100)
    window = response_window(ids, labels)
    whole, fewer = torch.ones(2, 3), torch.tensor([[1.0, 2.0, torch.nan], [1.0, 2.0, 3.0]])
    assert reference_logps.in_window(whole, window, precomputed.NAMED).shape == (2, 3)
    with pytest.raises(UserError, match="of other responses than the batch's"):
        reference_logps.in_window(fewer, window, precomputed.NAMED)
