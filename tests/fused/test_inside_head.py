"""Statistics computed inside the policy's forward pass are those computed behind it, and hooks see them."""

from __future__ import annotations

import pytest
import torch
from test_reading import FAMILIES, SPECIAL, call_of, make_batch, model_of

from sparsepo_plugin.forward.pair_statistics import Asked, inside_head, statistics
from sparsepo_plugin.forward.runner import ForwardRunner
from sparsepo_plugin.forward.sharding import WholeModels


def read(policy, reference, batch, *, inside, grad=True):
    """Statistics and the policy's gradients."""
    window = batch[2]
    runner = ForwardRunner(policy, final=True, warn=pytest.fail)
    with torch.no_grad():
        theirs = ForwardRunner(reference, warn=pytest.fail).read(call_of(reference, batch), window)
    policy.zero_grad()
    with torch.set_grad_enabled(grad):
        if inside:
            compute = lambda found: inside_head(window, found, theirs, Asked(True, True), WholeModels())  # noqa: E731
            ours = runner.read_inside(call_of(policy, batch), window, compute)
            assert ours.logits is None
        else:
            ours = runner.read(call_of(policy, batch), window)
        stats = statistics(ours, theirs, with_kl=True, with_entropy=True, with_states=True)
    if grad:
        ((stats.policy_logps * 0.3).sum() + stats.token_kl.sum()).backward()
    return stats, {name: p.grad for name, p in policy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", [*sorted(FAMILIES), *SPECIAL])
@pytest.mark.parametrize("grad", [True, False])
def test_the_same_values_and_gradients(kind, grad):
    batch, policy, reference = make_batch(), model_of(kind, 1), model_of(kind, 2)
    behind, inside = (read(policy, reference, batch, inside=way, grad=grad) for way in (False, True))
    for value, want in zip(inside[0], behind[0], strict=True):
        assert (value is None) == (want is None)
        if want is not None:
            torch.testing.assert_close(value, want, atol=1e-6, rtol=1e-6)
    assert set(inside[1]) == set(behind[1])
    for name, gradient in behind[1].items():
        size = max(1.0, float(gradient.abs().max()))
        torch.testing.assert_close(inside[1][name], gradient, atol=1e-6 * size, rtol=0, msg=name)


def test_hooks_on_head_and_model_run_before_the_backward_pass_of_the_values():
    """What makes a sharded weight whole in the backward pass stands in hooks on these two outputs."""
    batch, policy, reference = make_batch(), model_of("llama", 1), model_of("llama", 2)
    order = []

    def note(name):
        def hook(_, __, output):
            tensors = (
                output if isinstance(output, tuple) else [output["logits"] if name == "model" else output]
            )
            for tensor in tensors:
                if tensor.requires_grad:
                    tensor.register_hook(lambda _: order.append(name))

        return hook

    policy.get_output_embeddings().register_forward_hook(note("head"))
    policy.register_forward_hook(note("model"))
    policy.model.norm.weight.register_hook(lambda _: order.append("norm"))
    policy.get_output_embeddings().weight.register_hook(lambda _: order.append("weight"))
    read(policy, reference, batch, inside=True)
    assert {"head", "model", "norm", "weight"} == set(order)
    for first in ("head", "model"):
        assert max(place for place, name in enumerate(order) if name == first) < order.index("weight")
        assert order.index(first) < order.index("norm")


def test_the_head_is_left_as_it_was():
    batch, policy = make_batch(), model_of("llama", 1)
    head = policy.get_output_embeddings()
    read(policy, model_of("llama", 2), batch, inside=True)
    assert "forward" not in vars(head)
    assert not head._forward_hooks
    assert not head._forward_pre_hooks
    assert policy(batch[0]).logits.shape[-1] == head.weight.shape[0]
