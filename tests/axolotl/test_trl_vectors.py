"""One step through TRL's trainer gives OpenRLHF's loss and gradients (tests/golden/adapter_vectors.py)."""

from __future__ import annotations

import json

import adapter_vectors as vectors
import numpy as np
import pytest
from trl.trainer.dpo_trainer import DataCollatorForPreference

from sparsepo_plugin import registry

DATA = np.load(vectors.FILE)
VARIANTS = json.loads(str(DATA["variants"]))


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_one_step_gives_the_same_loss_and_gradients_as_openrlhf(name, tiny, tmp_path):
    loss, options = VARIANTS[name]
    policy, reference = (vectors.model_of(DATA[f"weights.{who}"]) for who in ("policy", "reference"))
    given = {"model": policy, "ref_model": reference}
    trainer = tiny.trainer(tmp_path, loss, options, beta=vectors.BETA, given=given, seed=vectors.SEED)
    keys = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = [dict(zip(keys, pair)) for pair in vectors.PAIRS]
    collate = DataCollatorForPreference(pad_token_id=0)
    if trainer.preference_objective.needs.token_weights:
        columns = ("chosen_weights", "rejected_weights")
        rows = [{**row, **dict(zip(columns, pair))} for row, pair in zip(rows, vectors.WEIGHTS)]
        collate = trainer.data_collator
    batch = collate(rows)
    policy.train()
    value = trainer.compute_loss(policy, batch)
    value.backward()
    assert value.item() == pytest.approx(float(DATA[f"{name}.loss"]), abs=1e-5)
    found = {
        "policy_gradient": vectors.gradient(policy),
        "mask_gradient": vectors.gradient(trainer.mask_training.module),
    }
    for key, gradient in found.items():
        expected = DATA[f"{name}.{key}"]
        size = max(1.0, float(np.abs(expected).max(initial=0)))  # rounding goes with the largest term
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * size, rtol=0, err_msg=key)
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_every_registered_loss_has_its_vectors():
    assert set(registry.names()) <= set(VARIANTS)
