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
        np.testing.assert_allclose(value, DATA[f"{name}.{key}"], atol=1e-6, rtol=0, err_msg=key)
    assert np.abs(step.policy_gradient).max() > 1e-3


def test_every_registered_loss_has_its_vectors():
    assert {f"{name}.loss" for name in registry.names()} <= set(DATA.files)
