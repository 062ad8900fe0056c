"""The Triton kernels: their numbers in Triton's interpreter, and that they compile for GPUs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
pytestmark = pytest.mark.slow


@pytest.mark.parametrize("program", ["triton_numbers.py", "triton_compiles.py"])
def test_in_a_process_of_its_own(program):
    # The interpreter is chosen when Triton is first imported.
    interpret = {"TRITON_INTERPRET": "1"} if program == "triton_numbers.py" else {}
    path = Path(__file__).with_name(program)
    done = subprocess.run(
        [sys.executable, path], capture_output=True, text=True, timeout=600, env={**os.environ, **interpret}
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip().endswith("all right")
