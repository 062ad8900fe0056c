"""Runs that leave DeepSpeed checkpoints: whole models and adapters, one process and two, ZeRO 0, 2 and 3."""

from __future__ import annotations

import shutil

import pytest
from training import FP32, SPARSE, run_many

LORA = ["--ds.lora.rank", "4", "--ds.lora.alpha", "8", "--ds.lora.target_modules", "all-linear"]


def _saving(folder, name, *flags):
    return [
        *SPARSE,
        "--train.max_epochs",
        "2",
        "--ckpt.save_steps",
        "2",
        "--ckpt.path",
        str(folder / name / "steps"),
        *flags,
    ]


@pytest.fixture(scope="session")
def saved_runs(inputs, tmp_path_factory):
    """One process: the checkpoint of the last step holds what the run saved in the end."""
    folder = tmp_path_factory.mktemp("saved")
    variants = {
        "zero2": FP32,
        "zero0": [*FP32, "--ds.zero_stage", "0"],
        "bf16": ["--adam.lr", "0.01"],
        "lora": [*FP32, *LORA],
        "lora_zero3": [*LORA, "--ds.zero_stage", "3"],
        "upstream": FP32,
    }
    runs = {name: [*inputs.flags(), *_saving(folder, name, *flags)] for name, flags in variants.items()}
    runs["upstream"] = [word for word in runs["upstream"] if word not in SPARSE]
    return run_many(folder, runs)


@pytest.fixture(scope="session")
def saved_by_two(inputs, tmp_path_factory):
    """Two processes, ZeRO 2 and 3."""
    folder = tmp_path_factory.mktemp("saved-by-two")
    runs = {
        f"zero{stage}": [
            *inputs.flags(),
            *_saving(
                folder, f"zero{stage}", *FP32, "--ds.zero_stage", str(stage), "--train.micro_batch_size", "2"
            ),
        ]
        for stage in (2, 3)
    }
    return run_many(folder, runs, processes=2)


@pytest.fixture(scope="session")
def resumed_by_one(inputs, saved_by_two, tmp_path_factory):
    """Those of two processes taken up by one after their fourth step, through the universal form."""
    folder = tmp_path_factory.mktemp("resumed-by-one")
    runs = {}
    for name, run in saved_by_two.items():
        shutil.copytree(run.folder, folder / name)
        shutil.rmtree(folder / name / "steps/global_step6")
        stage = ["--ds.zero_stage", name.removeprefix("zero")]
        runs[name] = [*inputs.flags(), *_saving(folder, name, *FP32, *stage, "--ckpt.load_enable")]
    return run_many(folder, runs)
