"""`python -m study.on_smollm2 --data DIR`: what the CSV files lack of the registered study is run."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from sparsepo_plugin.errors import UserError, guarded
from study.on_smollm2 import analysis, capability
from study.on_smollm2.domains import Room, furnish
from study.on_smollm2.plan import FULL, SCALES
from study.on_smollm2.sweep import sweep, tune
from study.rows import Table

PARTS = (*FULL, "capability", "report")


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(prog="python -m study.on_smollm2", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with text/, preference/, eval/")
    parser.add_argument("--out", type=Path, default=Path("docs/study"), help="folder of the CSV files")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/study-real"), help="folder of models and items"
    )
    parser.add_argument("--scale", choices=sorted(SCALES), default="full")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--threads", type=int, default=1, help="of torch, in every process")
    parser.add_argument("--model", type=Path, help="another start than the one of make real")
    parser.add_argument("--encoder", type=Path, help="another encoder of the reward heads")
    arguments = parser.parse_args()
    raise SystemExit(guarded(lambda: run(arguments)))


def run(arguments: argparse.Namespace) -> None:
    """Sweeps write rows; the report reads them and touches no model but for the start's kept samples."""
    from study.real_model import folders

    os.environ["HF_HUB_OFFLINE"] = "1"
    torch.set_num_threads(arguments.threads)
    model = arguments.model or folders.find(folders.SMOLLM2)
    encoder = arguments.encoder or folders.find(folders.MINILM)
    tables = {
        name: Table(arguments.out / f"smollm2_{name}.csv", ["domain", "run"])
        for name in ("tuning", "validation", "test")
    }
    rooms: dict[str, Room] = {}

    def room(name: str) -> Room:
        if name not in rooms:
            scale = SCALES[arguments.scale][name]
            rooms[name] = furnish(arguments.data, arguments.work / name, name, scale, model, encoder)
        return rooms[name]

    for part in arguments.parts:
        if part in FULL:
            sweep(room(part), tune(room(part), tables["tuning"]), tables["validation"], tables["test"])
        elif part == "capability":
            capability.study(arguments, [room(name) for name in FULL], tables["validation"].rows, model)
        else:
            measured = [name for name in FULL if any(row["domain"] == name for row in tables["test"].rows)]
            _report(arguments.out, [room(name) for name in measured], tables)


def _report(out: Path, rooms: list[Room], tables: dict[str, Table]) -> None:
    rows = {name: tables[name].rows for name in ("validation", "test")}
    if not rooms:
        raise UserError(f"{tables['test'].path}: got no rows; run the parts {' and '.join(FULL)} first")
    found = [row for room in rooms for row in analysis.frontier(room, rows["validation"], rows["test"])]
    analysis.write_frontier(out / "smollm2_frontier.csv", analysis.corrected(found))
    print(f"written: {out / 'smollm2_frontier.csv'}", flush=True)


if __name__ == "__main__":
    main()
