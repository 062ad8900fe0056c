"""One run: `sparsepo train` as a user calls it, and what the policy does at every stop."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM

from sparsepo_plugin.errors import RunFailedError
from sparsepo_plugin.files import write_text
from study import data
from study.on_smollm2.domains import Room, write_pairs
from study.on_smollm2.plan import DTYPE, METHODS, WARMUP
from study.sampling import sample

Items = dict[str, list[float]]
_FLAG = {"bfloat16": "bf16", "float32": "fp32"}  # the trainer's names
AT_ONCE = 48  # prompts sampled together: the log-probabilities of all their steps are held


class Point(NamedTuple):
    """What is trained."""

    method: str
    beta: float
    seed: int
    rate: float
    tried: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Of its files."""
        words = [self.method.replace(" ", "_").replace(",", ""), f"{self.beta:g}", f"{self.rate:g}"]
        words += [f"{key}{value:g}" for key, value in self.tried.items()] + [str(self.seed)]
        return "-".join(words)


def measure(room: Room, policy: Any, split: str, seed: int) -> Items:
    """Samples of every prompt of a split: kl in nats, reward, check, length in tokens; draw after draw."""
    tokenizer, scale = room.language.tokenizer, room.scale
    prompts = room.prompts[split] * (scale.draws if split == "test" else 1)
    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    found: Items = {"kl": [], "length": []}
    texts: list[str] = []
    reference = None if policy is room.language.model else room.language.model
    for start in range(0, len(ids), AT_ONCE):
        part = sample(
            policy, reference, ids[start : start + AT_ONCE], length=scale.response,
            seed=10_000 * seed + start, stop=tokenizer.eos_token_id, pad=int(tokenizer.pad_token_id),
        )  # fmt: skip
        found["kl"] += part.kl.tolist()
        found["length"] += (part.tokens != tokenizer.pad_token_id).sum(-1).float().tolist()
        texts += tokenizer.batch_decode(part.tokens, skip_special_tokens=True)
    if room.name == "summaries":
        # A summary is its first paragraph, as people wrote and read them.
        texts = [text.strip().split("\n")[0] for text in texts]
    whole = [prompt + _joined(text) for prompt, text in zip(prompts, texts)]
    found["reward"] = room.reward.logits(whole).tolist()
    if room.check is not None:
        found["check"] = room.check.logits(whole).tolist()
    return found


def _joined(text: str) -> str:
    return text if not text or text[0].isspace() else f" {text}"


def of_start(room: Room, split: str, seed: int) -> Items:
    """The start's own samples, drawn once per split and seed."""
    path = room.work / "items" / f"start-{seed}-{split}-0.json"
    return _kept(path, lambda: measure(room, room.language.model, split, seed))


def _kept(path: Path, make: Any) -> Items:
    if not path.is_file():
        write_text(path, json.dumps(make()))
    found: Items = json.loads(path.read_text(encoding="utf-8"))
    return found


def do(room: Room, point: Point, splits: tuple[str, ...], keep: bool) -> dict[int, dict[str, Items]]:
    """Train and measure; by stop and split. With ``keep`` the last policy within the largest budget stays."""
    folder = room.work / "runs" / point.name
    shutil.rmtree(folder, ignore_errors=True)  # of a killed run
    _train(room, point, folder)
    found: dict[int, dict[str, Items]] = {}
    for step in room.scale.stops:
        made = folder if step == room.scale.stops[-1] else folder / "stops" / f"global_step{step}_hf"
        policy = AutoModelForCausalLM.from_pretrained(made, dtype=getattr(torch, DTYPE)).eval()
        found[step] = {
            split: _kept(
                room.work / "items" / f"{point.name}-{split}-{step}.json",
                lambda split=split, policy=policy: measure(room, policy, split, point.seed),
            )
            for split in splits
        }
        kl = found[step]["validation"]["kl"]
        if keep and sum(kl) / len(kl) <= room.scale.budgets[-1]:
            policy.save_pretrained(room.work / "policies" / point.name)
            room.language.tokenizer.save_pretrained(room.work / "policies" / point.name)
    shutil.copy(folder / "metrics.jsonl", room.work / "items" / f"{point.name}-metrics.jsonl")
    shutil.rmtree(folder)
    return found


def _train(room: Room, point: Point, folder: Path) -> None:
    scale, method = room.scale, METHODS[point.method]
    pool = data.pairs(room.work, "pool")
    mine = random.Random(1000 + point.seed).sample(
        pool, min(scale.pairs, scale.stops[-1] * scale.batch, len(pool))
    )
    # Beside the output folder: a run does not write over what it reads.
    pairs = folder.with_name(f"{folder.name}-pairs.jsonl")
    write_pairs(pairs, mine)
    folder.mkdir(parents=True, exist_ok=True)
    options = {
        "loss": method.loss, "model.model_name_or_path": room.model, "model.beta": point.beta,
        "data.dataset": pairs, "eval.dataset": room.work / "held.jsonl",
        "data.prompt_key": "prompt", "data.chosen_key": "chosen", "data.rejected_key": "rejected",
        "data.max_len": min(scale.prompt + scale.response + 8, 512), "train.batch_size": scale.batch,
        "train.micro_batch_size": scale.micro, "train.max_epochs": 1, "train.seed": point.seed,
        "adam.lr": point.rate, "lr_scheduler": "constant_with_warmup", "lr_warmup_ratio": WARMUP,
        "ds.zero_stage": 0, "ds.param_dtype": _FLAG[DTYPE], "logger.logging_steps": 1,
        "ckpt.output_dir": folder,
        "ckpt.path": folder / "stops", "ckpt.save_steps": scale.stops[0], "ckpt.max_num": len(scale.stops),
        **{f"{method.loss}.{key}": value for key, value in {**method.options, **point.tried}.items()},
    }  # fmt: skip
    command = [sys.executable, "-m", "sparsepo_plugin", "train", "--ckpt.save_hf", "--ckpt.disable_ds"]
    command += [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "HF_HUB_OFFLINE": "1"}
    with open(folder / "train.log", "wb") as log:
        code = subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT).returncode
    pairs.unlink()
    if code:
        raise RunFailedError(f"{point.name}: training got exit code {code}; its messages: {log.name}")
