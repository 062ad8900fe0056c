"""Files we write: the place is asked before the work, and what was computed is never lost."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest

from sparsepo_plugin import cli, errors, files
from sparsepo_plugin.demo.smoke import smoke_flags
from sparsepo_plugin.errors import UserError

MARK = b"sparsepo"


@pytest.mark.parametrize("where", ["/proc/nothing", "{tmp}/file/below", "{tmp}/file"])
def test_a_folder_that_cannot_be_written_is_known_before_the_work(where, tmp_path):
    (tmp_path / "file").write_text("")
    folder = Path(where.format(tmp=tmp_path))
    with pytest.raises(UserError, match=r"--out x: .* (cannot be written|is a file)"):
        files.check_folder(folder, "--out x")
    with pytest.raises(UserError, match=r"cannot be written|is a file"):
        files.check(folder / "page.html", MARK)


def test_asking_leaves_nothing(tmp_path):
    files.check_folder(tmp_path / "new/deep", "--out")
    assert list(tmp_path.iterdir()) == []


def test_a_content_that_cannot_be_written_is_kept_elsewhere(tmp_path, monkeypatch):
    """The disk fills up between the check and the writing."""
    replace = os.replace

    def full(source, target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "replace", full)
    with pytest.raises(UserError, match=r"page\.html: cannot be written \(No space left") as error:
        files.write(tmp_path / "page.html", MARK + b" content", MARK)
    monkeypatch.setattr(files.os, "replace", replace)
    kept = Path(re.search(r"it is in (\S+) instead", str(error.value))[1])
    assert kept.read_bytes() == MARK + b" content"
    assert kept.suffix == ".html"
    kept.unlink()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", ["view", "plot", "export", "demo", "smoke"])
def test_every_command_asks_for_its_place_first(command, tmp_path, capsys):
    out = "/proc/nothing/out"
    argv = {
        "view": ["view", str(tmp_path), "-o", f"{out}/page.html"],
        "plot": ["plot", str(tmp_path), "-o", out],
        "export": ["export", "--checkpoint", str(tmp_path), "--out", out],
        "demo": ["demo", "--out", out],
        "smoke": ["train", "--smoke", out],
    }[command]
    assert cli.main(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    if command in ("demo", "smoke"):
        assert "cannot be written" in line


@pytest.mark.parametrize("command", [["demo", "--out"], ["train", "--smoke"]])
def test_a_folder_of_other_files_is_not_filled_with_generated_ones(command, tmp_path, capsys):
    (tmp_path / "train.jsonl").write_text("mine")
    assert cli.main([*command, str(tmp_path)]) == 2
    assert "got a folder with other files, expected a new one" in capsys.readouterr().err
    assert (tmp_path / "train.jsonl").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["train.jsonl"]


def test_a_folder_that_the_command_filled_is_taken_again(tmp_path):
    first = smoke_flags(str(tmp_path / "trial"))
    assert "--overwrite" in first
    assert smoke_flags(str(tmp_path / "trial")) == first


def test_a_disk_that_fills_up_is_one_line(capsys):
    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")

    assert errors.guarded(full) == 1
    assert capsys.readouterr().err == "error: metrics.jsonl: No space left on device\n"

    def absent():
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), "a bug of ours")

    with pytest.raises(FileNotFoundError):
        errors.guarded(absent)


@pytest.mark.parametrize("size", [10, 70 << 20])
def test_a_digest_tells_a_cut_emptied_or_exchanged_file(size, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(os.urandom(1 << 20) * (size >> 20) or b"0123456789")
    known = files.digest(path)
    assert files.digest(path) == known
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 1)
    assert files.digest(path) != known
    path.write_bytes(bytes(max(size, 10)))
    assert files.digest(path) != known
