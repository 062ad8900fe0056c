"""The two launches that the tests of modes share."""

from __future__ import annotations

from pathlib import Path

import mode_runs
import pytest
from training import Inputs, Run, run_many

LOADED = 1800  # seconds, a limit for a hung run; the machine may be busy with others
WORKER = Path(__file__).with_name("train_recording.py")


@pytest.fixture(scope="session")
def one_process(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs of one process, by name."""
    mode_runs.write_models(inputs.root)
    folder = tmp_path_factory.mktemp("modes-one")
    return run_many(folder, mode_runs.single_runs(inputs), worker=WORKER, timeout=LOADED)


@pytest.fixture(scope="session")
def two_processes(inputs: Inputs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Run]:
    """Runs of two processes, by name."""
    folder = tmp_path_factory.mktemp("modes-two")
    return run_many(folder, mode_runs.double_runs(inputs), processes=2, worker=WORKER, timeout=LOADED)
