"""Kill a training again and again, resume it each time, and compare it with one that was left alone.

    python benchmarks/kill_resume.py --kills 20 --out /tmp/kills

Tiny model, float32, masks with dropout (so that random states count), a checkpoint every 3 steps. Kills
(SIGKILL to the whole process group) are spread over the run at random moments, every third one while a
checkpoint is being written. Prints one JSON row: kills, how many of them during a checkpoint, steps, largest
difference of a loss and of a final weight; exits 1 where either exceeds 1e-6 or a step is missing or doubled.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file
from tqdm import tqdm

from sparsepo_plugin.adapters.openrlhf import checkpoints
from sparsepo_plugin.demo import language, tiny

TOLERANCE = 1e-6


def prepare(root: Path, pairs: int) -> list[str]:
    """Write model and data; return the flags of the run."""
    tokenizer = tiny.build_tokenizer(language.vocabulary())
    tiny.save_tiny(root / "model", tiny.build_model(tokenizer, hidden_size=32, heads=2), tokenizer)
    language.write_jsonl(language.generate_pairs(pairs, seed=0), root / "pairs.jsonl")
    return [
        *("--loss", "sparsepo", "--sparsepo.dropout", "0.2", "--sparsepo.mask_lr", "0.01"),
        *("--model.model_name_or_path", str(root / "model"), "--data.dataset", str(root / "pairs.jsonl")),
        *("--data.prompt_key", "prompt", "--data.max_len", "128", "--ds.param_dtype", "fp32"),
        *("--train.batch_size", "4", "--train.micro_batch_size", "2", "--train.max_epochs", "2"),
        *("--adam.lr", "0.001", "--model.beta", "0.5", "--ckpt.save_steps", "3", "--ckpt.max_num", "1"),
    ]


def command(flags: list[str], folder: Path, processes: int) -> list[str]:
    """Command line of a run in ``folder`` that resumes what is there."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    return [
        *(sys.executable, *(launcher if processes > 1 else []), "-m", "sparsepo_plugin.train_dpo", *flags),
        *("--ckpt.load_enable", "--ckpt.output_dir", str(folder), "--ckpt.path", str(folder / "steps")),
    ]


def start(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """Start a run in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with open(log, "ab") as file:
        return subprocess.Popen(words, stdout=file, stderr=file, env=environment, start_new_session=True)


def steps(folder: Path) -> list[tuple[int, float]]:
    """Steps and losses in the metrics file; a line that is still being written is left out."""
    file = folder / "metrics.jsonl"
    lines = file.read_text(encoding="utf-8").split("\n")[:-1] if file.is_file() else []
    return [(row["step"], row["loss"]) for row in map(json.loads, lines)]


def writing(folder: Path) -> bool:
    """Whether a checkpoint is being written."""
    return any((folder / "steps").glob(f"*/{checkpoints.PARTIAL}"))


def kill_when(
    process: subprocess.Popen[bytes], moment: Callable[[], bool], delay: float, folder: Path
) -> bool | None:
    """Kill the group ``delay`` seconds after the moment; returns whether a checkpoint was being written.

    None: the run ended before.
    """
    while not moment():
        if process.poll() is not None:
            return None
        time.sleep(0.0005)
    time.sleep(delay)
    during = writing(folder)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return during


def interrupted(words: list[str], folder: Path, kills: int, total: int, seed: int) -> tuple[int, int]:
    """Run to the end through ``kills`` kills, spread over the ``total`` steps.

    Returns:
      How many kills there were, and how many of them while a checkpoint was being written.
    """
    rng, done, during = random.Random(seed), 0, 0
    log = folder.with_suffix(".log")
    for kill in tqdm(range(kills), desc="kills"):
        target, saving = 1 + kill * (total - 6) // kills, kill % 3 == 2
        process = start(words, log)
        found = kill_when(
            process, moment(folder, target, saving), rng.random() * (0.01 if saving else 0.2), folder
        )
        if found is None:
            break
        done, during = done + 1, during + found
    if start(words, log).wait():
        raise SystemExit(f"the run failed, see {log}")
    return done, during


def moment(folder: Path, target: int, saving: bool) -> Callable[[], bool]:
    """True once this start of the run has reached a step (and, if asked for, is writing a checkpoint)."""
    started = time.time()
    file = folder / "metrics.jsonl"

    def reached() -> bool:
        if not file.is_file() or file.stat().st_mtime <= started or not (found := steps(folder)):
            return False
        return found[-1][0] >= target and (writing(folder) or not saving)

    return reached


def main() -> int:
    """Run both, compare, print the row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=120, help="a step is 4 pairs, twice over")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for model, data and both runs")
    arguments = parser.parse_args()
    root: Path = arguments.out
    for name in ("whole", "killed"):
        shutil.rmtree(root / name, ignore_errors=True)
    flags = prepare(root, arguments.pairs)
    words = {name: command(flags, root / name, arguments.processes) for name in ("whole", "killed")}
    if start(words["whole"], root / "whole.log").wait():
        raise SystemExit(f"the uninterrupted run failed, see {root / 'whole.log'}")
    kills, during = interrupted(
        words["killed"], root / "killed", arguments.kills, len(steps(root / "whole")), arguments.seed
    )
    one, other = (steps(root / name) for name in ("whole", "killed"))
    same = [step for step, _ in one] == [step for step, _ in other]
    loss = max(abs(a - b) for (_, a), (_, b) in zip(one, other))
    weight = 0.0
    for file in ("model.safetensors", "sparsepo_masks.safetensors"):
        left, right = (load_file(root / name / file) for name in ("whole", "killed"))
        weight = max([weight, *(float((left[key] - right[key]).abs().max()) for key in left)])
    row = {"kills": kills, "during_checkpoint": during, "steps": len(one), "same_steps": same}
    print(json.dumps({**row, "loss_difference": loss, "weight_difference": weight}))
    return int(not same or loss > TOLERANCE or weight > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
