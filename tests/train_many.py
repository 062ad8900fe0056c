"""Run several trainings in one process, because the imports take longer than a tiny run.

Usage, under torchrun too: ``python train_many.py RUNS.json RESULTS.json``; RUNS.json lists command lines.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
from pathlib import Path

from sparsepo_plugin import train_dpo

if __name__ == "__main__":
    results = []
    for argv in json.loads(Path(sys.argv[1]).read_text()):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = train_dpo.main(argv)
        results.append({"code": code, "out": out.getvalue(), "err": err.getvalue()})
    if os.environ.get("RANK", "0") == "0":
        Path(sys.argv[2]).write_text(json.dumps(results))
