"""Weights that do not land: refused by name before anything is measured, whichever engine would load them."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file

from eval_harness.errors import UserError
from eval_harness.models import engines
from eval_harness.models.fit import check_weights_fit
from eval_harness.models.reference import resolve

from . import tiny
from .conftest import BBH


@pytest.fixture
def copy(model_a, tmp_path):
    return shutil.copytree(model_a, tmp_path / "copy")


@pytest.fixture
def adapter(model_a, tmp_path):
    return tiny.make_adapter(tmp_path / "lora", str(model_a))


def edit(file, change):
    """Rewrite a safetensors file as `change` (tensors -> tensors) says."""
    tensors = load_file(file)
    save_file({k: v.contiguous() for k, v in change(tensors).items()}, file, metadata={"format": "pt"})


def edit_config(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def renamed(tensors):
    return {name.replace("base_model.model.", "base_model.model.model."): t for name, t in tensors.items()}


def without_first(tensors):
    return dict(sorted(tensors.items())[1:])


def zero_b(tensors):
    return {name: t * 0 if "lora_B" in name else t for name, t in tensors.items()}


def rank_one(tensors):
    return {name: t[:1] if "lora_A" in name else t[:, :1] for name, t in tensors.items()}


def empty(tensors):
    return {name: t[:0] for name, t in tensors.items()}  # what a save from sharded training may leave


def with_layer(tensors):
    return tensors | {"base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight": tensors.popitem()[1]}


ADAPTERS = [
    (renamed, r"8 tensors missing, e.g. base_model.*lora_A.*8 tensors unknown.*base_model.model.model.model"),
    (without_first, "1 tensors missing, e.g. .*lora_A"),
    (zero_b, "the adapter changes nothing"),
    (rank_one, "cannot be put on its base.*size mismatch"),
    (empty, "cannot be put on its base.*size mismatch"),
    (with_layer, "layers.7"),
]


@pytest.mark.parametrize(("change", "message"), ADAPTERS)
def test_an_adapter_that_does_not_land(adapter, change, message):
    check_weights_fit(resolve(str(adapter)))
    edit(adapter / "adapter_model.safetensors", change)
    with pytest.raises(UserError, match=message):
        check_weights_fit(resolve(str(adapter)))


def test_an_adapter_whose_target_modules_do_not_exist(adapter):
    edit_config(adapter / "adapter_config.json", target_modules=["query"])
    with pytest.raises(UserError, match=r"cannot be put on its base.*query"):
        check_weights_fit(resolve(str(adapter)))


def test_modules_to_save_that_do_not_land(model_a, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_a)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["lm_head"])
    model = get_peft_model(base, config)
    model.save_pretrained(tmp_path / "lora")
    check_weights_fit(resolve(str(tmp_path / "lora")))  # the head is trained: zero B alone say nothing
    edit(
        tmp_path / "lora" / "adapter_model.safetensors",
        lambda tensors: {name: t for name, t in tensors.items() if "lm_head" not in name},
    )
    with pytest.raises(UserError, match="lm_head"):
        check_weights_fit(resolve(str(tmp_path / "lora")))


def test_an_adapter_with_embeddings_for_new_tokens_lands(model_a, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model_a)
    rows = base.get_input_embeddings().weight.shape[0]
    base.resize_token_embeddings(rows + 3)
    config = LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
    get_peft_model(base, config).save_pretrained(tmp_path / "lora")
    assert check_weights_fit(resolve(str(tmp_path / "lora"), base=str(model_a))) == rows + 3


def test_an_adapter_in_a_bin_file_is_compared_too(adapter):
    import torch

    tensors = load_file(adapter / "adapter_model.safetensors")
    (adapter / "adapter_model.safetensors").unlink()
    torch.save(tensors, adapter / "adapter_model.bin")
    check_weights_fit(resolve(str(adapter)))
    torch.save(renamed(tensors), adapter / "adapter_model.bin")
    with pytest.raises(UserError, match="8 tensors missing"):
        check_weights_fit(resolve(str(adapter)))


def test_a_whole_model_with_tensors_that_the_config_does_not_name(copy):
    """One layer less in config.json: transformers drops the other's weights and runs half of the model."""
    edit_config(copy / "config.json", num_hidden_layers=1)
    with pytest.raises(UserError, match=r"9 tensors unknown to the architecture, e.g. model.layers.1"):
        check_weights_fit(resolve(str(copy)))


