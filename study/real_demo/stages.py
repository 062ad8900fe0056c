"""Run the demo's stages in order; one that is finished with the same settings is not run again."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sparsepo_plugin.errors import RunFailedError
from sparsepo_plugin.files import write_text


class Stages:
    """The order of work, what it took, and what is done.

    Args:
      out: folder of the demo; stages.json in it is the memory.
      key: of everything that shapes the results; another key runs all stages again.
      total: number of stages, for the headings.
      threads: of torch in every stage.
    """

    def __init__(self, out: Path, key: str, total: int, threads: int) -> None:
        self.path, self.key, self.total, self.threads = out / "stages.json", key, total, threads
        self.done: dict[str, dict[str, float]] = {}
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
            if known["key"] == key:
                self.done = {str(name): dict(took) for name, took in known["done"].items()}
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            pass  # none yet, or one that cannot be read: everything is run
        self.number = 0

    def run(self, name: str, work: Callable[[], None]) -> None:
        """Do a stage; its wall and processor time are kept."""
        self.number += 1
        heading = f"[{self.number}/{self.total}] {name}"
        if name in self.done:
            print(f"{heading}: done before", flush=True)
            return
        print(heading, flush=True)
        wall, spent = time.monotonic(), _processor_time()
        work()
        took = {"wall": time.monotonic() - wall, "processor": _processor_time() - spent}
        self.done[name] = took
        write_text(self.path, json.dumps({"key": self.key, "done": self.done}, indent=1) + "\n")
        print(f"{heading}: {took['wall']:.0f} s, {took['processor']:.0f} s of processor time", flush=True)

    def tool(self, words: Sequence[object], fine: Sequence[int] = (0,)) -> None:
        """Run `sparsepo` or `eval-harness`; progress bars go to the terminal.

        Raises:
          RunFailedError: another exit code than the fine ones.
        """
        module = {"sparsepo": "sparsepo_plugin", "eval-harness": "eval_harness"}[str(words[0])]
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(self.threads), "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }  # fmt: skip
        command = [sys.executable, "-m", module, *map(str, words[1:])]
        if (code := subprocess.run(command, env=environment).returncode) not in fine:
            raise RunFailedError(
                f"{' '.join(map(str, words[:2]))}: got exit code {code}; its message is above"
            )


def _processor_time() -> float:
    """User and system time of this process and its finished children, in seconds."""
    return sum(
        used.ru_utime + used.ru_stime
        for used in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def key_of(settings: dict[str, Any], files: Sequence[Path]) -> str:
    """Hash of settings and of the content of files."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for path in files:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
