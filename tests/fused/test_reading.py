"""Statistics from states, from response logits and from all logits are the same numbers, on real models."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo_plugin.demo.tiny import FAMILIES, build_model, build_tokenizer
from sparsepo_plugin.forward.pair_statistics import statistics
from sparsepo_plugin.forward.runner import HEAD_MODES, ForwardRunner
from sparsepo_plugin.forward.statistics import LogitMap
from sparsepo_plugin.forward.statistics.reference import statistics_at
from sparsepo_plugin.forward.statistics.sides import Side
from sparsepo_plugin.forward.window import response_window

WORDS = [f"w{number}" for number in range(40)]
# Families whose heads are not plain: what follows them, or that they have a bias.
SPECIAL = {
    "gemma2": {"final_logit_softcapping": 3.0, "query_pre_attn_scalar": 16, "head_dim": 16},
    "granite": {"logits_scaling": 7.0},
    "cohere": {"logit_scale": 0.25},
    "phi": {},
    "gptj": {"rotary_dim": 8, "n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
    "opt": {"ffn_dim": 64, "word_embed_proj_dim": 16, "do_layer_norm_before": True},
}
MAPS = {"gemma2": LogitMap(1.0, 3.0), "granite": LogitMap(1 / 7), "cohere": LogitMap(0.25)}


def model_of(kind, seed):
    """A tiny model, in float32 and without dropout."""
    torch.manual_seed(seed)
    if kind not in SPECIAL:
        return build_model(build_tokenizer(WORDS), hidden_size=32, heads=2, model_type=kind, seed=seed).eval()
    config = AutoConfig.for_model(
        kind, vocab_size=43, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        **SPECIAL[kind],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # so that logits reach into the cap, and a bias is something
        for parameter in model.get_output_embeddings().parameters():
            parameter.normal_()
    return model


@pytest.fixture(scope="module")
def batch():
    return make_batch()


def make_batch():
    generator = torch.Generator().manual_seed(0)
    lengths, prompts = torch.tensor([11, 7, 9, 5]), torch.tensor([4, 3, 4, 3])
    mask = (torch.arange(11) < lengths[:, None]).long()
    ids = torch.randint(3, 40, mask.shape, generator=generator) * mask
    labels = ids.masked_fill((mask == 0) | (torch.arange(11) < prompts[:, None]), -100)
    return ids, mask, response_window(ids, labels)


def call_of(model, batch):
    ids, mask, _ = batch
    return lambda **asked: model(ids, attention_mask=mask, **asked)


def read(policy, reference, batch, mode, said=None):
    """Statistics, the gradients of the policy, and the states of the reference."""
    say = (said if said is not None else []).append
    for parameter in policy.parameters():
        parameter.grad = None
    ours = ForwardRunner(policy, mode=mode, warn=say).read(call_of(policy, batch), batch[2])
    with torch.no_grad():
        theirs = ForwardRunner(reference, mode=mode, states=True, warn=say).read(
            call_of(reference, batch), batch[2]
        )
    stats = statistics(ours, theirs, with_kl=True)
    ((stats.policy_logps * 0.3).sum() + stats.token_kl.sum()).backward()
    return (
        stats,
        {n: p.grad for n, p in policy.named_parameters() if p.grad is not None},
        theirs.hidden_states,
    )


@pytest.mark.parametrize("kind", [*sorted(FAMILIES), *SPECIAL])
def test_all_ways_give_the_same_values_gradients_and_states(kind, batch):
    policy, reference = model_of(kind, 1), model_of(kind, 2)
    said: list[str] = []
    auto, rows, off = (read(policy, reference, batch, mode, said) for mode in HEAD_MODES)
    assert not said
    assert off[0].token_kl.max() > 1e-3
    for stats, gradients, states in (auto, rows):
        for value, want in zip(stats, off[0]):
            torch.testing.assert_close(value, want, atol=1e-5, rtol=1e-5)
        assert set(gradients) == set(off[1])
        for name, gradient in gradients.items():
            # Rounding goes with the largest term of a sum.
            size = max(1.0, float(off[1][name].abs().max()))
            torch.testing.assert_close(gradient, off[1][name], atol=1e-5 * size, rtol=0, msg=name)
        assert len(states) == len(off[2]) == 2
        assert all(map(torch.equal, states, off[2]))
    assert ForwardRunner(policy).read(call_of(policy, batch), batch[2]).logits is None
    found = ForwardRunner(policy).read(call_of(policy, batch), batch[2]).logit_map
    assert found.scale == pytest.approx(MAPS.get(kind, LogitMap()).scale, rel=1e-5)
    assert found.cap == MAPS.get(kind, LogitMap()).cap


def test_states_come_from_hooks_after_the_first_batch_and_are_the_same(batch):
    model, asked = model_of("llama", 1), []

    def call(**given):
        asked.append(given)
        return call_of(model, batch)(**given)

    reader = ForwardRunner(model, states=True)
    with torch.no_grad():
        first, second = (reader.read(call, batch[2]).hidden_states for _ in range(2))
    assert asked == [{"output_hidden_states": True}, {}]
    assert all(map(torch.equal, first, second))


def test_no_logits_are_computed_from_states(batch):
    model = model_of("llama", 1)
    given = []
    model.get_output_embeddings().register_forward_hook(
        lambda _, inputs, __: given.append(inputs[0].shape[:2])
    )
    for mode in HEAD_MODES:
        ForwardRunner(model, mode=mode).read(call_of(model, batch), batch[2])
    count = len(batch[2].predicting()[0])
    assert given == [(1, 1), (1, count), (4, 11)]


class Squared(nn.Module):
    """A model that does to its logits what no map of ours describes."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def get_output_embeddings(self):
        return self.model.get_output_embeddings()

    def forward(self, *args, **options):
        output = self.model(*args, **options)
        output["logits"] = output["logits"] * output["logits"].abs()
        return output


