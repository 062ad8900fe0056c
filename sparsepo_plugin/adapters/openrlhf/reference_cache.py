"""The reference's log-probabilities of a data set in the datasets cache, so that runs compute them once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sparsepo_plugin import files

# Change it with whatever changes the numbers: the files outlive the process.
_VERSION = 1
_COLUMNS = ("chosen", "rejected", "chosen_start", "rejected_start")
_BATCH = 1000


class StoredLogps(NamedTuple):
    """A number per response token of a data set.

    Attributes:
      numbers: nats, float32, [tokens]: of pair 0 those of the chosen response, then of the rejected one.
      ends: where each response ends in ``numbers``, [2 * pairs], int64.
    """

    numbers: Tensor
    ends: Tensor

    @classmethod
    def of(cls, responses: Sequence[Tensor]) -> StoredLogps:
        """From the numbers of every response: chosen and rejected of pair 0, of pair 1, and so on."""
        counts = torch.tensor([len(numbers) for numbers in responses], dtype=torch.int64)
        numbers = torch.cat([*responses, torch.empty(0)])
        return cls(numbers.float(), counts.cumsum(0))

    def rows(self, pairs: Sequence[int]) -> Tensor:
        """Numbers of some pairs, [2 * pairs, longest], chosen rows first; nan after their end."""
        wanted = [2 * pair + side for side in (0, 1) for pair in pairs]
        parts = [self.numbers[self.ends[n - 1] if n else 0 : self.ends[n]] for n in wanted]
        return torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=torch.nan)


def place(arguments: SimpleNamespace, reference: str, pairs: Any) -> Path:
    """The file for a reference and a data set.

    Args:
      arguments: upstream's arguments.
      reference: digest of the reference's files, or the commit of a hub model.
      pairs: rows as ``adapters.pairs.prepare`` makes them.
    """
    import datasets

    name = arguments.ref.model_name_or_path or arguments.model.model_name_or_path
    parts = (
        *(_VERSION, reference, _times(name), arguments.ds.param_dtype, arguments.ds.load_in_4bit),
        _content(pairs),
    )
    key = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]
    return Path(datasets.config.HF_DATASETS_CACHE) / "sparsepo" / f"reference-{key}.safetensors"


def read(path: Path) -> StoredLogps | None:
    """What ``write`` wrote; None where there is no such file, or it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            found = StoredLogps(file.get_tensor("numbers"), file.get_tensor("ends"))
            return found if (file.metadata() or {}).get("sha256") == _digest(found) else None
    except (OSError, SafetensorError):
        return None


def write(path: Path, found: StoredLogps) -> str | None:
    """Keep numbers for other runs, atomically; says why it cannot be done."""
    try:
        files.write_bytes(path, save(found._asdict(), {"sha256": _digest(found)}))
    except OSError as error:
        return f"{path} cannot be written ({error.strerror or error})"
    return None


def _digest(found: StoredLogps) -> str:
    whole = hashlib.sha256()
    for part in found:
        whole.update(part.contiguous().numpy().tobytes())
    return whole.hexdigest()


def _times(name: str) -> list[tuple[str, int, int]]:
    """Sizes and times of a folder's files: the digest reads no more than a part of large ones."""
    suffixes = (".safetensors", ".bin", ".json", ".py")
    found = [file for file in sorted(Path(name).glob("*")) if file.suffix in suffixes and file.is_file()]
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in found]


def _content(pairs: Any) -> str:
    """Digest of all tokens of a data set and of where its responses begin."""
    import pyarrow

    whole = hashlib.sha256()
    for table in pairs.select_columns(list(_COLUMNS)).with_format("arrow").iter(_BATCH):
        plain = table.select(_COLUMNS).combine_chunks().replace_schema_metadata(None)
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, plain.schema) as stream:
            stream.write_table(plain)
        whole.update(sink.getvalue())
    return whole.hexdigest()
