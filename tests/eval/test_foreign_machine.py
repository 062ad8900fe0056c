"""`gate A B` where the machine refuses: a full disk, a closed folder, no memory, a second writer."""

import errno
import gzip
import os
import random
import shutil
from pathlib import Path

import pytest

import eval_harness
from eval_harness.cli.app import main
from eval_harness.errors import UserError
from eval_harness.files import rows as reading
from eval_harness.files.places import held

from .foreign_files import FIXTURES, KINDS
from .test_foreign_damage import refused, words_of


@pytest.fixture
def pair(tmp_path):
    """Two plain results."""
    return [KINDS["jsonl"](tmp_path, name).path() for name in "ab"]


def disk_full_at(monkeypatch, number):
    """The disk is full when so many files have been written."""
    sync, written = os.fsync, []

    def full(handle):
        written.append(handle)
        if len(written) > number:
            raise OSError(errno.ENOSPC, "No space left on device")
        return sync(handle)

    monkeypatch.setattr(os, "fsync", full)


@pytest.mark.parametrize("written", [0, 1, 2, 3])
def test_a_disk_that_is_full_after_some_reports_leaves_none(written, pair, tmp_path, capsys, monkeypatch):
    disk_full_at(monkeypatch, written)
    assert "no disk space" in refused(capsys, tmp_path, *pair)
    assert not (tmp_path / "report").exists()


def test_a_full_disk_costs_no_decision_that_was_there(pair, tmp_path, capsys, monkeypatch):
    from eval_harness.gate.reports.files import read_decision, write_reports

    decision = eval_harness.gate(*pair)
    write_reports(tmp_path / "report", decision)
    before = {path.name: path.read_text() for path in (tmp_path / "report").iterdir()}
    disk_full_at(monkeypatch, 2)
    with pytest.raises(UserError, match="no disk space"):
        write_reports(tmp_path / "report", eval_harness.gate(*reversed(pair)))
    assert {path.name: path.read_text() for path in (tmp_path / "report").iterdir()} == before
    assert read_decision(tmp_path / "report").verdict == "REGRESSED"


def test_files_that_may_not_be_that_long(pair, tmp_path, capsys, monkeypatch):
    def limited(handle):
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr(os, "fsync", limited)
    assert "File too large" in refused(capsys, tmp_path, *pair)


def test_a_second_writer_of_one_report_folder(pair, tmp_path, capsys):
    words = ["gate", *map(str, pair), "--report", str(tmp_path / "report")]
    assert main(words) == 1
    before = (tmp_path / "report" / "report.json").read_text()
    capsys.readouterr()
    with held(tmp_path / "report"):
        assert main(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "another run is writing there" in said
    assert "--report" in said
    assert (tmp_path / "report" / "report.json").read_text() == before


@pytest.mark.parametrize("side", [0, 1])
def test_a_path_that_the_system_does_not_take(side, pair, tmp_path, capsys):
    pair[side] = tmp_path / ("x" * 300)
    assert "name too long" in refused(capsys, tmp_path, *pair)
    with pytest.raises(UserError, match="name too long"):
        eval_harness.gate(*pair)


@pytest.mark.parametrize("name", ["result.json", "items.jsonl"])
def test_a_closed_file_of_a_run_of_ours(name, tmp_path, capsys, monkeypatch):
    from .runs import make_run

    folders = [make_run(tmp_path / side, {"t": [1, 0, 1]}, side) for side in "ab"]
    opened = Path.open

    def closed(path, *args, **options):
        if path.name == name:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Path, "open", closed)
    assert "Permission denied" in refused(capsys, tmp_path, *folders)


def test_a_pipe(pair, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    assert "no such result" in refused(capsys, tmp_path, tmp_path / "pipe", pair[1])


def test_no_memory_left(pair, tmp_path, capsys, monkeypatch):
    def none_left(path):
        raise MemoryError

    monkeypatch.setattr(reading, "whole_text", none_left)
    assert "not enough memory" in refused(capsys, tmp_path, *pair)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_files_larger_than_the_memory_takes(kind, tmp_path, capsys, monkeypatch):
    pair = [KINDS[kind](tmp_path, name).path() for name in "ab"]
    monkeypatch.setattr(reading, "_largest", lambda: 2000)
    assert "is too large" in refused(capsys, tmp_path, *pair, *words_of(kind))


def test_packed_files_that_unpack_to_more(tmp_path, capsys, monkeypatch):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"id": 1, "score": 1}' + b" " * 1_000_000))
    shutil.copy(FIXTURES / "inspect" / "a.eval", tmp_path / "a.eval")
    other = KINDS["jsonl"](tmp_path, "b").path()
    monkeypatch.setattr(reading, "_largest", lambda: 50_000)
    for name in ("a.jsonl.gz", "a.eval"):
        assert (tmp_path / name).stat().st_size < 50_000
        assert "is too large" in refused(capsys, tmp_path, tmp_path / name, other)


def test_bytes_turned_anywhere_in_a_packed_file(pair, tmp_path, capsys):
    """Whatever zlib says to them: a wrong checksum, a wrong block, an early end."""
    packed, rng = gzip.compress(pair[0].read_bytes()), random.Random(0)
    for _ in range(60):
        raw = bytearray(packed)
        raw[rng.randrange(10, len(raw) - 8)] ^= rng.randrange(1, 256)
        (tmp_path / "a.jsonl.gz").write_bytes(bytes(raw))
        refused(capsys, tmp_path, tmp_path / "a.jsonl.gz", pair[1])
