"""The cache of the reference's log-probabilities: what is read is what was written, for the same input."""

from __future__ import annotations

import os
from types import SimpleNamespace

import datasets
import pytest
import torch

from sparsepo_plugin.adapters.openrlhf import reference_cache
from sparsepo_plugin.adapters.openrlhf.reference_cache import StoredLogps

ROWS = {
    "row": [0, 1], "chosen": [[1, 2, 3], [4, 5]], "rejected": [[1, 6], [4, 7, 8]],
    "chosen_start": [1, 1], "rejected_start": [1, 1],
}  # fmt: skip


def stored():
    return StoredLogps.of([torch.tensor(row) for row in ([-1.0, -2.0], [-3.0], [-4.0], [-5.0, -6.0])])


@pytest.fixture
def pairs():
    return datasets.Dataset.from_dict(ROWS)


@pytest.fixture
def arguments(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "model").mkdir()
    (tmp_path / "model/model.safetensors").write_bytes(b"weights")
    model = SimpleNamespace(model_name_or_path=str(tmp_path / "model"))
    other = SimpleNamespace(model_name_or_path=None)
    return SimpleNamespace(model=model, ref=other, ds=SimpleNamespace(param_dtype="bf16", load_in_4bit=False))


def test_rows_are_chosen_first_and_end_with_nan():
    rows = stored().rows([1, 0])
    expected = torch.tensor([[-4.0, torch.nan], [-1.0, -2.0], [-5.0, -6.0], [-3.0, torch.nan]])
    torch.testing.assert_close(rows, expected, equal_nan=True)


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "deep/reference.safetensors"
    assert reference_cache.read(path) is None
    assert reference_cache.write(path, stored()) is None
    assert all(map(torch.equal, reference_cache.read(path), stored()))
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied", "other"])
def test_a_damaged_file_is_none(damage, tmp_path):
    path = tmp_path / "reference.safetensors"
    reference_cache.write(path, stored())
    content = bytearray(path.read_bytes())
    if damage == "flipped":
        content[-1] ^= 1
    found = {"cut": content[:-3], "emptied": b"", "other": b"{}" * 50}.get(damage, content)
    path.write_bytes(bytes(found))
    assert reference_cache.read(path) is None


def test_a_place_that_takes_nothing_is_said_and_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = reference_cache.write(tmp_path / "file/reference.safetensors", stored())
    assert "cannot be written" in said


def test_the_name_follows_model_data_and_precision(arguments, pairs, tmp_path):
    def name(data=pairs, reference="digest"):
        return reference_cache.place(arguments, reference, data).name

    names = {name()}
    assert name(datasets.Dataset.from_dict(ROWS)) in names
    # The same rows, picked from more of them and in another order of their storage.
    more = datasets.Dataset.from_dict({key: [*value, value[0]][::-1] for key, value in ROWS.items()})
    assert name(more.select([2, 1])) in names
    for changed in ({"chosen": [[1, 2, 9], [4, 5]]}, {"rejected_start": [1, 2]}):
        names.add(name(datasets.Dataset.from_dict({**ROWS, **changed})))
    names.add(name(pairs.select([1, 0])))
    names.add(name(reference="another"))
    os.utime(tmp_path / "model/model.safetensors", (1, 1))
    names.add(name())
    arguments.ds.param_dtype = "fp32"
    names.add(name())
    assert len(names) == 7