def test_a_whole_model_that_misses_tensors_and_has_others(copy):
    edit(copy / "model.safetensors", lambda t: {k.replace("layers.1", "layers.01"): v for k, v in t.items()})
    with pytest.raises(UserError, match=r"9 tensors missing, e.g. model.layers.1.*; 9 tensors unknown"):
        check_weights_fit(resolve(str(copy)))


def packed(names):
    """Every matrix of a layer under the names that a quantiser gives its parts; values do not matter."""
    import torch

    def change(tensors):
        made = {}
        for name, tensor in tensors.items():
            parts = {}
            if "layers." in name and tensor.dim() == 2:
                parts = {part: torch.zeros(4, dtype=torch.int32) for part in names}
            made |= {name.removesuffix("weight") + part: t for part, t in parts.items()} or {name: tensor}
        return made

    return change


GPTQ = {"quant_method": "gptq", "bits": 4}, ("qweight", "qzeros", "scales", "g_idx")
BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True}, ("weight", "weight.absmax", "weight.quant_map")


@pytest.mark.parametrize(("config", "names"), [GPTQ, BNB])
def test_a_quantised_model_whose_modules_do_not_land(copy, config, names):
    """transformers would make up the missing norm as ones and the missing matrix as noise."""
    edit_config(copy / "config.json", quantization_config=config)
    file = copy / "model.safetensors"
    edit(file, packed(names))
    whole = load_file(file)
    assert check_weights_fit(resolve(str(copy)))

    def refused(change, message):
        save_file(change(whole), file, metadata={"format": "pt"})
        with pytest.raises(UserError, match=message):
            check_weights_fit(resolve(str(copy)))

    for lacking in ("model.layers.1.input_layernorm", "model.layers.0.mlp.up_proj", "lm_head"):
        refused(
            lambda tensors, lacking=lacking: {k: v for k, v in tensors.items() if lacking not in k},
            f"1 tensors missing, e.g. {lacking}",
        )
    refused(
        lambda tensors: {k.replace("layers.1.", "layers.01."): v for k, v in tensors.items()},
        "9 tensors missing.*unknown to the architecture, e.g. model.layers.01",
    )
    edit_config(copy / "config.json", num_hidden_layers=1)
    refused(lambda tensors: tensors, "unknown to the architecture, e.g. model.layers.1")


def test_a_value_head_beside_the_model_is_no_fault(copy):
    import torch

    edit(copy / "model.safetensors", lambda t: t | {"v_head.summary.weight": torch.ones(1, 32)})
    check_weights_fit(resolve(str(copy)))


def test_a_head_that_the_config_ties_to_another_embedding(copy):
    edit_config(copy / "config.json", tie_word_embeddings=True)
    with pytest.raises(UserError, match=r"lm_head.weight.*differ, and the config ties them"):
        check_weights_fit(resolve(str(copy)))
    edit(copy / "model.safetensors", lambda t: t | {"lm_head.weight": t["model.embed_tokens.weight"].clone()})
    check_weights_fit(resolve(str(copy)))
    edit(copy / "model.safetensors", lambda t: {k: v for k, v in t.items() if k != "lm_head.weight"})
    check_weights_fit(resolve(str(copy)))  # the usual way to save tied weights
    edit_config(copy / "config.json", tie_word_embeddings=False)
    with pytest.raises(UserError, match=r"1 tensors missing, e.g. lm_head"):
        check_weights_fit(resolve(str(copy)))