class TwoHeads(Squared):
    """A model that calls its head twice."""

    def forward(self, *args, **options):
        output = self.model(*args, **options)
        output["logits"] = self.get_output_embeddings()(self.model.model(*args, **options)[0])
        return output


def adapted(model):
    return get_peft_model(model, LoraConfig(target_modules=["q_proj", "lm_head"], init_lora_weights=False))


@pytest.mark.parametrize(
    ("make", "mode", "words"),
    [
        (
            Squared,
            "rows",
            "neither a scale nor a soft cap; the loss reads its logits at the response",
        ),
        (TwoHeads, "off", "its output head is called 2 times"),
        (adapted, "rows", "its output head is a Linear; the loss"),
    ],
)
def test_an_unusual_head_is_read_another_way_and_said_once(make, mode, words, batch):
    policy, reference = make(model_of("llama", 1)), model_of("llama", 2)
    said: list[str] = []
    reader = ForwardRunner(policy, warn=said.append)
    for _ in range(2):
        reading = reader.read(call_of(policy, batch), batch[2])
    assert reader.mode == mode
    assert len(said) == 1
    assert words in said[0]
    other = ForwardRunner(reference).read(call_of(reference, batch), batch[2])
    expected = read(policy, reference, batch, "off")[0]
    for value, want in zip(statistics(reading, other, with_kl=True), expected):
        torch.testing.assert_close(value, want, atol=1e-5, rtol=1e-5)


def test_a_frozen_head_under_an_adapter_is_read_from_states(batch):
    policy = get_peft_model(
        model_of("llama", 1), LoraConfig(target_modules=["q_proj"], init_lora_weights=False)
    )
    reference, said = model_of("llama", 2), []
    auto, off = (read(policy, reference, batch, mode, said) for mode in ("auto", "off"))
    assert not said
    assert set(auto[1]) == set(off[1])
    assert all("lora" in name for name in auto[1])
    for name, gradient in auto[1].items():
        torch.testing.assert_close(gradient, off[1][name], atol=1e-6, rtol=1e-4)


