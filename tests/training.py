"""Runs of the real trainer on tiny models: each happens once per session, and many tests assert on it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from sparsepo_plugin.demo.language import generate_pairs, vocabulary, write_jsonl
from sparsepo_plugin.demo.smoke import smoke_flags
from sparsepo_plugin.demo.tiny import FAMILIES, build_model, build_tokenizer, save_tiny

# Both masks are alive at the start with this seed; a dead one would make half of the assertions empty.
SEED = 3
FP32 = ["--ds.param_dtype", "fp32"]
SPARSE = ["--loss", "sparsepo", "--sparsepo.masks", "independent", "--sparsepo.mask_lr", "0.05"]
SPARSE += ["--sparsepo.normalise", "none"]  # masks that may shrink, die and be penalised
TRAIN_MANY = Path(__file__).with_name("train_many.py")
LOSSES = (
    *(
        "cdpo",
        "confpo",
        "criticaldpo",
        "d2po",
        "dpo",
        "dpop",
        "ipo",
        "lddpo",
        "mapo",
        "otpo",
        "sepo",
        "simpo",
    ),
    *("sparsepo", "tdpo1", "tdpo2", "tgdpo", "tisdpo"),
)
REFERENCE_FREE = ("confpo", "sepo", "simpo")
# Losses that read the data's token weights.
WEIGHTED = ("criticaldpo", "sepo", "tgdpo", "tisdpo")
PENALTIES = ["--sparsepo.reward_l1", "0.002", "--sparsepo.kl_l1", "0.001"]


@dataclass(frozen=True)
class Run:
    """A finished run: exit code, what it printed, where it wrote."""

    code: int
    out: str
    err: str
    folder: Path
    work: dict[str, int] = field(default_factory=dict)

    def lines(self, split: str) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl of one split."""
        text = (self.folder / "metrics.jsonl").read_text()
        return [row for row in map(json.loads, text.splitlines()) if row["split"] == split]

    def losses(self) -> list[float]:
        return [row["loss"] for row in self.lines("train")]


@dataclass(frozen=True)
class Inputs:
    """Files that every run reads: models by family, 24 training pairs, 80 of them, 7 held-out pairs.

    ``weighted`` and ``held_out_weighted`` are ``many`` and ``held_out`` with columns of token weights.
    """

    root: Path
    train: Path
    many: Path
    held_out: Path
    weighted: Path
    held_out_weighted: Path

    def model(self, family: str = "llama") -> Path:
        return self.root / family

    def flags(self, family: str = "llama") -> list[str]:
        """Flags common to all runs: 3 steps per epoch, large enough a step to see the loss move."""
        return [
            *("--model.model_name_or_path", str(self.model(family)), "--data.dataset", str(self.train)),
            *("--data.prompt_key", "prompt", "--data.max_len", "128", "--train.seed", str(SEED)),
            *("--train.micro_batch_size", "4", "--train.batch_size", "8", "--adam.lr", "0.003"),
            *("--model.beta", "1.0"),
        ]  # fmt: skip


def environment(**values: str) -> dict[str, str]:
    """Environment of a run; the repository's tests folder is importable, nothing of a launcher is left."""
    gone = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {**{k: v for k, v in os.environ.items() if k not in gone}, "OMP_NUM_THREADS": "1", **values}


def run_many(
    folder: Path,
    runs: dict[str, list[str]],
    *,
    processes: int = 1,
    timeout: float = 400,
    worker: Path = TRAIN_MANY,
    plugins: Path | None = None,
) -> dict[str, Run]:
    """Train several times in one process (or group of processes); each run writes to a folder of its name."""
    argvs = [[*argv, "--ckpt.output_dir", str(folder / name)] for name, argv in runs.items()]
    (folder / "runs.json").write_text(json.dumps(argvs))
    torchrun = [*("-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}")]
    files = [str(path) for path in (worker, folder / "runs.json", folder / "results.json")]
    command = [sys.executable, *(torchrun if processes > 1 else []), *files]
    path = {} if plugins is None else {"PYTHONPATH": f"{plugins}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(
        command, env=environment(**path), capture_output=True, text=True, timeout=timeout, cwd=folder
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-6000:]
    results = json.loads((folder / "results.json").read_text())
    return {name: Run(**result, folder=folder / name) for name, result in zip(runs, results)}