def test_an_index_that_names_a_missing_shard(copy):
    (copy / "model.safetensors").rename(copy / "model-1.safetensors")
    index = {"weight_map": {"lm_head.weight": "model-1.safetensors", "x": "model-2.safetensors"}}
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"model-2.safetensors"):
        check_weights_fit(resolve(str(copy)))


@pytest.mark.parametrize("backend", ["hf", "vllm"])
@pytest.mark.parametrize("suite", ["reasoning", "win_rate"])
def test_it_is_refused_before_a_model_is_loaded(
    cli, adapter, model_a, no_model, tmp_path, capfd, monkeypatch, backend, suite
):
    """Log-likelihood and generation, transformers and vLLM: one check, exit code 2, nothing written."""
    monkeypatch.setattr("eval_harness.models.checks.check_backend", lambda settings: None)
    monkeypatch.setattr("eval_harness.models.generation.run._load", lambda plan: pytest.fail("loaded"))
    no_model()
    edit(adapter / "adapter_model.safetensors", renamed)
    args = ["--model", adapter, "--backend", backend]
    if suite == "win_rate":
        tiny.write_rows(tmp_path / "p.jsonl", [{"prompt": "red cat"}])
        args += ["--baseline", model_a, "--suites", "win_rate:own", "--prompts", tmp_path / "p.jsonl"]
        args += ["--judge", "length"]
    else:
        args += ["--tasks", BBH]
    assert cli(*args) == 2
    assert "8 tensors missing" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_judge_on_this_machine_is_compared_too(adapter, tmp_path):
    from eval_harness.judges import Question, build_judge
    from eval_harness.judges.templates import load_template

    edit(adapter / "adapter_model.safetensors", renamed)
    judge = build_judge("hf", {"model": str(adapter), "device": "cpu"}, load_template("helpful"))
    with pytest.raises(UserError, match="8 tensors missing"):
        list(judge.answers([Question({"prompt": "a", "first": "b", "second": "c"})]))


@pytest.mark.parametrize("suite", ["reasoning", "win_rate"])
@pytest.mark.parametrize("added", [" is", "<|user|>"])
def test_tokens_beyond_the_embedding_are_refused_before_the_run(
    cli, copy, model_a, no_model, tmp_path, capfd, suite, added
):
    """A word and a mark of the chat template, neither of which the model has a row for."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(copy)
    tokenizer.add_tokens(added, special_tokens=added.startswith("<"))
    tokenizer.save_pretrained(copy)
    no_model()
    tiny.write_rows(tmp_path / "p.jsonl", [{"prompt": "What is A?"}])
    args = ["--model", copy, "--chat-template"]
    if suite == "win_rate":
        args += ["--baseline", model_a, "--suites", "win_rate:own", "--prompts", tmp_path / "p.jsonl"]
        args += ["--judge", "length"]
    else:
        args += ["--tasks", BBH]
    assert cli(*args) == 2
    assert "more tokens than the model" in capfd.readouterr().err


def test_a_token_beyond_the_embedding_that_nothing_uses_is_no_fault(copy):
    """gemma-3-1b has one: a mark of images, which its text model does not read."""
    from transformers import AutoTokenizer

    from eval_harness.models.checks import check_vocabulary

    tokenizer = AutoTokenizer.from_pretrained(copy)
    rows = len(tokenizer)
    tokenizer.add_tokens("<image>", special_tokens=True)
    check_vocabulary(rows, tokenizer, ["a text", "another"])
    with pytest.raises(UserError, match=f"<image>.*id {rows}"):
        check_vocabulary(rows, tokenizer, ["a text", "an <image>"])
    tokenizer.pad_token = "<image>"
    with pytest.raises(UserError, match="more tokens"):
        check_vocabulary(rows, tokenizer, [])


def test_the_engine_refuses_nothing_that_fits(adapter):
    from eval_harness.models.settings import Settings

    settings = Settings(device="cpu", dtype="float32")
    assert engines.load_engine(resolve(str(adapter)), settings)
