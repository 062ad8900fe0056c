"""OpenRLHF's adapter still gives the numbers that TRL's has to reproduce (tests/axolotl)."""

from __future__ import annotations

import json

import adapter_vectors as vectors
import numpy as np
import pytest

from sparsepo_plugin import registry

DATA = np.load(vectors.FILE)


VARIANTS = json.loads(str(DATA["variants"]))


@pytest.mark.parametrize("name", sorted(VARIANTS))
def test_one_step_gives_the_recorded_loss_and_gradients(name):
    objective = vectors.objective_of(*VARIANTS[name])
    step = vectors.openrlhf_step(objective, DATA["weights.policy"], DATA["weights.reference"])
    for key, value in step._asdict().items():
        expected = DATA[f"{name}.{key}"]
        # Sums in float32, in another order than when they were recorded: errors go with the largest term.
        size = max(1.0, float(np.abs(expected).max(initial=0)))
        np.testing.assert_allclose(value, expected, atol=4e-6 * size, rtol=0, err_msg=key)
    assert np.abs(step.policy_gradient).max() > 1e-3


def test_every_registered_loss_has_its_vectors():
    assert {f"{name}.loss" for name in registry.names()} <= set(DATA.files)