def _byte_tokenizer() -> Any:
    """A tokenizer of Qwen2's own kind: AutoTokenizer gives a qwen2 model no other."""
    from transformers import Qwen2Tokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    vocab = {symbol: number for number, symbol in enumerate(bytes_to_unicode().values())}
    return Qwen2Tokenizer(vocab=vocab, merges=[])


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    """Write models and data once."""
    root = tmp_path_factory.mktemp("inputs")
    words = build_tokenizer(vocabulary())
    for family in FAMILIES:
        tokenizer = _byte_tokenizer() if family == "qwen2" else words
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="save_tiny")  # AutoTokenizer would read other tokens
            save_tiny(
                root / family, build_model(tokenizer, hidden_size=32, heads=2, model_type=family), tokenizer
            )
    pairs = generate_pairs(31, 0)
    write_jsonl(pairs[:24], root / "train.jsonl")
    write_jsonl(pairs[24:], root / "eval.jsonl")
    write_jsonl(pairs[24:], root / "weighted_eval.jsonl", weighted=True)
    write_jsonl(generate_pairs(80, 1), root / "many.jsonl")
    write_jsonl(generate_pairs(80, 1), root / "weighted.jsonl", weighted=True)
    names = ("train", "many", "eval", "weighted", "weighted_eval")
    return Inputs(root, *(root / f"{name}.jsonl" for name in names))


