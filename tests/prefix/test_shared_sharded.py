"""Shared rows in OpenRLHF's Actor and DeepSpeed's engine: two processes, adapters, recomputed layers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from prefix_models import build
from training import environment

from sparsepo_plugin.adapters.prefix.attention import VARLEN
from sparsepo_plugin.demo.language import vocabulary
from sparsepo_plugin.demo.tiny import build_tokenizer

WORKER = Path(__file__).with_name("sharded_worker.py")
CHECKPOINTING = ["--model.gradient_checkpointing_enable"]
CELLS = {
    "zero-3-lora-recomputed": ["--ds.zero_stage", "3", "--ds.lora.rank", "4", *CHECKPOINTING],
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded") / "gemma3"
    build("gemma3").save_pretrained(folder)
    build_tokenizer(vocabulary()[:60]).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("cell", sorted(CELLS))
def test_two_processes_get_the_numbers_of_separate_rows(cell, model_folder, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command = [*launcher, str(WORKER), str(model_folder), str(tmp_path), *CELLS[cell]]
    done = subprocess.run(
        command, env=environment(), capture_output=True, text=True, timeout=300, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    results = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)]
    for result in results:
        assert result["reason"] is None
        assert result["attention"] == VARLEN
        assert result["logps"] < 1e-5
        assert result["gradients"] < 1e-5
        assert result["size"] > 1e-2
        assert result["moving"] >= result["parameters"] / 2
