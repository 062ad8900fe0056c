"""Where a run writes: never over what it reads, over another run, or where nothing can be written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import yaml

from sparsepo_plugin import checkpoint, config, files
from sparsepo_plugin.adapters.openrlhf import checkpoints, reporting
from sparsepo_plugin.adapters.openrlhf.run_identity import is_free
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.run_folder import configuration, histograms, lock, metrics, tokens

_RUN_FILES = (
    *(configuration.FILE, configuration.RUN_FILE, metrics.FILE),
    *(tokens.FILE, tokens.EARLIER, histograms.FILE),
)
_LOGS = (".log", ".out", ".err")  # what a shell or a scheduler writes beside the run
_FINISHED = ("config.json", "adapter_config.json")


def check(arguments: SimpleNamespace) -> None:
    """Refuse a run that would damage something, or could not write its results.

    Raises:
      UserError: the first thing found.
    """
    if arguments.overwrite and arguments.ckpt.load_enable:
        raise UserError("--overwrite: got --resume (--ckpt.load_enable) as well, expected one of them")
    output, steps = folders(arguments)
    targets = {"--ckpt.output_dir": output}
    if saves(arguments) or arguments.ckpt.load_enable:
        targets["--ckpt.path"] = steps
    for flag, folder in targets.items():
        lock.check_free(folder)
        files.check_folder(folder, f"{flag} {folder}")
        _check_inputs(arguments, flag, folder)
    _check_cache()
    _check_room(arguments, targets)
    _check_steps(arguments, steps)
    _check_output(arguments, output)


def folders(arguments: SimpleNamespace) -> tuple[Path, Path]:
    """Folder of the results and folder of the checkpoints."""
    return Path(arguments.ckpt.output_dir), Path(arguments.ckpt.path)


def saves(arguments: SimpleNamespace) -> bool:
    """Whether the run writes checkpoints."""
    steps = arguments.ckpt.save_steps
    return steps not in (-1, float("inf")) and (not arguments.ckpt.disable_ds or arguments.ckpt.save_hf)


def begin(arguments: SimpleNamespace) -> None:
    """Remove what an earlier run left, where --overwrite asks for it; files that no run writes stay."""
    if not arguments.overwrite:
        return
    output, steps = folders(arguments)
    for name in _RUN_FILES:
        (output / name).unlink(missing_ok=True)
    checkpoint.remove_model(output)
    shutil.rmtree(output / reporting.TENSORBOARD, ignore_errors=True)
    if saves(arguments):
        for folder in steps.glob("global_step*"):
            shutil.rmtree(folder)
        (steps / checkpoints.LATEST).unlink(missing_ok=True)


def _inputs(arguments: SimpleNamespace) -> Iterator[tuple[str, Path]]:
    """Local files and folders that the run reads."""
    for flag, value in (
        ("--model.model_name_or_path", arguments.model.model_name_or_path),
        ("--ref.model_name_or_path", arguments.ref.model_name_or_path),
        ("--data.dataset", arguments.data.dataset),
        ("--eval.dataset", arguments.eval.dataset),
        ("--data.tokenizer_chat_template", arguments.data.tokenizer_chat_template),
    ):
        parts = (value or "").split(",") if "dataset" in flag else [value or ""]
        for part in parts:
            path = Path(part.strip().split("@")[0].strip() if "dataset" in flag else part)
            if part.strip() and os.path.exists(path):  # False for a template's text, however long
                yield flag, path


def _within(inner: Path, outer: Path) -> bool:
    """Whether a path is a folder, or lies below it, whatever the two are called."""
    if not outer.exists():
        return False
    inner = inner.resolve()
    return any(place.exists() and os.path.samefile(place, outer) for place in (inner, *inner.parents))


def _check_inputs(arguments: SimpleNamespace, flag: str, folder: Path) -> None:
    for read, path in _inputs(arguments):
        if _within(path, folder):
            raise UserError(
                f"{flag} {folder}: got a folder that holds {read} {path}, which the run reads; choose another"
            )
        if "dataset" in read and path.is_dir() and _within(folder, path):
            raise UserError(
                f"{flag} {folder}: got a folder inside {read} {path}, of which every file is read as data; "
                "choose another"
            )


def _check_cache() -> None:
    from datasets import config as settings

    cache = Path(settings.HF_DATASETS_CACHE)
    files.check_folder(cache, "HF_DATASETS_CACHE (by default below HF_HOME, or HOME)")


def _check_room(arguments: SimpleNamespace, targets: dict[str, Path]) -> None:
    """Refuse a disk with less room than the policy takes; only a lower bound is known before it is loaded."""
    model = Path(arguments.model.model_name_or_path or "")
    if arguments.ds.lora.rank or not model.is_dir():
        return
    weights = sum(file.stat().st_size for kind in ("*.safetensors", "*.bin") for file in model.glob(kind))
    for flag, folder in targets.items():
        # A checkpoint holds the weights and both moments of Adam.
        need = weights * (3 if flag == "--ckpt.path" else 1)
        existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        free = shutil.disk_usage(existing).free
        if free < need:
            raise UserError(
                f"{flag} {folder}: got {free / 1e9:.3g} GB free, expected at least {need / 1e9:.3g} GB for "
                "the model; choose another folder, or make room"
            )


def _check_steps(arguments: SimpleNamespace, steps: Path) -> None:
    """Refuse to mix the checkpoints of two runs."""
    if arguments.ckpt.load_enable or arguments.overwrite or not saves(arguments):
        return
    old = sorted(folder.name for folder in steps.glob("global_step*"))
    if old and not all((steps / name / checkpoints.PARTIAL).exists() for name in old):
        raise UserError(
            f"--ckpt.path {steps}: got checkpoints of an earlier run ({old[-1]}), expected none; go on from "
            "them with --resume, choose another folder, or replace them with --overwrite"
        )


def _check_output(arguments: SimpleNamespace, output: Path) -> None:
    """Refuse a folder with other contents than an unfinished run."""
    if arguments.overwrite or not output.is_dir():
        return
    others = [entry for entry in sorted(output.iterdir()) if not _beside(arguments, entry)]
    if not others:
        return
    finished = any((output / name).exists() for name in _FINISHED)
    if not (output / configuration.FILE).is_file():
        got = "a model" if finished else f"other files ({others[0].name})"
    elif finished and not arguments.ckpt.load_enable:
        got = "a finished run"
    else:
        return
    raise _occupied(output, got)


def check_same_run(arguments: SimpleNamespace) -> None:
    """Refuse to go on with another configuration than the unfinished run in the folder had.

    Args:
      arguments: with everything that the other checks have found out and set.

    Raises:
      UserError: naming the first option that differs.
    """
    output, _ = folders(arguments)
    if arguments.overwrite or not (output / configuration.FILE).is_file():
        return
    if changed := _changed(arguments, output):
        raise _occupied(output, f"another run ({changed} differs)")


def _occupied(output: Path, got: str) -> UserError:
    return UserError(
        f"--ckpt.output_dir {output}: got a folder with {got}, expected an empty one or an unfinished run of "
        "the same configuration; choose another, or replace it with --overwrite"
    )


def _beside(arguments: SimpleNamespace, entry: Path) -> bool:
    """Whether an entry may lie in the folder of a new run: logs, hidden files, what the command names."""
    if entry.name.startswith(".") or entry.suffix in _LOGS:
        return True
    _, steps = folders(arguments)
    if steps.exists() and os.path.samefile(entry.parent, steps):
        return entry.name.startswith("global_step") or entry.name in (checkpoints.LATEST, "zero_to_fp32.py")
    named = (arguments.ckpt.path, arguments.logger.tensorboard_dir, arguments.config)
    return any(_within(Path(value), entry) for value in named if value)


def _changed(arguments: SimpleNamespace, output: Path) -> str | None:
    """The first option in which the run in a folder differs from this one."""
    then = config.read_flat(output / configuration.FILE)
    now = dict(config.flatten(yaml.safe_load(config.dump(arguments))))
    # An option that an earlier version did not have says nothing of its run.
    known = (key for key in sorted(now) if key in then and not is_free(key))
    return next((key for key in known if now[key] != then[key]), None)