@pytest.fixture(scope="session")
def main_run(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The main job as a user starts it: bfloat16, two epochs, evaluation and TensorBoard."""
    folder = tmp_path_factory.mktemp("main")
    argv = [
        *inputs.flags(), *SPARSE, *PENALTIES,
        *("--train.max_epochs", "2", "--eval.dataset", str(inputs.held_out), "--eval.at_start"),
        *("--logger.tensorboard_dir", str(folder / "tensorboard"), "--ckpt.output_dir", str(folder / "out")),
    ]  # fmt: skip
    command = [sys.executable, "-m", "sparsepo_plugin.train_dpo", *argv]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300, cwd=folder)
    return Run(done.returncode, done.stdout, done.stderr, folder / "out")


@pytest.fixture(scope="session")
def single_runs(inputs: Inputs, main_run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Everything else that one process trains."""
    folder = tmp_path_factory.mktemp("single")
    fp32 = [*inputs.flags(), *FP32]
    evaluated = ["--eval.dataset", str(inputs.held_out), "--eval.at_start"]
    two_epochs = ["--train.max_epochs", "2"]
    saved = [*two_epochs, "--ckpt.save_steps", "2", "--ckpt.path", str(folder / "resumed/steps")]
    runs = {
        "again": ["--config", str(main_run.folder / "sparsepo_config.yaml")],
        "upstream": [*fp32, "--logger.tensorboard_dir", str(folder / "board")],
        "dpo": [*fp32, "--loss", "dpo"],
        "resumed": [*fp32, *SPARSE, *saved],
        "whole": [*fp32, *SPARSE, *PENALTIES, *evaluated, *two_epochs, "--train.micro_batch_size", "8"],
        "accumulated": [*fp32, *SPARSE, *PENALTIES, *evaluated, *two_epochs],
        "stopped": [*inputs.flags(), *SPARSE, "--adam.lr", "1e30", "--lr_scheduler", "constant",
                    "--ckpt.save_steps", "1", "--ckpt.path", str(folder / "stopped/steps")],
        "poisoned": [*fp32, "--loss", "dpo", "--model.model_name_or_path", str(_poisoned(inputs, folder))],
        "hf_steps": [*inputs.flags(), *SPARSE, "--ckpt.save_steps", "2", "--ckpt.save_hf",
                     "--ckpt.disable_ds", "--ckpt.path", str(folder / "hf_steps/steps")],
        "reference": [*fp32, *SPARSE, "--ref.model_name_or_path", str(inputs.model("gpt2"))],
    }  # fmt: skip
    return run_many(folder, runs)


PLUGIN = '''
from dataclasses import dataclass
from torch.nn.functional import softplus
from sparsepo_plugin.options import LossOptions, option
from sparsepo_plugin.registry import register_loss
from sparsepo_plugin.objective import masked_scores, sigmoid_loss

@dataclass(frozen=True)
class GentleOptions(LossOptions):
    strength: float = option(0.5, "how gentle", least=0.0)

@register_loss("gentle", GentleOptions)
def gentle(stats, masks, beta, options):
    """Gentle: a loss of another package."""
    return sigmoid_loss(masked_scores(stats, masks), beta * options.strength)
'''


def plugin_package(root: Path) -> Path:
    """Write a package that registers a loss "gentle" through the entry point; returns its folder."""
    info = root / "gentle_loss-1.0.dist-info"
    info.mkdir(parents=True)
    (root / "gentle_loss.py").write_text(PLUGIN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: gentle-loss\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[sparsepo.losses]\ngentle = gentle_loss\n")
    return root


RECIPES = sorted((Path(__file__).parent.parent / "configs/train/openrlhf/paper").glob("*.yaml"))


@pytest.fixture(scope="session")
def method_runs(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Every loss for 20 steps, the masked ones on every family, a loss of another package, every recipe."""
    folder = tmp_path_factory.mktemp("method")
    twenty = ["--data.dataset", str(inputs.many), "--train.batch_size", "4", *FP32, "--adam.lr", "0.001"]
    runs = {f"llama {name}": [*inputs.flags(), *twenty, "--loss", name] for name in LOSSES}
    for name in REFERENCE_FREE:
        runs[f"llama {name}"] += ["--model.beta", "2.0"]
    for name in WEIGHTED:
        runs[f"llama {name}"] += ["--data.dataset", str(inputs.weighted)]
    runs["llama gentle"] = [*inputs.flags(), *twenty, "--loss", "gentle", "--gentle.strength", "0.25"]
    for head in ("rows", "off"):
        slow = ["--perf.prefix", "off", "--perf.head", head]
        runs[f"head {head}"] = [*inputs.flags(), *twenty, "--loss", "otpo", *slow]
    recorded = ["--eval.dataset", str(inputs.held_out), "--sparsepo.record", "3", "--sparsepo.anchor", "0.1"]
    runs["llama sparsepo"] += recorded
    deadly = ["--sparsepo.mask_lr", "0.5", "--sparsepo.reward_l1", "1", "--train.max_epochs", "2"]
    deadly += ["--sparsepo.normalise", "none"]
    runs["dying"] = [*inputs.flags(), *twenty, "--loss", "sparsepo", *deadly]
    for family in FAMILIES:
        for name in ("mapo", "sparsepo"):
            runs.setdefault(f"{family} {name}", [*inputs.flags(family), *twenty, "--loss", name])
    for path in RECIPES:
        # The trial's own flags come last, as on the command line; they name the folder of the output.
        runs[path.stem] = ["--config", str(path), *smoke_flags(str(folder / "smoke" / path.stem))]
    return run_many(folder, runs, plugins=plugin_package(folder / "plugins"), timeout=580)


def _poisoned(inputs: Inputs, folder: Path) -> Path:
    """Copy the model with one weight that is NaN."""
    from safetensors.torch import load_file, save_file

    target = folder / "poisoned_model"
    shutil.copytree(inputs.model(), target)
    state = load_file(target / "model.safetensors")
    state["model.norm.weight"][0] = float("nan")
    save_file(state, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="session")
def resumed_run(inputs: Inputs, single_runs: dict[str, Run], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run "resumed" taken up again after its fourth step, in a new process and a copy of its folder."""
    folder = tmp_path_factory.mktemp("taken-up")
    shutil.copytree(single_runs["resumed"].folder, folder / "resumed")
    (folder / "resumed/steps/latest").write_text("global_step4")
    argv = [*inputs.flags(), *FP32, *SPARSE, "--train.max_epochs", "2", "--ckpt.load_enable"]
    return run_many(folder, {"resumed": [*argv, "--ckpt.path", str(folder / "resumed/steps")]})["resumed"]


@pytest.fixture(scope="session")
def double_runs(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Two processes, ZeRO-2, half the micro-batch each."""
    evaluated = ["--eval.dataset", str(inputs.held_out), "--eval.at_start", "--train.max_epochs", "2"]
    runs = {"two": [*inputs.flags(), *FP32, *SPARSE, *PENALTIES, *evaluated, "--ds.zero_stage", "2"]}
    runs["stopped"] = [*inputs.flags(), *SPARSE, "--adam.lr", "1e30", "--lr_scheduler", "constant"]
    return run_many(tmp_path_factory.mktemp("double"), runs, processes=2)
