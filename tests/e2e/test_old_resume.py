"""A training that version 0.1.0 began is ended by newer code, with the numbers that the old code gave."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from training import environment

from sparsepo_plugin import checkpoint
from sparsepo_plugin.run_folder import metrics

OLD = Path(__file__).parents[1] / "fixtures" / "run_0.1.0"

pytestmark = pytest.mark.slow


def test_a_run_goes_on_from_an_old_checkpoint_as_the_old_code_did(tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(OLD, folder)
    command = [sys.executable, "-m", "sparsepo_plugin.train_dpo", "--config", "out/sparsepo_config.yaml"]
    done = subprocess.run(
        [*command, "--ckpt.load_enable"], cwd=folder, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    old, new = metrics.read(OLD / "out"), metrics.read(folder / "out")
    for split in ("train", "eval"):
        assert [row["step"] for row in new[split]] == [row["step"] for row in old[split]]
        for before, after in zip(old[split], new[split]):
            assert set(before) <= set(after)
            for name in before.keys() - {"split"}:
                assert after[name] == pytest.approx(before[name], rel=1e-3, abs=1e-5), (split, name)
    expected, state = (checkpoint.load_masks(root / "out").module.state_dict() for root in (OLD, folder))
    for name, value in expected.items():
        torch.testing.assert_close(state[name], value, atol=1e-4, rtol=0, msg=name)
