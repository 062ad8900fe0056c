"""Compare shared with separate rows in OpenRLHF's Actor under DeepSpeed; each process writes a JSON file.

Usage, under torchrun: ``python sharded_worker.py MODEL OUT [FLAG ...]``; flags are those of a training.
A file of its own in the folder OUT for every process: lines of two that share one pipe can run together.
"""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import torch
from prefix_models import odd_batch, summed_logps, whole_labels

from sparsepo_plugin.adapters.openrlhf import flags, launch
from sparsepo_plugin.adapters.openrlhf.actors import build_actor
from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf

import_openrlhf()
from deepspeed.utils import safe_get_full_grad  # noqa: E402
from openrlhf.models import Actor  # noqa: E402

from sparsepo_plugin.adapters.openrlhf.keeping import PortableStrategy  # noqa: E402
from sparsepo_plugin.adapters.prefix import shared_rows, sharing, start  # noqa: E402


def prepare(argv):
    """The policy in its engine, as upstream's train() builds it."""
    args = flags.parse(argv).arguments
    strategy = launch._build_strategy(functools.partial(PortableStrategy), {}, args)
    strategy.setup_distributed()
    actor = build_actor(
        Actor, args.model.model_name_or_path, attn_implementation="sdpa", param_dtype=args.ds.param_dtype,
        lora_rank=args.ds.lora.rank, target_modules=args.ds.lora.target_modules,
        ds_config=strategy.get_ds_train_config(),
    )  # fmt: skip
    if args.model.gradient_checkpointing_enable:
        actor.gradient_checkpointing_enable({"use_reentrant": False})
    names = ("optim", "lr_scheduler", "lr_warmup_ratio", "min_lr_ratio", "max_norm")
    settings = {name: getattr(args, name) for name in names}
    settings |= {"muon": vars(args.muon), "adam": vars(args.adam), "scheduler_steps": 10}
    (actor, optimizer, _), _ = strategy.prepare((actor, settings), None)
    actor.train()
    return strategy, actor, optimizer


def gradients(strategy, actor, optimizer, logps):
    """The whole gradient of every trained parameter, as every process sees it."""
    loss = (torch.linspace(-1, 1, len(logps)) * logps).sum()
    strategy.backward(loss, actor, optimizer)
    found = {
        name: safe_get_full_grad(parameter).clone()
        for name, parameter in actor.model.module.named_parameters()
        if parameter.requires_grad
    }
    actor.model.optimizer.zero_grad()
    actor.model.micro_steps += 1
    return found


def main():
    path, out, *options = sys.argv[1:]
    argv = ["--model.model_name_or_path", path, "--data.dataset", "none", "--ds.param_dtype", "fp32"]
    argv += ["--train.micro_batch_size", "2", "--train.batch_size", "4"]
    strategy, actor, optimizer = prepare([*argv, *options])
    # Every process has pairs of its own.
    batch = odd_batch([["plain", "the same"], ["responses begin alike", "much longer"]][strategy.get_rank()])
    ids, attention = batch.rows()
    output = actor(ids, attention_mask=attention, return_output=True)
    expected = summed_logps(output["logits"], whole_labels(batch))
    wanted = gradients(strategy, actor, optimizer, expected)

    reason = start(actor, training=True)
    rows = shared_rows(*batch.parts).packed()
    with sharing(rows):
        output = actor(rows.token_ids, attention_mask=rows.attention_mask, return_output=True)
    logps = summed_logps(rows.window.take(output["logits"]), rows.window.labels)
    got = gradients(strategy, actor, optimizer, logps)
    distances = {name: float((wanted[name] - got[name]).abs().max()) for name in wanted}
    sizes = {name: float(value.abs().max()) for name, value in wanted.items()}
    result = {
        "reason": reason, "logps": float((expected - logps).abs().max()), "parameters": len(wanted),
        "gradients": max(distances[name] / max(1.0, sizes[name]) for name in wanted),
        "size": max(sizes.values()), "moving": sum(size > 0 for size in sizes.values()),
        "attention": actor.model.module.config._attn_implementation,
    }  # fmt: skip
    Path(out, f"{strategy.get_rank()}.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main()