def test_a_model_without_a_head_is_read_from_all_logits(batch):
    policy, said = model_of("llama", 1), []
    policy.get_output_embeddings = lambda: None
    assert ForwardRunner(policy, warn=said.append).mode == "off"
    assert said == ["LlamaForCausalLM: it names no output head; the loss reads its logits of all positions"]


def test_a_position_that_predicts_two_tokens_gets_both_gradients():
    generator = torch.Generator().manual_seed(0)
    logits, other = (torch.randn(3, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    index, targets = torch.tensor([1, 0, 1]), torch.tensor([2, 4, 6])
    gradients = []
    for twice in (False, True):
        leaf = logits.clone().requires_grad_()
        table, rows = (leaf[index], torch.arange(3)) if twice else (leaf, index)
        found = statistics_at(table, other[index], rows, torch.arange(3), targets, with_kl=True)
        (found.policy_logps.sum() + found.token_kl.square().sum()).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-12, rtol=0)


@pytest.mark.parametrize("mode", ["auto", "rows"])
def test_a_head_under_autocast_is_multiplied_in_its_dtype(mode, batch):
    """Float32 weights, a trainer's bfloat16 autocast: products in float32 cost a GPU ten times as much."""
    policy, reference = model_of("llama", 1), model_of("llama", 2)

    def under_autocast(model):
        plain = call_of(model, batch)

        def call(**asked):
            with torch.autocast("cpu", dtype=torch.bfloat16):
                return plain(**asked)

        return call

    seen = []
    side_of = Side.of.__func__

    def noted(cls, *given):
        side = side_of(cls, *given)
        seen.append(side.dtype)
        return side

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Side, "of", classmethod(noted))
        outputs = [ForwardRunner(m, mode=mode).read(under_autocast(m), batch[2]) for m in (policy, reference)]
        found = statistics(*outputs, with_kl=True)
        found.policy_logps.sum().backward()
    assert [output.autocast for output in outputs] == [torch.bfloat16] * 2
    if mode == "auto":
        assert outputs[0].states.dtype == torch.float32
        assert set(seen) == {torch.bfloat16}
    # DistributedDataParallel's policy gives logits and its reference states: the head is called for them.
    mixed = statistics(
        ForwardRunner(policy, mode="rows").read(under_autocast(policy), batch[2]), outputs[1], with_kl=True
    )
    plain = read(policy, reference, batch, "off")[0]
    for other in (found, mixed):
        torch.testing.assert_close(other.policy_logps, plain.policy_logps, atol=5e-2, rtol=0)
        torch.testing.assert_close(other.token_kl, plain.token_kl, atol=5e-2, rtol=0)
    assert ForwardRunner(policy, mode=mode).read(call_of(policy, batch), batch[2]).autocast is None


@pytest.mark.parametrize("mode", HEAD_MODES)
@pytest.mark.parametrize("kind", [*sorted(FAMILIES), "gemma2"])
def test_entropy_and_final_states_are_the_models_own_in_every_mode(kind, mode, batch):
    model, (ids, mask, window) = model_of(kind, 1), batch
    runner = ForwardRunner(model, mode=mode, final=True, warn=lambda line: None)
    for _ in range(2):  # the first time a runner finds out what the model allows
        output = runner.read(call_of(model, batch), window)
    stats = statistics(output, None, with_kl=False, with_entropy=True, with_states=True)
    with torch.no_grad():
        plain = model(ids, attention_mask=mask, output_hidden_states=True)
    log_p = window.take(torch.log_softmax(plain.logits, -1))[:, :-1]
    want = torch.where(stats.response_mask, -(log_p.exp() * log_p).sum(-1), 0.0)
    torch.testing.assert_close(stats.entropy, want, atol=2e-5, rtol=1e-5)
    states = window.take(plain.hidden_states[-1])[:, :-1].masked_fill(~stats.response_mask[..., None], 0.0)
    torch.testing.assert_close(stats.policy_states, states, atol=1e-5, rtol=1e-5)
    assert not stats.policy_states.requires_grad
    assert not stats.entropy.requires_grad
    assert stats.policy_logps.requires_grad
