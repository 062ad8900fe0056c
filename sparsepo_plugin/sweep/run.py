"""Train every point of a grid once, however often the sweep is stopped and started again."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from sparsepo_plugin import files
from sparsepo_plugin.adapters.openrlhf import flags, preflight
from sparsepo_plugin.errors import RunFailedError, UserError
from sparsepo_plugin.files import write_text
from sparsepo_plugin.report.plots import frontier, style
from sparsepo_plugin.sweep import grid as grids
from sparsepo_plugin.sweep import identity, process, table

MANIFEST, BASE, DONE, LOG = "sweep.json", "base.yaml", "sweep_run.json", "train.log"
_MARK = '"tool": "sparsepo sweep"'


class Planned(NamedTuple):
    """A run: its point, the key of what it computes, its folder and its flags."""

    point: grids.Point
    key: str
    folder: Path
    argv: list[str]


def sweep(grid: str, output: str) -> None:
    """Train what is missing, write the table and the plots.

    Args:
      grid: the grid file.
      output: folder of the sweep; made, or one of an earlier sweep, whose finished runs are kept.

    Raises:
      UserError: bad grid, a configuration that cannot run, or a folder that is not a sweep's.
      RunFailedError: runs failed; all others were trained.
    """
    style.library()
    read, folder = grids.read(Path(grid)), Path(output)
    _claim(folder)
    plan = _plan(read, folder)
    earlier = _earlier(folder, {planned.key for planned in plan})
    _manifest(folder, grid, [*plan, *earlier])
    write_text(folder / BASE, read.base)
    with process.locked(folder) as lock:
        failed = _train_all(plan, earlier, folder, lock)
    _draw(folder, _rows([*plan, *earlier]))
    print(f"{folder}: table.csv, table.md, plots; {len(plan) - len(failed)} of {len(plan)} runs finished")
    if failed:
        logs = ", ".join(str(planned.folder / LOG) for planned in failed)
        raise RunFailedError(
            f"{len(failed)} of {len(plan)} runs failed, their output is in {logs}; "
            "mend it and start the sweep again: finished runs are kept"
        )


def _claim(folder: Path) -> None:
    files.check(folder / MANIFEST, _MARK.encode())
    if folder.is_dir() and not (folder / MANIFEST).exists() and any(folder.iterdir()):
        raise UserError(
            f"{folder}: got a folder with other files, expected a new one or that of an earlier sweep"
        )


def _plan(grid: grids.Grid, folder: Path) -> list[Planned]:
    """Check every point as the trainer would, before the first is trained and before anything is written."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", encoding="utf-8") as base:
        base.write(grid.base)
        base.flush()
        varying = grids.varying(grid.points)
        plan = [_planned(point, base.name, folder, varying) for point in grid.points]
        _refuse_doubles(plan)
        # Beta and seed are checked already; models and data need to be read once per set of options.
        for planned in {(item.point.loss, item.point.described()): item for item in plan}.values():
            preflight.check(flags.parse(["--config", base.name, *planned.argv[2:]]), check_places=False)
    return plan


def _planned(point: grids.Point, base: str, folder: Path, varying: set[str]) -> Planned:
    parsed = flags.parse(["--config", base, *point.flags()])
    if not parsed.arguments.eval.dataset:
        raise UserError("key base: got no eval.dataset, expected held-out pairs: runs are compared on them")
    key = identity.key_of(parsed)
    run = folder / "runs" / f"{point.name(varying)}-{key[:8]}"
    # Another grid may have given it another name.
    run = next((known for known in run.parent.glob(f"*-{key[:8]}") if _done(known, key)), run)
    output = ["--ckpt.output_dir", str(run), "--ckpt.path", str(run / "deepspeed")]
    return Planned(point, key, run, ["--config", str(folder / BASE), *point.flags(), *output])


