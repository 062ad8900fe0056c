"""The demo: generated preference data with planted tokens, a tiny Llama, ``--loss sparsepo``, a report.

Training is the real thing: OpenRLHF's DPO trainer on DeepSpeed, started as a user would start it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from sparsepo_plugin import checkpoint, files
from sparsepo_plugin.demo import choices, duel, language, tiny
from sparsepo_plugin.demo.planted import MaskQuality, mask_quality
from sparsepo_plugin.demo.supervised import supervised_start
from sparsepo_plugin.errors import RunFailedError, UserError
from sparsepo_plugin.metrics import wilson_interval
from sparsepo_plugin.report.plots.training import plot
from sparsepo_plugin.report.view.page import view
from sparsepo_plugin.run_folder.metrics import FILE as METRICS_FILE

TRAIN_PAIRS, HELD_OUT_PAIRS, SUPERVISED_PAIRS, CHOICE_ITEMS = 800, 300, 600, 600
SUPERVISED_STEPS, EPOCHS, BATCH, MAX_LEN = 300, 3, 16, 64
SETTINGS: dict[str, Any] = {
    "loss": "sparsepo",
    # The demo shows what masks find; its figures in README and docs are of masks alone.
    "sparsepo.anchor": 0.0,
    "sparsepo.record": HELD_OUT_PAIRS,
    "model.beta": 0.5,
    "adam.lr": 3e-4,
    "train.batch_size": BATCH,
    "train.micro_batch_size": BATCH,
    "train.max_epochs": EPOCHS,
    "data.prompt_key": "prompt",
    "data.max_len": MAX_LEN,
    "ds.param_dtype": "fp32",
    "eval.steps": 50,
}


class Paths(NamedTuple):
    """Files and folders of a demo run."""

    reference: Path
    train: Path
    held_out: Path
    output: Path
    log: Path


def demo(out: str, seed: int = 0) -> None:
    """Run the demo and print where everything is and what was learned.

    Args:
      out: folder for data, models and logs; a demo run in it is replaced.
      seed: seed of data, models and training.

    Raises:
      UserError: ``out`` cannot be written or holds other files, or training failed (its log is named).
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # A model this small gains nothing from a second thread and stalls when the cores are shared.
    torch.set_num_threads(1)
    started = time.monotonic()
    paths = _prepare(Path(out), seed)
    print(f"[1/3] supervised start: {SUPERVISED_STEPS} steps on {2 * SUPERVISED_PAIRS} generated texts")
    _build_reference(paths, seed)
    steps = EPOCHS * (TRAIN_PAIRS // BATCH)
    print(f"[2/3] --loss {SETTINGS['loss']}: {steps} steps through OpenRLHF's DPOTrainer on DeepSpeed")
    _train(paths, seed, steps)
    print("[3/3] planted tokens found by the mask, on held-out pairs")
    _report(paths, seed)
    _show(paths)
    print(f"done in {time.monotonic() - started:.0f} s")


def _prepare(out: Path, seed: int) -> Paths:
    files.claim(out, ".sparsepo-demo", f"--out {out}")
    paths = Paths(
        out / "reference", out / "train.jsonl", out / "held_out.jsonl", out / "policy", out / "train.log"
    )
    # One stream of pairs, cut in two, so that no held-out pair was trained on.
    pairs = language.generate_pairs(TRAIN_PAIRS + HELD_OUT_PAIRS, seed)
    language.write_jsonl(pairs[:TRAIN_PAIRS], paths.train)
    language.write_jsonl(pairs[TRAIN_PAIRS:], paths.held_out)
    # For the evaluation that `make demo` runs after this: what the supervised start can do should be kept.
    choices.write_choice_tasks(out / "capability", CHOICE_ITEMS, seed + 2)
    duel.write_duel(out / "win_rate", pairs[TRAIN_PAIRS:])
    return paths


def _build_reference(paths: Paths, seed: int) -> None:
    tokenizer = tiny.build_tokenizer(language.vocabulary())
    model = tiny.build_model(tokenizer, seed=seed)
    pairs = language.generate_pairs(SUPERVISED_PAIRS, seed + 1)
    texts = [pair.prompt + side for pair in pairs for side in (pair.chosen, pair.rejected)]
    losses = supervised_start(
        model,
        tokenizer,
        texts,
        steps=SUPERVISED_STEPS,
        batch_size=32,
        learning_rate=1e-2,
        seed=seed,
        max_length=MAX_LEN,
        prompts=[pair.prompt for pair in pairs for _ in range(2)],
    )
    floor = language.entropy_floor(pairs)
    change = f"{losses[0]:.2f} -> {losses[-1]:.2f} nats per response token"
    print(f"      cross entropy {change} (of the language: {floor:.2f})")
    tiny.save_tiny(paths.reference, model, tokenizer)


def _command(paths: Paths, seed: int) -> list[str]:
    settings = {
        **SETTINGS,
        "train.seed": seed,
        "model.model_name_or_path": paths.reference,
        "data.dataset": paths.train,
        "eval.dataset": paths.held_out,
        "ckpt.output_dir": paths.output,
        "ckpt.path": paths.output / "deepspeed",
    }
    flags = [word for key, value in settings.items() for word in (f"--{key}", str(value))]
    return [sys.executable, "-m", "sparsepo_plugin.train_dpo", *flags, "--eval.at_start", "--overwrite"]


def _train(paths: Paths, seed: int, steps: int) -> None:
    """Train in a process of its own, its output in a log, and follow its metrics with a progress bar."""
    command = _command(paths, seed)
    print("      sparsepo train " + " ".join(command[3:]))
    metrics_file = paths.output / METRICS_FILE
    metrics_file.unlink(missing_ok=True)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with open(paths.log, "wb") as log, tqdm(total=steps, desc="train", leave=False) as bar:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        while process.poll() is None:
            time.sleep(0.3)
            rows = _metrics(metrics_file, "train")
            bar.update(len(rows) - bar.n)
            if rows:
                last = rows[-1]
                bar.set_postfix(loss=f"{last['loss']:.3f}", accuracy=f"{last['accuracy']:.2f}")
    if process.returncode:
        raise RunFailedError(
            f"training ended with exit code {process.returncode}; its output is in {paths.log}"
        )


def _metrics(path: Path, split: str) -> list[dict[str, Any]]:
    """Complete lines of one split; the last line may still be being written."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [row for row in map(json.loads, lines) if row["split"] == split]


def _report(paths: Paths, seed: int) -> None:
    model = AutoModelForCausalLM.from_pretrained(paths.reference, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(paths.reference)
    pairs = language.read_jsonl(paths.held_out)
    saved = checkpoint.load_masks(paths.output)
    initial = checkpoint.initial_masks(paths.output, seed)
    before, after = (mask_quality(model, tokenizer, module, pairs) for module in (initial, saved.module))
    rows = _metrics(paths.output / METRICS_FILE, "eval")
    print(f"\nheld-out pairs: {len(pairs)}{'':26}before        after")
    for label, key in (
        ("reward accuracy, with 95 % interval", "accuracy"),
        ("the same with masks removed", "accuracy_unmasked"),
    ):
        print(f"  {label:38}{_interval(rows[0][key], len(pairs))}  {_interval(rows[-1][key], len(pairs))}")
    print("  (before training policy = reference: every pair is a tie and counts one half)")
    _quality("sparsity: response tokens with mask 0", before, after, "sparsity")
    _quality("mean of the mask", before, after, "mean")
    _quality("AUC of planted tokens", before, after, "auc")
    best = language.attainable_auc(pairs)
    print(f"  best AUC of any mask that reads the prefix only: {best:.3f}")
    for label, path in (
        ("policy (plain Hugging Face folder)", paths.output),
        ("mask module", paths.output / checkpoint.WEIGHTS),
        ("metrics, one JSON line per step", paths.output / METRICS_FILE),
        ("training log", paths.log),
    ):
        print(f"  {label:38}{path}")


def _show(paths: Paths) -> None:
    """Write the page of the held-out pairs' tokens, and the plots where matplotlib is installed."""
    view(str(paths.output), str(paths.output.parent / "tokens.html"))
    try:
        plot([str(paths.output)], str(paths.output.parent / "plots"))
    except UserError as error:
        print(f"no plots: {error}")


def _interval(share: float, count: int) -> str:
    low, high = wilson_interval(share, count)
    return f"{share:.3f} [{low:.2f}, {high:.2f}]"


def _quality(label: str, before: MaskQuality, after: MaskQuality, field: str) -> None:
    print(f"  {label:38}{getattr(before, field):<14.3f}{getattr(after, field):.3f}")
