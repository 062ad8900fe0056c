"""``python -m study.real_model``: make the folders of real weights that are missing; behind ``make real``."""

from __future__ import annotations

import os

from sparsepo_plugin.errors import guarded
from study.real_model import folders, record


def main() -> None:
    """Make all of them, and say what they are."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    raise SystemExit(guarded(run))


def run() -> None:
    """One paragraph per folder: title, licence, figures, where it lies."""
    for model in folders.MODELS:
        folder = folders.make(model)
        found = record.read(folder)
        assert found is not None  # of a folder that was just made or checked
        figures = ", ".join(
            f"{name.replace('_', ' ')} {value:.3g}" if isinstance(value, float) else f"{name} {value!r}"
            for name, value in found.figures.items()
        )
        print(f"{found.title}: {folder}\n  licence: {found.licence}\n  check: {figures}", flush=True)


if __name__ == "__main__":
    main()