def _refuse_doubles(plan: list[Planned]) -> None:
    seen: dict[str, Planned] = {}
    for planned in plan:
        if planned.key in seen:
            names = " and ".join(
                "-".join(each.point.settings().values()) for each in (seen[planned.key], planned)
            )
            raise UserError(f"grid: got {names}, which are the same run, expected each once; drop one")
        seen[planned.key] = planned


def _manifest(folder: Path, grid: str, plan: list[Planned]) -> None:
    runs = [
        {"folder": str(planned.folder.relative_to(folder)), "key": planned.key, **planned.point._asdict()}
        for planned in plan
    ]
    content = {"tool": "sparsepo sweep", "schema_version": 1, "grid": grid, "runs": runs}
    files.write(folder / MANIFEST, (json.dumps(content, indent=1) + "\n").encode(), _MARK.encode())


def _earlier(folder: Path, keys: set[str]) -> list[Planned]:
    """Finished runs of earlier grids in the folder, but for those of these keys; they stay in the table."""
    try:
        known = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["runs"]
        runs = [
            Planned(
                grids.Point(*(run[name] for name in grids.Point._fields)),
                run["key"],
                folder / run["folder"],
                [],
            )
            for run in known
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [run for run in runs if run.key not in keys and _done(run.folder, run.key)]


def _done(folder: Path, key: str) -> dict[str, Any] | None:
    """The note of a run that ended well under this very key; None for any other, half-finished ones too."""
    try:
        note = json.loads((folder / DONE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    good = isinstance(note, dict) and note.get("key") == key and "seconds" in note
    return note if good else None


def _train_all(plan: list[Planned], earlier: list[Planned], folder: Path, lock: int) -> list[Planned]:
    failed = []
    for number, planned in enumerate(plan, 1):
        head = f"[{number}/{len(plan)}] {planned.folder.name}"
        if _done(planned.folder, planned.key):
            print(f"{head}: already finished", flush=True)
            continue
        print(f"{head}: training", flush=True)
        if not _train(planned, lock):
            failed.append(planned)
            print(f"{head}: failed, see {planned.folder / LOG}", flush=True)
        _write_table(folder, _rows([*plan, *earlier]))
    _write_table(folder, _rows([*plan, *earlier]))
    return failed


def _train(planned: Planned, lock: int) -> bool:
    """Train from the start: what an interrupted run left is removed, so that no result is half of it."""
    if planned.folder.exists():
        shutil.rmtree(planned.folder)
    planned.folder.mkdir(parents=True)
    started = time.monotonic()
    code = process.train(planned.argv, planned.folder / LOG, lock)
    if code:
        return False
    note = {
        "key": planned.key,
        "seconds": round(time.monotonic() - started, 1),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    write_text(planned.folder / DONE, json.dumps(note, indent=1) + "\n")
    return True


def _rows(plan: list[Planned]) -> list[dict[str, Any]]:
    rows, differing = [], table.differing([planned.folder for planned in plan])
    for planned in plan:
        point, note = planned.point, _done(planned.folder, planned.key)
        options = " ".join(filter(None, (differing.get(planned.folder), point.described())))
        row = {"run": planned.folder.name, **point._asdict(), "options": options}
        if note:
            row |= {"status": "finished", **table.measured(planned.folder), "seconds": note["seconds"]}
        else:
            row["status"] = "failed" if (planned.folder / LOG).exists() else "missing"
        rows.append(row)
    return rows


def _write_table(folder: Path, rows: list[dict[str, Any]]) -> None:
    write_text(folder / "table.csv", table.as_csv(rows))
    write_text(folder / "table.md", table.as_markdown(rows))


def _draw(folder: Path, rows: list[dict[str, Any]]) -> None:
    figures = {frontier.FRONTIER: frontier.draw_frontier, frontier.SPARSITY: frontier.draw_sparsity}
    for name, draw in figures.items():
        if made := draw(rows):
            style.save(made, folder, name)
