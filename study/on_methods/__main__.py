"""``python -m study.on_methods --data DIR --out docs/methods-sentiment.csv``: what the CSV lacks is run."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from sparsepo_plugin.errors import UserError, guarded
from sparsepo_plugin.files import check_folder
from study.on_methods import runs
from study.on_methods.plan import REFERENCE, SIZES
from study.on_methods.room import Lot, draw, furnish
from study.on_methods.verdicts import load, missing
from study.rows import Table


def main() -> None:
    """Run what is missing."""
    parser = argparse.ArgumentParser(prog="python -m study.on_methods", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with text/")
    parser.add_argument("--out", type=Path, required=True, help="CSV of results; finished runs are kept")
    parser.add_argument(
        "--work", type=Path, default=Path("runs/study-methods"), help="folder of models, kept"
    )
    parser.add_argument("--scale", choices=sorted(SIZES), default="full")
    arguments = parser.parse_args()
    raise SystemExit(guarded(lambda: work(arguments)))


def work(arguments: argparse.Namespace) -> None:
    """Run in the order of the plan, one thread; a run's rows are added together, so that a kill loses one."""
    torch.set_num_threads(1)
    sizes = SIZES[arguments.scale]
    if arguments.out.is_dir():
        raise UserError(f"--out {arguments.out}: got a folder, expected the name of a CSV file to write")
    check_folder(arguments.out.parent, f"--out {arguments.out}")
    check_folder(arguments.work, f"--work {arguments.work}")
    todo = missing(load(arguments.out), sizes)
    if not todo:
        print(f"methods on sentiment: nothing is missing in {arguments.out}", flush=True)
        return
    table = Table(arguments.out, ["method", "beta", "seed"])
    room = furnish(arguments.data, arguments.work, sizes)
    lots: dict[int, Lot] = {}
    for name, beta, seed in tqdm(todo, desc="methods on sentiment"):
        if seed not in lots:
            lots = {seed: draw(room, sizes, seed)}
            if not table.has(method=REFERENCE, beta=0.0, seed=seed):
                table.add(runs.reference(room, sizes, seed))
        if not table.has(method=name, beta=beta, seed=seed):  # another process may have done it
            table.add(runs.run(room, lots[seed], sizes, name, beta, seed))


if __name__ == "__main__":
    main()
