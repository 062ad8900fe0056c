"""Identity is content: it follows the files, not their place; broken files are noticed unloaded."""

import json
import shutil
from dataclasses import replace

import pytest

from eval_harness.errors import UserError
from eval_harness.models.identity import identity
from eval_harness.models.reference import chat_template, resolve
from eval_harness.models.settings import Settings, namespace
from eval_harness.models.weight_files import weight_files

from . import tiny


@pytest.fixture
def copy(model_a, tmp_path):
    return shutil.copytree(model_a, tmp_path / "copy")


def flip_last_byte(path):
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def test_a_copy_is_the_same_model(model_a, copy):
    one, two = identity(resolve(str(model_a))), identity(resolve(str(copy)))
    assert replace(one, label="") == replace(two, label="")
    assert namespace(one, Settings(), {}) == namespace(two, Settings(), {})


@pytest.mark.parametrize(
    ("file", "field"),
    [
        ("model.safetensors", "weights"),
        ("config.json", "weights"),
        ("tokenizer.json", "tokenizer"),
        ("chat_template.jinja", "chat_template"),
    ],
)
def test_one_changed_byte_is_another_model(model_a, copy, file, field):
    if file.endswith(".json"):
        (copy / file).write_text((copy / file).read_text() + " ")
    else:
        flip_last_byte(copy / file)
    before, after = identity(resolve(str(model_a))), identity(resolve(str(copy)))
    assert getattr(before, field) != getattr(after, field)


def test_settings_change_the_namespace(model_a):
    model = identity(resolve(str(model_a)))
    installed = {"lm_eval": "0.4.13", "torch": "2", "transformers": "5"}
    variants = [
        Settings(),
        Settings(dtype="bfloat16"),
        Settings(chat_template=True),
        Settings(batch_size="4"),
        Settings(backend="vllm"),
        Settings(limit_context=512),
        Settings(device="cuda"),
        Settings(seeds=dict.fromkeys(Settings().seeds, 7)),
        Settings(engine={"softmax_dtype": "float32"}),
        Settings(tensor_parallel=2),
    ]
    keys = [namespace(model, s, installed) for s in variants]
    keys += [namespace(model, Settings(), {**installed, name: "9"}) for name in installed]
    assert len(set(keys)) == len(keys)


def test_truncated_weights_are_corrupt(copy):
    raw = (copy / "model.safetensors").read_bytes()
    for cut in (len(raw) - 1, len(raw) // 2, 100, 4, 0):
        (copy / "model.safetensors").write_bytes(raw[:cut])
        with pytest.raises(UserError, match="corrupt weights"):
            identity(resolve(str(copy)))


def test_missing_shard_is_named(copy):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (copy / "model.safetensors").rename(copy / "model-1.safetensors")
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model-2.safetensors"):
        identity(resolve(str(copy)))


def test_folders_without_weights_config_or_tokenizer(copy, tmp_path):
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no weights"):
        identity(resolve(str(copy)))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no such model"):
        identity(resolve(str(tmp_path / "empty")))
    with pytest.raises(UserError, match="no such model"):
        resolve(str(tmp_path / "nowhere"))


def test_adapter_is_told_apart_and_hashed_with_its_base(model_a, model_b, tmp_path):
    adapter = tiny.make_adapter(tmp_path / "lora", str(model_a))
    ref = resolve(str(adapter))
    assert (ref.kind, ref.path, ref.adapter) == ("lora", model_a, adapter)
    on_a, on_b = identity(ref), identity(resolve(str(adapter), base=str(model_b)))
    plain = identity(resolve(str(model_a)))
    assert on_a.weights == plain.weights
    assert on_a.adapter is not None
    assert on_a.adapter == on_b.adapter
    keys = {namespace(m, Settings(), {}) for m in (on_a, on_b, plain)}
    assert len(keys) == 3


def test_adapter_whose_base_is_elsewhere(model_a, tmp_path):
    adapter = tiny.make_adapter(tmp_path / "lora", str(model_a))
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": "org/model"})
    )
    with pytest.raises(UserError, match="--base"):
        resolve(str(adapter))


def test_endpoints_differ_by_address_and_id():
    refs = [("http://h/v1", "a"), ("http://h/v1", "b"), ("http://g/v1", "a")]
    found = {identity(resolve(url, model_id=name)).weights for url, name in refs}
    assert len(found) == 3


def test_chat_template_is_found_in_both_places(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": "x"}))
    assert chat_template(tmp_path) == "x"
    (tmp_path / "chat_template.jinja").write_text("y")
    assert chat_template(tmp_path) == "y"


def as_shard(model, folder):
    """Another model's weights in the folder, as one shard with its index."""
    shutil.copy(model / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_a_single_file_beside_the_shards_of_another_model_is_refused(model_b, copy):
    as_shard(model_b, copy)
    with pytest.raises(UserError, match=r"not clear.*model.safetensors.index.json.*remove"):
        identity(resolve(str(copy)))
    # Either alone is one model, and they are not the same one.
    (copy / "model.safetensors.index.json").rename(copy / "kept")
    single = identity(resolve(str(copy))).weights
    (copy / "kept").rename(copy / "model.safetensors.index.json")
    (copy / "model.safetensors").unlink()
    assert identity(resolve(str(copy))).weights != single


def test_the_hash_is_of_the_file_that_transformers_loads(model_a, model_b, copy):
    """safetensors goes before .bin, a file named in config.json before both."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    def loaded():
        return AutoModelForCausalLM.from_pretrained(copy).lm_head.weight

    before, head = identity(resolve(str(copy))), loaded()
    torch.save(load_file(model_b / "model.safetensors"), copy / "pytorch_model.bin")
    assert torch.equal(loaded(), head)
    assert identity(resolve(str(copy))) == before
    shutil.copy(model_b / "model.safetensors", copy / "other.safetensors")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, "transformers_weights": "other.safetensors"}))
    assert not torch.equal(loaded(), head)
    assert [path.name for path in weight_files(copy)] == ["other.safetensors"]


def test_an_index_that_names_only_the_single_file_is_no_riddle(copy):
    index = {"weight_map": {"lm_head.weight": "model.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [path.name for path in weight_files(copy)] == ["model.safetensors"]
    (copy / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="names no files"):
        identity(resolve(str(copy)))


def test_an_adapter_beside_a_whole_model_is_refused(model_a, copy, tmp_path):
    """transformers loads such a folder as base and adapter; a hash of the model alone would be of neither."""
    adapter = tiny.make_adapter(tmp_path / "lora", str(model_a))
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(adapter / name, copy / name)
    with pytest.raises(UserError, match=r"adapter_config.json beside a whole model"):
        identity(resolve(str(copy)))
    with pytest.raises(UserError, match=r"adapter_config.json beside a whole model"):
        identity(resolve(str(adapter), base=str(copy)))
