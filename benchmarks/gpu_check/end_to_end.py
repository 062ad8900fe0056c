"""Call 3: whole trainings through the command line, on a tiny model: do the modes run on the device?"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.gpu_check.report import Report, Setting, SkippedError

ROOT = Path(__file__).resolve().parents[2]
MODES: dict[str, list[str]] = {
    "zero-2": ["--ds.zero_stage", "2"],
    "zero-3": ["--ds.zero_stage", "3"],
    "lora": ["--ds.zero_stage", "2", "--ds.lora.rank", "4"],
    "packed": ["--ds.zero_stage", "2", "--ds.packing_samples"],
    "recomputed": ["--ds.zero_stage", "2", "--model.gradient_checkpointing_enable"],
    "two rows": ["--ds.zero_stage", "2", "--perf.prefix", "off"],
    "float32": ["--ds.zero_stage", "2", "--ds.param_dtype", "fp32"],
    "fp16": ["--ds.zero_stage", "2", "--ds.param_dtype", "fp16"],
}


def _need(*packages: str) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise SkippedError(f"not installed: {', '.join(missing)}")


def _run(*command: str) -> str:
    environment = {
        **os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, cwd=ROOT, env=environment
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[:3])} ended with {done.returncode}: {done.stderr[-1500:]}")
    return done.stdout


def _train(folder: Path, *options: str) -> list[float]:
    """Train with a new output folder below ``folder``; the losses of its steps."""
    from sparsepo_plugin.demo.smoke import smoke_flags

    flags = smoke_flags(str(folder))
    if "--ckpt.load_enable" in options:
        flags.remove("--overwrite")
    _run("sparsepo_plugin.train_dpo", *flags, "--loss", "sparsepo", *options)
    return _losses(folder)


def _losses(folder: Path) -> list[float]:
    lines = (folder / "output/metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if row["split"] == "train"]


def mode(report: Report, setting: Setting, name: str) -> None:
    """Train twice: finite losses, the same to the last bit."""
    _need("openrlhf", "deepspeed")
    if name == "fp16" and setting.device == "cpu":
        raise SkippedError("fp16 needs CUDA")
    found = []
    for _ in range(2 if name == "zero-2" else 1):
        with tempfile.TemporaryDirectory() as folder:
            found.append(_train(Path(folder), *MODES[name]))
    report.note("losses", found[0])
    report.require("steps missing", 3 - len(found[0]), 0)
    report.require("last over first loss", found[0][-1] / found[0][0], 1.5)
    if len(found) > 1:
        report.require("second run differs by", max(abs(a - b) for a, b in zip(*found, strict=True)), 0)


def resume_and_export(report: Report, setting: Setting) -> None:
    """Resume from an older checkpoint, export the result, ask the harness about it."""
    _need("openrlhf", "deepspeed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        saving = [*MODES["zero-2"], "--ckpt.save_steps", "1"]
        whole = _train(folder, *saving)
        steps = folder / "output/deepspeed"
        shutil.rmtree(steps / "global_step3")
        (steps / "latest").write_text("global_step2")
        for path in ("metrics.jsonl",):
            (folder / "output" / path).rename(folder / path)
        resumed = _train(folder, *saving, "--ckpt.load_enable")
        report.note("losses", whole)
        report.require("resumed step differs by", abs(resumed[-1] - whole[-1]), 1e-6)
        out = folder / "exported"
        report.note(
            "export", _run("sparsepo_plugin", "export", "--checkpoint", str(steps), "--out", str(out)).strip()
        )
        _ask(report, out)


def _ask(report: Report, model: Path) -> None:
    """The exported folder is one that plain transformers loads and scores."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    loaded, tokenizer = (
        AutoModelForCausalLM.from_pretrained(model).to(device),
        AutoTokenizer.from_pretrained(model),
    )
    ids = torch.arange(3, 23, device=device)[None]
    with torch.no_grad():
        loss = float(loaded(ids, labels=ids).loss)
    report.note("tokens known", len(tokenizer))
    report.require("loss of the export is not finite", float(loss != loss), 0)


def trl_adapter(report: Report, setting: Setting) -> None:
    """TRL's trainer with float32 weights under bfloat16 autocast, as TRL loads them."""
    _need("trl", "datasets")
    from datasets import Dataset

    from sparsepo_plugin.adapters.trl import SparsePOConfig, SparsePOTrainer
    from sparsepo_plugin.demo import language, tiny

    tokenizer = tiny.build_tokenizer(language.vocabulary())
    models = [tiny.build_model(tokenizer) for _ in range(2)]
    with tempfile.TemporaryDirectory() as folder:
        settings = SparsePOConfig(
            output_dir=folder, preference_loss="sparsepo", bf16=setting.device == "cuda",
            use_cpu=setting.device == "cpu", max_steps=3, per_device_train_batch_size=4, report_to=[],
            logging_steps=1, gradient_checkpointing=False, disable_tqdm=True,
        )  # fmt: skip
        columns = ("prompt", "chosen", "rejected")
        pairs = language.generate_pairs(24, seed=0)
        data = Dataset.from_list([{name: getattr(pair, name) for name in columns} for pair in pairs])
        trainer = SparsePOTrainer(*models, settings, train_dataset=data, processing_class=tokenizer)
        trainer.train()
        losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    report.note("losses", losses)
    report.require("losses missing", 3 - len(losses), 0)
    report.require("a loss is not finite", float(any(loss != loss for loss in losses)), 0)
