"""Logs of Inspect (inspect_ai), read without it: `.eval`, a ZIP file of JSON, and `.json`, one object."""

import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError, first_line
from eval_harness.files.rows import check_size, whole_text

_HEADER, _SUMMARIES, _SAMPLES = "header.json", "summaries.json", "samples/"
_ZSTD = 93  # method of APPNOTE.TXT 6.3.8, which newer versions of Inspect write and Python 3.11 cannot read
_BROKEN = (OSError, EOFError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile, zlib.error)


def read_log(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Header and samples, sorted by epoch and id.

    Raises:
      UserError: a file that is damaged, cut, or whose samples are not those that its header speaks of.
    """
    try:
        log, samples = _read_zip(path) if path.suffix == ".eval" else _read_json(path)
        order = [_place(sample) for sample in samples]
        if order != sorted(order):
            raise ValueError("its samples stand in another order than Inspect writes them in")
    except _BROKEN as error:
        raise UserError(
            "unreadable log of Inspect",
            got=f"{path.name}: {first_line(error)}",
            expected="a whole .eval or .json file, as Inspect wrote it",
            remedy="copy the file again, or run the evaluation again",
        ) from error
    return log, samples


def _place(sample: dict[str, Any]) -> tuple[int, str]:
    """Inspect's order of samples (log/_log.py, sort_samples)."""
    name = sample["id"]
    return int(sample["epoch"]), name if isinstance(name, str) else str(name).zfill(20)


def _read_json(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    log = json.loads(whole_text(path))
    return log, list(log["samples"])


def _read_zip(path: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    with zipfile.ZipFile(path) as archive:
        # A member is read no further than it says it is long.
        check_size(path, sum(entry.file_size for entry in archive.infolist()))
        names = archive.namelist()
        if twice := [name for name in names if names.count(name) > 1 and name.startswith(_SAMPLES)]:
            raise ValueError(f"{twice[0]} is there twice")
        if _HEADER not in names:
            raise ValueError(f"no {_HEADER}: the evaluation was not finished")
        log = json.loads(_member(archive, _HEADER))
        samples = []
        for name in sorted(name for name in names if name.startswith(_SAMPLES)):
            sample = json.loads(_member(archive, name))
            if name.removesuffix(".json") != f"{_SAMPLES}{sample['id']}_epoch_{sample['epoch']}":
                raise ValueError(f"{name} holds sample {sample['id']}, epoch {sample['epoch']}")
            samples.append(sample)
        _check_summaries(json.loads(_member(archive, _SUMMARIES)), samples)
    return log, sorted(samples, key=_place)


def _check_summaries(summaries: list[dict[str, Any]], samples: list[dict[str, Any]]) -> None:
    """Inspect writes every score twice; both must agree."""
    known = {_place(summary): _values(summary) for summary in summaries}
    for sample in samples:
        if known.get(_place(sample)) != _values(sample):
            raise ValueError(f"sample {sample['id']}, epoch {sample['epoch']}: its summary is another one")
    if len(known) != len(samples):
        raise ValueError(f"{len(samples)} samples, {len(known)} summaries")


def _values(sample: dict[str, Any]) -> dict[str, Any]:
    return {name: score["value"] for name, score in (sample.get("scores") or {}).items()}


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Content of a member, its checksum verified."""
    entry = archive.getinfo(name)
    if entry.compress_type != _ZSTD:
        return archive.read(name)
    import pyarrow as pa

    handle = archive.fp
    if handle is None:
        raise ValueError("the file was closed")
    handle.seek(entry.header_offset)
    fixed = handle.read(30)  # the local header; the lengths of name and extra field are its last two numbers
    if len(fixed) < 30:
        raise ValueError(f"{name} is cut")
    handle.seek(sum(struct.unpack("<HH", fixed[26:30])), 1)
    packed = handle.read(entry.compress_size)
    content: bytes = pa.input_stream(pa.BufferReader(packed), compression="zstd").read(entry.file_size + 1)
    if len(content) != entry.file_size or zlib.crc32(content) != entry.CRC:
        raise ValueError(f"{name} has another checksum than it says")
    return content
