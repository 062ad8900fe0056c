"""The released implementation's numbers: losses, masks, gradients and whole models."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from batches import by_term, learned
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo_plugin.forward.statistics.reference import token_stats
from sparsepo_plugin.losses.sparsepo import SparsePOOptions, sparsepo
from sparsepo_plugin.objective import masked_scores
from sparsepo_plugin.types import Masks, ReferenceShape, ReferenceState

HERE = Path(__file__).parent
SHARED = Path(os.environ.get("SPARSEPO_SHARED", HERE.parents[2] / "shared")) / "golden"
NAMES = {"weight": "w.weight", "bias": "w.bias", "mixer": "mixer.weight"}
NAMES |= {"norm_weight": "layer_norm.weight", "norm_bias": "layer_norm.bias"}


def files(kind):
    """The subset kept here, and every file of the whole set that is not in it."""
    found = {path.name: path for folder in (SHARED, HERE) for path in folder.glob(f"{kind}_*.npz")}
    return [pytest.param(path, id=path.stem) for _, path in sorted(found.items())]


def tensor(data, name, dtype=torch.float64):
    return torch.from_numpy(np.asarray(data[name])).to(dtype)


def close(got, want, tolerance, relative=0.0):
    torch.testing.assert_close(
        torch.as_tensor(got).detach().double(), torch.as_tensor(want).double(), atol=tolerance, rtol=relative
    )


def loss_inputs(data, dtype):
    logits = tensor(data, "policy_logits", dtype).requires_grad_()
    reference = tensor(data, "reference_logits", dtype).requires_grad_()
    reward = tensor(data, "reward_mask", dtype).requires_grad_()
    kl = reward if data["common_mask"] else tensor(data, "kl_mask", dtype).requires_grad_()
    stats = token_stats(logits, reference, torch.from_numpy(data["labels"]))
    options = SparsePOOptions(
        masks="common" if data["common_mask"] else "independent",
        normalise="none",
        reward_l1=float(data["l1_u"]),
        kl_l1=float(data["l1_d"]),
    )
    return logits, reference, Masks(reward, kl), stats, options


@pytest.mark.parametrize("path", files("loss"))
@pytest.mark.parametrize(
    ("suffix", "dtype", "tolerance"), [("f64", torch.float64, 1e-10), ("f32", torch.float32, 1e-5)]
)
def test_loss_values_and_gradients_are_the_releases(path, suffix, dtype, tolerance):
    data = np.load(path)
    logits, reference, masks, stats, options = loss_inputs(data, dtype)
    beta = float(data["beta"])
    output = sparsepo(stats, masks, beta, options)
    loss = output.losses.mean()
    loss.backward()

    assert torch.equal(stats.response_mask, torch.from_numpy(data["loss_mask"]))
    close(loss, data[f"loss_{suffix}"], tolerance)
    close(output.losses, data[f"per_example_loss_{suffix}"], tolerance)
    close(output.logits, data[f"z_{suffix}"], tolerance)
    reward_only = masked_scores(stats, Masks(masks.reward_mask, None))
    close(reward_only.chosen - reward_only.rejected, data[f"u_{suffix}"], tolerance, tolerance)
    kl_only = masked_scores(stats, Masks(torch.zeros_like(masks.reward_mask), masks.kl_mask))
    close(kl_only.rejected - kl_only.chosen, data[f"d_{suffix}"], tolerance, tolerance)
    close(masks.reward_mask.grad, data[f"grad_reward_mask_{suffix}"], tolerance)
    if not data["common_mask"]:
        close(masks.kl_mask.grad, data[f"grad_kl_mask_{suffix}"], tolerance)
    want = data["grad_policy_logits"]
    close(logits.grad, want, (1e-6 if dtype == torch.float64 else 1e-5) * float(abs(want).max()))
    assert reference.grad is None


@pytest.mark.parametrize("path", files("loss"))
def test_rewards_differ_from_the_release_on_purpose_and_their_margin_is_the_logit(path):
    """The release logs beta (U - K), although its loss rewards beta (U + K); ours follow the loss."""
    data = np.load(path)
    _, _, masks, stats, options = loss_inputs(data, torch.float64)
    output = sparsepo(stats, masks, float(data["beta"]), options)
    close(output.chosen_rewards - output.rejected_rewards, data["z_f64"], 1e-10)
    k = masked_scores(stats, Masks(torch.zeros_like(masks.reward_mask), masks.kl_mask))
    beta = float(data["beta"])
    close(output.chosen_rewards - 2 * beta * k.chosen, data["rewards_chosen_f64"], 1e-10)
    close(output.rejected_rewards - 2 * beta * k.rejected, data["rewards_rejected_f64"], 1e-10)
    if k.chosen.abs().max() > 1e-6:
        assert not np.allclose(output.chosen_rewards.numpy(), data["rewards_chosen_f64"], atol=1e-8)


def upstream_name(own, layer, layers):
    """Name of a slice of our stacked parameters in the release."""
    if own in ("weight", "bias"):
        return f"w_per_layer.{layer}.{NAMES[own]}" if layers == "all" else NAMES[own]
    return NAMES[own]


def slices(module, layers):
    """Yield (release's name, view of value, view of gradient) for every parameter of a mask."""
    for own, parameter in module.named_parameters():
        for layer in range(len(parameter) if own in ("weight", "bias") else 1):
            whole = own not in ("weight", "bias")
            pick = (lambda t: t) if whole else (lambda t, layer=layer: t[layer])
            yield upstream_name(own, layer, layers), pick(parameter.data), parameter, pick


def load(module, data, prefix, layers):
    for name, view, _, _ in slices(module, layers):
        view.copy_(torch.from_numpy(data[prefix + name]).reshape(view.shape))


@pytest.mark.parametrize("path", files("mask"))
@pytest.mark.parametrize(
    ("suffix", "dtype", "tolerance"), [("f64", torch.float64, 1e-10), ("f32", torch.float32, 1e-5)]
)
def test_learned_mask_and_its_gradients_are_the_releases(path, suffix, dtype, tolerance):
    data = np.load(path)
    layers = "all" if data["mask_model"] == "simple_all" else "last"
    hidden = tensor(data, "hidden_states", dtype)
    shape = ReferenceShape(hidden.shape[-1], len(hidden) - 1, float(data["layer_norm_eps"]))
    activation = str(data["layer_activation"])
    # The release's last-layer mask has one activation; here it is the mixer's.
    mixer = str(data["mixer_activation"]) or activation
    options = {"layer_activation": activation, "mixer_activation": mixer}
    source = learned(shape, mask_on="reward", layers=layers, **options).to(dtype)
    (module,) = by_term(source).values()
    load(module, data, "param.", layers)
    mask = source(ReferenceState(tuple(hidden[1:]), torch.from_numpy(data["loss_mask"]))).reward_mask
    (mask * tensor(data, "functional", dtype)).sum().backward()

    close(mask, data[f"mask_{suffix}"], tolerance)
    found = {name: pick(parameter.grad) for name, _, parameter, pick in slices(module, layers)}
    assert {f"grad.{name}" for name in found} == {name for name in data.files if name.startswith("grad.")}
    for name, grad in found.items():
        want = data[f"grad.{name}"]
        close(grad, want.reshape(grad.shape), tolerance * max(1.0, float(abs(want).max())))


def batch_of(data):
    """Pad both sides to the common length and stack chosen over rejected."""
    fill = {"input_ids": int(data["pad_token_id"]), "attention_mask": 0, "labels": -100}
    sides = [
        {key: torch.from_numpy(data[f"batch.{side}_{key}"]) for key in fill}
        for side in ("chosen", "rejected")
    ]
    length = max(side["labels"].shape[1] for side in sides)
    return {
        key: torch.cat(
            [torch.nn.functional.pad(s[key], (0, length - s[key].shape[1]), value=value) for s in sides]
        )
        for key, value in fill.items()
    }


def model_of(data, prefix, dtype):
    fields = json.loads(str(data["config_json"]))
    # sdpa: the eager attention of transformers 5 takes its softmax in float32 even in a float64 model.
    config = AutoConfig.for_model(fields.pop("model_type"), **fields, attn_implementation="sdpa")
    for name in ("resid_pdrop", "embd_pdrop", "attn_pdrop", "attention_dropout", "hidden_dropout"):
        if hasattr(config, name):
            setattr(config, name, 0.0)
    model = AutoModelForCausalLM.from_config(config).to(dtype)
    # transformers renamed the output layer of GPT-NeoX between 4.42 and 5.
    state = {
        k.removeprefix(prefix).replace("embed_out", "lm_head"): torch.from_numpy(data[k])
        for k in data.files
        if k.startswith(prefix)
    }
    report = model.load_state_dict(state, strict=False)
    assert not report.unexpected_keys
    assert set(report.missing_keys) <= {"lm_head.weight"}
    return model


@pytest.mark.parametrize("path", files("e2e"))
@pytest.mark.parametrize("masks", ["common", "independent"])
@pytest.mark.parametrize(("suffix", "dtype"), [("f64", torch.float64), ("f32", torch.float32)])
def test_whole_models_give_the_releases_loss_masks_and_gradient_norms(path, masks, suffix, dtype):
    data = np.load(path)
    tolerance = 1e-10 if suffix == "f64" else 1e-5
    run, batch = f"sparse_{masks}.", batch_of(data)
    policy, reference = (model_of(data, prefix, dtype) for prefix in ("policy.", "ref."))
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        state = reference(**inputs, output_hidden_states=True)
    stats = token_stats(policy(**inputs).logits, state.logits, batch["labels"])
    shape = ReferenceShape(state.hidden_states[-1].shape[-1], len(state.hidden_states) - 1)
    source = learned(shape, masks=masks).to(dtype)
    upstream = {"common": "common_mask", "reward": "rw_mask", "kl": "kl_mask"}
    for name, module in by_term(source).items():
        load(module, data, f"{run}mask_param.{upstream[name]}.", "all")
    found = source(ReferenceState(tuple(state.hidden_states[1:]), stats.response_mask))
    options = SparsePOOptions(
        masks=masks, normalise="none", reward_l1=float(data[f"{run}l1_u"]), kl_l1=float(data[f"{run}l1_d"])
    )
    loss = sparsepo(stats, found, float(data["beta"]), options).losses.mean()
    loss.backward()

    close(loss, data[f"{run}loss_{suffix}"], tolerance)
    close(found.reward_mask, data[f"{run}reward_mask_{suffix}"], tolerance)
    close(found.kl_mask, data[f"{run}kl_mask_{suffix}"], tolerance)
    norms = {name: parameter.grad.norm() for name, parameter in policy.named_parameters()}
    for name, module in by_term(source).items():
        for own, _, parameter, pick in slices(module, "all"):
            norms[f"{upstream[name]}.{own}"] = pick(parameter.grad).norm()
    names = [name.replace("embed_out", "lm_head") for name in data[f"{run}grad_norm_names"].tolist()]
    assert set(names) == set(norms)
    want = dict(zip(names, data[f"{run}grad_norms_{suffix}"].tolist()))
    for name, norm in norms.items():
        limits = {"rel": 1e-8, "abs": 1e-14} if suffix == "f64" else {"rel": 1e-5, "abs": 1e-7}
        assert norm.item() == pytest.approx(want[name], **limits), name
    assert all(parameter.grad is None for parameter in reference.parameters())


def test_the_subset_here_is_the_shared_sets_own_numbers():
    if not SHARED.is_dir():
        pytest.skip("the whole golden set is not on this machine")
    for path in HERE.glob("*_[0-9][0-9].npz"):
        subset, whole = np.load(path), np.load(SHARED / path.name)
        for name in subset.files:
            assert np.array_equal(subset[name], whole[name]), (path.name, name)
