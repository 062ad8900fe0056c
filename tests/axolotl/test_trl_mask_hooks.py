"""When the mask module's own optimizer steps, and how its gradients are clipped."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from sparsepo_plugin.adapters.trl.mask_hooks import MaskHooks
from sparsepo_plugin.adapters.trl.sharding import WholeModels, clip_together


def trainer(kind, *, skipped=False, clipping=0.0):
    """What ``step_masks`` looks at; ``stepped`` collects what the optimizer was told."""
    parameter, stepped = torch.nn.Parameter(torch.zeros(4)), []
    parameter.grad = torch.full((4,), 2.0)
    return SimpleNamespace(
        mask_training=SimpleNamespace(
            optimizer=SimpleNamespace(step=stepped.append), parameters=[parameter]
        ),
        accelerator=SimpleNamespace(optimizer_step_was_skipped=skipped),
        model_wrapped=SimpleNamespace(gradient_clipping=lambda: clipping),
        _spread=SimpleNamespace(kind=kind, models=WholeModels()), _rate_share=0.5, stepped=stepped,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "clipping", "norm"), [("deepspeed", 0.1, 0.1), ("deepspeed", 0.0, 4.0), ("fsdp2", 0.1, 4.0)]
)
def test_under_deepspeed_the_masks_are_clipped_by_their_own_norm(kind, clipping, norm):
    one = trainer(kind, clipping=clipping)
    MaskHooks.step_masks(one)
    assert one.stepped == [0.5]
    assert one.mask_training.parameters[0].grad.norm().item() == pytest.approx(norm, rel=1e-4)


def test_the_masks_do_not_step_where_the_policy_did_not():
    one = trainer("deepspeed", skipped=True)
    MaskHooks.step_masks(one)
    assert one.stepped == []


def test_clipping_together_is_clipping_one_model():
    generator = torch.Generator().manual_seed(0)
    sets = [[torch.nn.Parameter(torch.zeros(3)) for _ in range(4)] for _ in range(2)]
    for parameter, other in zip(*sets, strict=True):
        parameter.grad = torch.randn(3, generator=generator)
        other.grad = parameter.grad.clone()
    total = clip_together(sets[0][:3], sets[0][3:], 0.2)
    expected = torch.nn.utils.clip_grad_norm_(sets[1], 0.2)
    torch.testing.assert_close(total, expected)
    for parameter, other in zip(*sets, strict=True):
        torch.testing.assert_close(parameter.grad, other.grad)
    assert clip_together(sets[0], [], 1e9) == pytest.approx(0.2, rel=1e-4)
