"""What a GPU must wait for between forward and backward: values that the host reads, counted on CPU.

Reading a number, finding the places of true entries and indexing by a mask all need the device's answer.
"""

from __future__ import annotations

import collections

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import sparsepo_plugin.losses  # noqa: F401  registers the losses
from sparsepo_plugin import registry
from sparsepo_plugin.adapters.step import PreferenceStep
from sparsepo_plugin.configured_loss import ConfiguredLoss, reference_shape
from sparsepo_plugin.demo import tiny
from sparsepo_plugin.forward.activations import find_sites
from sparsepo_plugin.forward.statistics import shapes
from sparsepo_plugin.forward.window import response_window

TOKENIZER = tiny.build_tokenizer([f"w{number}" for number in range(40)])


class Waits(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.found = collections.Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        flat = torch.utils._pytree.tree_leaves((args[1:], kwargs))
        by_mask = any(isinstance(value, torch.Tensor) and value.dtype == torch.bool for value in flat)
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"):
            self.found[name] += 1
        elif name in ("index", "index_put_", "index_put") and by_mask:
            self.found["index by a mask"] += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["sparsepo", "mapo", "dpo"])
def test_a_training_step_waits_for_its_metrics_once(name, monkeypatch):
    models = [tiny.build_model(TOKENIZER, hidden_size=16, heads=2) for _ in range(2)]
    loss = registry.get(name)
    objective = ConfiguredLoss(loss, loss.options.build({}), reference_shape(models[1].config))
    groups = objective.needs.activations
    step = PreferenceStep(
        objective, *models, objective.build_masks(0), sites=find_sites(models[1], groups) if groups else ()
    )
    # As on a GPU, which does not go through slices of the vocabulary.
    monkeypatch.setattr("sparsepo_plugin.forward.statistics.fused._by_slices", lambda _: False)
    monkeypatch.setattr(shapes, "TILE", {"cpu": 1 << 20})
    ids = torch.randint(3, 40, (6, 12))
    labels = ids.masked_fill(torch.arange(12) < 5, -100)

    def once():
        window = response_window(ids, labels)
        policy = step.run_policy(lambda **asked: models[0](ids, **asked), window)
        reference = step.run_reference(lambda **asked: models[1](ids, **asked), window)
        with Waits() as waits:
            result = step.evaluate(policy, reference, 0.1, evaluating=False)
            result.metrics(0.1)
        return waits.found

    once()
    # The copy of all metrics at once is the only one, and is not among those counted.
    assert once() == {}
    window = response_window(ids, labels)
    with Waits() as waits:
        for _ in range(3):
            window.predicting()
    assert waits.found == {"nonzero": 1}
