"""all-MiniLM-L6-v2: the authors' own files, unchanged."""

from __future__ import annotations

import os
from pathlib import Path

TITLE = "all-MiniLM-L6-v2"


def build(source: Path, folder: Path) -> dict[str, float | str]:
    """Move the files and check that they embed."""
    from study.real_model import sanity

    for path in source.iterdir():
        os.replace(path, folder / path.name)
    return sanity.encoder(folder)
