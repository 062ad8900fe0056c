"""Opt-in (`make real`, then `make test-real`): shared prefixes and the fused head on SmolLM2, in float32.

Every other test of them uses random weights, whose attention and logits are nearly flat.
"""

from __future__ import annotations

import contextlib
import os

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from sparsepo_plugin.adapters.prefix import attach, detach, probe, reason_against, shared_rows, sharing
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.forward.activations import find_sites
from sparsepo_plugin.forward.head_weights import HeadWeights
from sparsepo_plugin.forward.statistics import fused_statistics
from sparsepo_plugin.forward.statistics.fused import ReferenceRows
from sparsepo_plugin.forward.statistics.reference import token_stats
from study.real_model import folders

pytestmark = pytest.mark.slow
PAIRS = (
    ("Question: Why do leaves fall?\nAnswer:", " Trees save water.", " Because it is cold, I think."),
    ("Write a line about the sea.\n", "The tide took the shore apart.", "The sea is big."),
)  # fmt: skip


@pytest.fixture(scope="module")
def loaded():
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        folder = folders.find(folders.SMOLLM2)
    except UserError as error:
        if os.environ.get("SPARSEPO_REQUIRE_REAL"):
            raise
        pytest.skip(str(error))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def padded(rows):
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=2)
    return ids, (torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]).long()


@pytest.fixture(scope="module")
def batch(loaded):
    """Ids and attention of chosen and of rejected rows, and prompt lengths."""
    tokenizer = loaded[1]
    prompts = [tokenizer(prompt).input_ids for prompt, _, _ in PAIRS]
    sides = [[own + tokenizer(pair[side]).input_ids for own, pair in zip(prompts, PAIRS)] for side in (1, 2)]
    return (*padded(sides[0]), *padded(sides[1]), torch.tensor([len(own) for own in prompts]))


def test_the_probe_lets_the_model_pass(loaded):
    model, _ = loaded
    assert reason_against(model, training=True) is None
    assert probe(model) is None


def test_activation_sites_are_found(loaded):
    names = [site.name for site in find_sites(loaded[0])]
    assert len(set(names)) == len(names)
    blocks = [{name.rpartition("_")[0] for name in names if name.endswith(f"_{i}")} for i in range(30)]
    assert blocks[0] >= {"attn.q_proj", "attn.k_proj", "attn.v_proj", "resid.attention"}
    assert all(block == blocks[0] for block in blocks)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def objective(logits, labels):
    """Log-probabilities of the responses, each with a weight of its own, and their sum's gradient."""
    logps = token_stats(logits, None, labels, with_kl=False).policy_logps.sum(1)
    return logps, (torch.linspace(-1, 1, len(logps)) * logps).sum()


def test_shared_prefixes_give_the_values_and_gradients_of_two_rows(loaded, batch):
    model, _ = loaded
    rows = shared_rows(*batch)
    labels = rows.window.labels
    width = max(batch[0].shape[1], batch[2].shape[1])
    ids = torch.cat(
        [torch.nn.functional.pad(batch[part], (0, width - batch[part].shape[1])) for part in (0, 2)]
    )
    seen = torch.cat(
        [torch.nn.functional.pad(batch[part], (0, width - batch[part].shape[1])) for part in (1, 3)]
    )
    logits = model(ids, attention_mask=seen, use_cache=False).logits
    picked = logits[torch.arange(len(ids))[:, None], rows.own_positions]
    expected, loss = objective(picked, labels)
    wanted = gradients(model, loss)
    attach(model)
    try:
        with sharing(rows):
            logits = model(rows.token_ids, attention_mask=rows.attention_mask, use_cache=False).logits
        found, loss = objective(rows.window.take(logits), labels)
        got = gradients(model, loss)
    finally:
        detach(model)
    assert expected.abs().min() > 1  # nats: these are no flat distributions
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-5)
    for name, want in wanted.items():
        error = (got[name] - want).norm() / want.norm()
        assert error < 1e-4, (name, float(error))


def test_the_fused_head_gives_the_values_and_gradients_of_logits(loaded, batch):
    model, _ = loaded
    ids, seen, *_ = batch
    with torch.no_grad():
        states = model.model(ids, attention_mask=seen, use_cache=False).last_hidden_state
    # A reference that differs, so that the KL is not 0.
    other = states * (1 + 0.05 * torch.randn(states.shape, generator=torch.Generator().manual_seed(0)))
    weight = model.lm_head.weight.detach()
    places = [(row, place) for row, end in enumerate(seen.sum(1).tolist()) for place in range(end - 1)]
    row, place = torch.tensor(places).T
    targets = ids[row, place + 1]
    results = []
    for fused in (True, False):
        hidden, head = states[row, place].clone().requires_grad_(), weight.clone().requires_grad_()
        if fused:
            frozen = contextlib.nullcontext(HeadWeights(weight, None))
            reference = ReferenceRows(other[row, place], lambda frozen=frozen: frozen)
            values = fused_statistics(hidden, HeadWeights(head, None), targets, reference, with_kl=True)
            logps, kl = values.policy_logps, values.token_kl
        else:
            log_p = (hidden.double() @ head.double().T).log_softmax(-1)
            log_q = (other[row, place].double() @ weight.double().T).log_softmax(-1)
            logps = log_p.gather(1, targets[:, None])[:, 0]
            kl = (log_q.exp() * (log_q - log_p)).sum(-1)
        scale = torch.linspace(-1, 2, len(targets))
        found = torch.autograd.grad((scale.to(kl) * logps + scale.flip(0).to(kl) * kl).sum(), (hidden, head))
        results.append((logps.detach(), kl.detach(), *found))
    assert results[1][1].min() > 1e-3
    for got, want in zip(*results):
        # The KL is a small difference of large numbers: it has fewer right digits in float32.
        assert (got - want).norm() / want.norm() < 5e-5
