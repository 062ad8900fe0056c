"""The mask module on disk: round trip, atomic writing, refusals."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from sparsepo_plugin import checkpoint, files, registry
from sparsepo_plugin.adapters import mask_parameters
from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.losses.sparsepo import SparsePOOptions
from sparsepo_plugin.types import ReferenceShape, ReferenceState

SHAPE = ReferenceShape(8, 2, layer_norm_eps=1e-6, initializer_range=0.3)
VARIANTS = [{}, {"masks": "independent"}, {"mask_on": "reward"}, {"layers": "last", "dropout": 0.2}]


def saved(folder, dtype=torch.float32, **options):
    objective = ConfiguredLoss(registry.get("sparsepo"), SparsePOOptions(**options), SHAPE)
    module = objective.build_masks(5).to(dtype)
    checkpoint.save_masks(folder, module.state_dict(), objective.record())
    return module


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", VARIANTS)
def test_a_saved_module_loads_back_to_the_same_masks(tmp_path, options, dtype):
    module = saved(tmp_path, dtype, **options).eval()
    found = checkpoint.load_masks(tmp_path)
    state = ReferenceState(tuple(torch.randn(2, 4, 8) for _ in range(2)), torch.ones(2, 3, dtype=torch.bool))
    assert torch.equal(found.module(state).reward_mask, module(state).reward_mask)
    assert torch.equal(found.module(state).kl_mask, module(state).kl_mask)
    assert found.options == SparsePOOptions(**options)
    assert found.loss.name == "sparsepo"
    assert not found.module.training
    assert next(found.module.parameters()).dtype == dtype


def test_the_record_says_everything_that_built_the_module(tmp_path):
    saved(tmp_path, masks="independent")
    record = json.loads((tmp_path / checkpoint.RECORD).read_text())
    assert record["schema_version"] == checkpoint.SCHEMA_VERSION
    assert record["reference_shape"] == dataclasses.asdict(SHAPE)
    assert record["options"]["masks"] == "independent"
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint.RECORD, checkpoint.WEIGHTS]


def test_a_folder_without_mask_module_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no mask module in .*sparsepo_masks\.json"):
        checkpoint.load_masks(tmp_path)


def test_a_loss_without_a_module_leaves_none_of_an_earlier_run(tmp_path):
    """As TRL's and Axolotl's trainers save, which write into a folder without looking."""
    from sparsepo_plugin.adapters.trl.mask_training import MaskTraining

    saved(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    loss = registry.get("dpo")
    objective = ConfiguredLoss(loss, loss.options(), SHAPE)
    MaskTraining(objective, 0, torch.device("cpu"), apart=False).save(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_publishing_removes_what_another_model_left(tmp_path):
    """An adapter would be applied to the new model, a shard or a mask module taken for its own."""
    out = tmp_path / "out"
    out.mkdir()
    saved(out)
    old = ("adapter_config.json", "adapter_model.safetensors", "model-00001-of-00002.safetensors")
    for name in (*old, "model.safetensors.index.json", "config.json", "metrics.jsonl", "notes.txt"):
        (out / name).write_text("old")
    (out / "README.md").write_text("---\nlibrary_name: peft\n---\n")
    staging = out / ".saving"
    staging.mkdir()
    for name in ("config.json", "model.safetensors"):
        (staging / name).write_text("new")
    checkpoint.publish(staging, out)
    assert {path.name: path.read_text() for path in out.iterdir()} == {
        "config.json": "new",
        "model.safetensors": "new",
        "metrics.jsonl": "old",
        "notes.txt": "old",
    }


def test_a_persons_own_notes_are_no_model_card(tmp_path):
    (tmp_path / "README.md").write_text("# What I tried\n")
    checkpoint.remove_model(tmp_path)
    assert (tmp_path / "README.md").exists()


def test_another_schema_is_refused_and_its_version_named(tmp_path):
    saved(tmp_path)
    record = json.loads((tmp_path / checkpoint.RECORD).read_text())
    (tmp_path / checkpoint.RECORD).write_text(
        json.dumps({**record, "schema_version": 99, "sparsepo_version": "7.0"})
    )
    with pytest.raises(UserError, match=r"schema_version 99, expected 1.*7\.0"):
        checkpoint.load_masks(tmp_path)


def _without(key, inside=None):
    def damage(content):
        record = json.loads(content)
        (record[inside] if inside else record).pop(key)
        return json.dumps(record).encode()

    return damage


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        (checkpoint.RECORD, lambda content: content[:40]),
        (checkpoint.RECORD, lambda _: b""),
        (checkpoint.RECORD, lambda _: b"[]"),
        (checkpoint.RECORD, lambda _: b"\xff\xfe\x00"),
        (checkpoint.RECORD, _without("schema_version")),
        (checkpoint.RECORD, _without("options")),
        (checkpoint.RECORD, _without("hidden_size", "reference_shape")),
        (checkpoint.RECORD, lambda content: content.replace(b'"source"', b'"sauce"')),
        (checkpoint.WEIGHTS, lambda content: content[:-8]),
        (checkpoint.WEIGHTS, lambda _: b""),
        (checkpoint.WEIGHTS, None),
    ],
)
def test_a_damaged_module_is_one_line_that_names_the_file(tmp_path, name, damage):
    """Also where a resumed run reads the options it was begun with."""
    saved(tmp_path)
    path = tmp_path / name
    path.unlink() if damage is None else path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=f"{name}: cannot be read") as error:
        checkpoint.load_masks(tmp_path)
    assert "\n" not in str(error.value)


def test_options_of_a_damaged_record_are_not_taken_for_none(tmp_path):
    saved(tmp_path)
    assert mask_parameters.recorded_options(tmp_path, "sparsepo")["source"] == "learned"
    (tmp_path / checkpoint.RECORD).write_text('{"schema_version": 1, "opt')
    with pytest.raises(UserError, match="cannot be read"):
        mask_parameters.recorded_options(tmp_path, "sparsepo")


def test_a_failing_write_leaves_the_old_weights(tmp_path, monkeypatch):
    saved(tmp_path)
    old = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def broken(state, path):
        Path(path).write_bytes(b"half a fi")
        raise OSError("disk full")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        saved(tmp_path, masks="independent")
    assert {name: (tmp_path / name).read_bytes() for name in old} == old
    checkpoint.load_masks(tmp_path)


def test_a_failing_write_leaves_the_old_text(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.txt"
    files.write_text(path, "old")

    def broken(self, content):
        with open(self, "wb") as file:
            file.write(content[:2])
        raise OSError("disk full")

    monkeypatch.setattr(Path, "write_bytes", broken)
    with pytest.raises(OSError, match="disk full"):
        files.write_text(path, "new text")
    assert path.read_text() == "old"
    assert [item.name for item in path.parent.iterdir()] == ["file.txt"]


def test_publishing_moves_every_file_and_the_configuration_last(tmp_path, monkeypatch):
    staging = tmp_path / "out" / ".saving"
    staging.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "a.json"):
        (staging / name).write_text(f"new {name}")
    (tmp_path / "out" / "config.json").write_text("old")
    order = []
    replace = checkpoint.os.replace
    monkeypatch.setattr(checkpoint.os, "replace", lambda a, b: (order.append(Path(b).name), replace(a, b)))
    checkpoint.publish(staging, tmp_path / "out")
    assert order == ["a.json", "model.safetensors", "config.json"]
    assert (tmp_path / "out" / "config.json").read_text() == "new config.json"
    assert not staging.exists()
