"""The release's MaPO numbers: the mapping on named recordings, and whole models through our hooks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_golden import SHARED, batch_of, close, files, model_of, tensor

from sparsepo_plugin.forward.activations import GROUPS, Recorder, Site, feature_mean
from sparsepo_plugin.forward.statistics.reference import token_stats
from sparsepo_plugin.losses.mapo import MaPOOptions, mapo
from sparsepo_plugin.masks.activation import activation_mask
from sparsepo_plugin.types import Masks


def groups_of(name):
    return GROUPS if name == "all" else tuple(name.split("+"))


def recordings_of(data, dtype=torch.float64):
    return {
        str(name): feature_mean(tensor(data, f"act_{index:03d}", dtype))
        for index, name in enumerate(data["activation_names"])
    }


def in_groups(recordings, groups):
    return {name: value for name, value in recordings.items() if name.split(".")[0] in groups}


def loss_of(data, mask, reference_logits):
    stats = token_stats(tensor(data, "policy_logits"), reference_logits, torch.from_numpy(data["labels"]))
    return mapo(stats, Masks(mask, mask), float(data["beta"]), MaPOOptions())


@pytest.mark.parametrize("path", [p for p in files("mapo") if "edge" not in p.id])
def test_every_set_of_recordings_gives_the_exact_mask_and_loss(path):
    data = np.load(path)
    recordings = recordings_of(data)
    logits = tensor(data, f"act_{list(data['activation_names']).index('logits'):03d}")
    sets = [name.removesuffix(".mask_exact") for name in data.files if name.endswith(".mask_exact")]
    assert len(sets) >= 5
    for name in sets:
        mask = activation_mask(in_groups(recordings, groups_of(name)), torch.from_numpy(data["loss_mask"]))
        output = loss_of(data, mask, logits)
        close(mask, data[f"{name}.mask_exact"], 1e-5)
        close(mask, data[f"{name}.mask_official"], 1e-3)
        close(output.losses.mean(), data[f"{name}.loss_exact"], 1e-5)
        close(output.losses.mean(), data[f"{name}.loss_official"], 2e-4)
        close(output.logits, data[f"{name}.z_exact"], 1e-5)


@pytest.mark.parametrize("path", [p for p in files("mapo") if "edge" in p.id])
def test_rows_on_which_the_release_gives_nan_give_a_finite_mask(path):
    data = np.load(path)
    assert np.isnan(data["mask_official"]).any()
    response = torch.from_numpy(data["loss_mask"])
    mask = activation_mask(recordings_of(data), response)
    output = loss_of(data, mask, tensor(data, "act_000"))
    assert torch.isfinite(mask).all()
    assert torch.isfinite(output.losses).all()
    # One token, and a constant: no contrast, so every token weighs 1. Two tokens: 0 and 1.
    assert mask[0][response[0]].tolist() == [1.0]
    assert set(mask[2][response[2]].tolist()) == {1.0}
    assert sorted(mask[3][response[3]].tolist()) == [0.0, 1.0]


def upstream_sites(family, layers, hidden):
    """Where the release's recordings sit in plain transformers models (README of the golden set)."""
    gpt2 = family == "gpt2"
    stem, block = ("transformer", "transformer.h") if gpt2 else ("gpt_neox", "gpt_neox.layers")
    embedding, final, head = (
        ("drop", "ln_f", "lm_head") if gpt2 else ("emb_dropout", "final_layer_norm", "lm_head")
    )
    sites = [Site("resid.post_emb", f"{stem}.{embedding}"), Site("resid.post_ln_f", f"{stem}.{final}")]
    sites.append(Site("logits", head, "input"))
    for i in range(layers):
        at = f"{block}.{i}"
        names = ("ln_1", "ln_2") if gpt2 else ("input_layernorm", "post_attention_layernorm")
        sites += [
            Site(f"resid.torso.input_ln_attn_{i}", f"{at}.{names[0]}"),
            Site(f"resid.torso.post_ln_attn_{i}", f"{at}.{names[1]}"),
            Site(f"resid.torso.delta_mlp_{i}", f"{at}.mlp"),
            Site(f"resid.torso.post_mlp_{i}", at),
        ]
        if gpt2:  # there delta_attn is the residual after the attention add
            sites.append(Site(f"resid.torso.delta_attn_{i}", f"{at}.ln_2", "input"))
            parts = {"q": (0, hidden), "k": (hidden, 2 * hidden), "v": (2 * hidden, 3 * hidden)}
            sites += [Site(f"attn.{n}_{i}", f"{at}.attn.c_attn", "output", part) for n, part in parts.items()]
            sites.append(Site(f"attn.v_out_{i}", f"{at}.attn.c_proj", "input"))
        else:
            sites.append(Site(f"resid.torso.delta_attn_{i}", f"{at}.attention"))
            sites.append(Site(f"attn.v_out_{i}", f"{at}.attention.dense", "input"))
            sites.append(Site(f"mlp.post_act_{i}", f"{at}.mlp.dense_4h_to_h", "input"))
    return {site.name: site for site in sites}


def end_to_end():
    """Every recorded set of every family but the two of NeoX that need states after the rotary embedding."""
    if not SHARED.is_dir():
        return [pytest.param(None, None, None, marks=pytest.mark.skip(reason="needs the whole golden set"))]
    found = []
    for family in ("gpt2", "gpt_neox"):
        for name in np.load(SHARED / f"e2e_{family}.npz").files:
            run = name.removesuffix(".activation_names")
            if name.startswith("mapo") and name.endswith(".activation_names"):
                beyond_hooks = family == "gpt_neox" and run in ("mapo_all", "mapo_attn")
                found += [] if beyond_hooks else [pytest.param(family, run, name, id=f"{family}-{run}")]
    return found


@pytest.mark.parametrize(("family", "run", "names"), end_to_end())
def test_hooks_on_plain_models_give_the_releases_masks_and_losses(family, run, names):
    data = np.load(SHARED / f"e2e_{family}.npz")
    batch, reference = batch_of(data), model_of(data, "ref.", torch.float32)
    policy = model_of(data, "policy.", torch.float32)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    sites = upstream_sites(family, reference.config.num_hidden_layers, reference.config.hidden_size)
    recorder = Recorder(reference, [sites[str(name)] for name in data[names]])
    with torch.no_grad():
        logits = reference(**inputs).logits
        stats = token_stats(policy(**inputs).logits, logits, batch["labels"])
    mask = activation_mask(recorder.take(), stats.response_mask)
    recorder.remove()
    loss = mapo(stats, Masks(mask, mask), float(data["beta"]), MaPOOptions()).losses.mean()
    close(loss, data[f"{run}.loss_nocast"], 1e-5)
    close(mask, data[f"{run}.mask_nocast"], 1e-4)
    close(mask, data[f"{run}.mask_official"], 1e-3)
    close(loss, data[f"{run}.loss_official"], 2e-4)
