"""Every name of OpenRLHF that the adapter relies on: a version that changes one fails by that name."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import pickle
import re
import subprocess
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

import pytest

from sparsepo_plugin.adapters.openrlhf import flags
from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf

import_openrlhf()
cli = importlib.import_module("openrlhf.cli.train_dpo")


def parameters(function):
    """Names of a function's parameters, self left out, ``*`` and ``**`` kept."""
    kinds = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    found = inspect.signature(function).parameters.values()
    return [kinds.get(item.kind, "") + item.name for item in found if item.name != "self"]


def resolve(name):
    module, _, attribute = name.partition(":")
    value = importlib.import_module(module)
    for part in attribute.split("."):
        value = getattr(value, part)
    return value


def test_the_version_is_the_one_everything_here_was_written_against():
    assert version("openrlhf") == "0.11.2"


def test_the_main_block_is_where_the_command_line_is_read_from():
    source = Path(importlib.util.find_spec("openrlhf.cli.train_dpo").origin).read_text()
    blocks = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    assert [ast.unparse(node.test) for node in blocks] == ["__name__ == '__main__'"]
    last = blocks[0].body[-1]
    assert ast.unparse(last) == "train(args)"
    used = {node.id for node in ast.walk(blocks[0]) if isinstance(node, ast.Name)}
    provided = {"argparse", "math", "os", "datetime", "train"}
    imported_inside = {"hierarchize", "patch_hub"}
    assert used - provided - imported_inside - set(dir(__builtins__)) - set(__builtins__) <= {
        "parser",
        "args",
    }


@pytest.mark.parametrize(
    "name", ["get_strategy", "Actor", "RewardDataset", "DPOTrainer", "blending_datasets"]
)
def test_train_looks_the_replaced_names_up_when_it_runs(name):
    assert name in cli.train.__code__.co_names
    assert name in cli.train.__globals__
    assert parameters(cli.train) == ["args"]
    assert cli.train.__closure__ is None
    assert cli.train.__defaults__ is None


SIGNATURES = {
    "openrlhf.trainer.dpo_trainer:DPOTrainer.__init__": [
        "model", "ref_model", "strategy", "tokenizer", "optim", "train_dataloader", "eval_dataloader",
        "scheduler", "max_norm", "beta", "max_epochs", "save_hf_ckpt", "disable_ds_ckpt",
    ],
    "openrlhf.trainer.dpo_trainer:DPOTrainer.fit": ["args", "consumed_samples", "num_update_steps_per_epoch"],
    "openrlhf.trainer.dpo_trainer:DPOTrainer.evaluate": ["eval_dataloader", "steps"],
    "openrlhf.trainer.dpo_trainer:DPOTrainer.concatenated_forward": [
        "model", "chosen_ids", "c_mask", "reject_ids", "r_mask", "prompt_id_lens",
    ],
    "openrlhf.trainer.dpo_trainer:DPOTrainer.concatenated_inputs": [
        "chosen_ids", "c_mask", "reject_ids", "r_mask", "prompt_id_lens",
    ],
    "openrlhf.trainer.dpo_trainer:DPOTrainer.save_logs_and_checkpoints": [
        "args", "global_step", "step_bar", "logs_dict", "client_states",
    ],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.__init__": [
        "seed", "full_determinism", "max_norm", "micro_train_batch_size", "train_batch_size", "zero_stage",
        "args",
    ],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.setup_distributed": ["timeout"],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.get_ds_train_config": ["optim_dict", "max_norm"],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.all_reduce": ["data", "op"],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.all_gather": ["data"],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.save_model": ["model", "tokenizer", "output_dir", "**kwargs"],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.save_ckpt": [
        "model", "save_dir", "tag", "max_num", "max_mem", "client_state", "save_latest", "metric_value",
        "metric_key",
    ],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.load_ckpt": [
        "model", "load_dir", "tag", "load_module_strict", "load_optimizer_states", "load_lr_scheduler_states",
        "load_module_only",
    ],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.prepare": ["*args"],
    "openrlhf.utils.deepspeed:DeepspeedStrategy._ds_init_eval_model": ["model"],
    "openrlhf.utils.deepspeed:DeepspeedStrategy._ds_init_train_model": ["model", "cfg"],
    "openrlhf.utils.deepspeed:DeepspeedStrategy._get_model_parameters": ["model", "optim", "weight_decay"],
    "openrlhf.utils.deepspeed:DeepspeedStrategy._unwrap_model": ["model"],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.backward": ["loss", "model", "_optimizer", "**kwargs"],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.optimizer_step": [
        "_optimizer", "model", "_scheduler", "name", "**kwargs",
    ],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.get_grad_norm": ["model"],
    "openrlhf.models.ring_attn_utils:unpad_and_slice_tensor": [
        "sequences", "attention_mask", "ring_attn_group",
    ],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.is_rank_0": [],
    "openrlhf.datasets:RewardDataset.__init__": [
        "dataset", "tokenizer", "max_length", "strategy", "input_template", "is_dpo", "num_processors",
    ],
    "openrlhf.datasets:RewardDataset.__getitem__": ["idx"],
    "openrlhf.datasets:RewardDataset.collate_fn": ["item_list"],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.setup_dataloader": [
        "replay_buffer", "batch_size", "pin_memory", "shuffle", "collate_fn", "drop_last", "sampler",
        "consumed_samples", "num_workers",
    ],
    "openrlhf.datasets.utils:blending_datasets": [
        "datasets", "probabilities", "strategy", "seed", "max_count", "stopping_strategy", "dataset_split",
    ],
    "openrlhf.utils.distributed_sampler:DistributedSampler.__init__": [
        "dataset", "num_replicas", "rank", "shuffle", "seed", "drop_last", "consumed_samples",
    ],
    "openrlhf.utils:get_strategy": ["args"],
    "openrlhf.utils.config:hierarchize": ["args"],
    "openrlhf.utils.utils:convert_to_torch_dtype": ["param_dtype"],
    "openrlhf.models:Actor.forward": [
        "sequences", "action_mask", "attention_mask", "return_output", "allgather_logits", "return_logprobs",
        "ring_attn_group", "packed_seq_lens", "return_entropy", "**mm_inputs",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SIGNATURES))
def test_signature(name):
    assert parameters(resolve(name)) == SIGNATURES[name]


# Pieces of upstream's source that the adapter depends on without calling them, each with what depends on it.
SOURCE = {
    "openrlhf.trainer.dpo_trainer:DPOTrainer.fit": [
        "chosen_logps, rejected_logps, aux_loss, nll_loss = self.concatenated_forward(",
        "reference_chosen_logps, reference_rejected_logps, _, _ = self.concatenated_forward(",
        "preference_loss, chosen_reward, reject_reward = self.loss_fn( chosen_logps, rejected_logps, "
        "reference_chosen_logps, reference_rejected_logps )",
        "self.save_logs_and_checkpoints(args, global_step, step_bar, logs_dict, client_states)",
        "consumed_samples // args.train.batch_size", "for epoch in range(start_epoch, self.epochs):",
        "start_epoch = consumed_samples // args.train.batch_size // num_update_steps_per_epoch",
        "consumed_samples = consumed_samples % (num_update_steps_per_epoch * args.train.batch_size)",
        "args.eval.steps = num_update_steps_per_epoch",
        'args.ckpt.save_steps = float("inf")',
        "isinstance(self.train_dataloader.sampler, DistributedSampler)", "sampler.set_epoch( epoch, consumed",
    ],
    "openrlhf.trainer.dpo_trainer:DPOTrainer.evaluate": ["self.model.train()", "self.loss_fn("],
    "openrlhf.trainer.dpo_trainer:DPOTrainer.save_logs_and_checkpoints": [
        '"train/%s" % k', 'f"train/{k}"', "self.evaluate(self.eval_dataloader, global_step)",
        "self.strategy.save_model(self.model, self.tokenizer, save_path)",
    ],
    "openrlhf.trainer.dpo_trainer:DPOTrainer.__init__": [
        "self.args = strategy.args", "self._wandb = None", "self._tensorboard = None", "self.packing_samples",
    ],
    "openrlhf.utils.utils:get_strategy": ["from openrlhf.utils.deepspeed import DeepspeedStrategy"],
    "openrlhf.models:Actor.__init__": [
        "from openrlhf.utils.utils import convert_to_torch_dtype", "convert_to_torch_dtype(param_dtype)",
    ],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.setup_distributed": [
        "torch.cuda.set_device(local_rank)", 'init_device_mesh( "cuda", ',
        'mesh_dim_names=("dp", "sp", "tp")',
    ],
    "openrlhf.utils.deepspeed:DeepspeedStrategy._get_model_parameters": [
        'if optim == "muon":', "[param for param in raw_model.parameters() if param.requires_grad]",
    ],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.save_model": [
        "torch.save( get_peft_model_state_dict(model_to_save, output_state_dict)",
        "isinstance(model_to_save, PeftModel)", "model_to_save.config.to_json_file(output_config_file)",
    ],
    # It deletes any folder beside the checkpoints, so it is never asked to make room.
    "openrlhf.utils.deepspeed:DeepspeedStrategy.save_ckpt": [
        "overflow_num = max(0, len(regular_subdirs) - max_num + 1)", "shutil.rmtree(delete_dir)",
        "overflow_mem = total_size > max_size_bytes",
    ],
    # An adapter's folder opens with its base only where it has no config.json.
    "transformers.models.auto.auto_factory:_BaseAutoModelClass.from_pretrained": [
        "os.path.join(pretrained_model_name_or_path, CONFIG_NAME)",
        'pretrained_model_name_or_path = adapter_config["base_model_name_or_path"]',
    ],
    "openrlhf.utils.deepspeed.deepspeed_utils:get_train_ds_config": [
        'zero_opt_dict["reduce_scatter"] = True',
    ],
    "openrlhf.cli.train_dpo:": [
        'args.ds.attn_implementation = "flash_attention_2"', "assert args.ds.packing_samples,",
        "trainer.fit(args, consumed_samples, num_update_steps_per_epoch)", "scheduler_steps=max_steps",
        "lora_rank=args.ds.lora.rank", "ref_model._offload = True",
        "strategy.prepare((model, cfg), ref_model)",
        'consumed_samples = states["consumed_samples"]',
        "load_path, states = strategy.load_ckpt(model.model, args.ckpt.path)",
    ],
    "openrlhf.models:Actor.forward": ["**mm_inputs)", "foward_attention_mask = None"],
    # DeepSpeed, through which upstream runs these modes.
    "deepspeed.runtime.engine:DeepSpeedEngine._configure_basic_optimizer": [
        "optimizer = MuonWithAuxAdam(param_groups,", "name='muon-params'", "name='adam-params'",
    ],
    "deepspeed.runtime.engine:DeepSpeedEngine.get_optimizer_configuration": [
        "optimizer_parameters.pop(TORCH_ADAM_PARAM, False)",
    ],
    "deepspeed.runtime.engine:DeepSpeedEngine._take_model_step": [
        "if hasattr(self.optimizer, '_global_grad_norm'):",
    ],
    "deepspeed:set_optimizer_flags": ['setattr(p, "use_muon", True)'],
    "deepspeed.runtime.zero.stage3:DeepSpeedZeroOptimizer_Stage3.__init__": [
        "Muon and reduce scatter cannot be used together",
    ],
    "deepspeed.runtime.zero.partition_parameters:Init._convert_to_deepspeed_param": [
        "param.ds_shape = param.shape",
    ],
    "openrlhf.utils.deepspeed:DeepspeedStrategy._ds_init_train_model": [
        "self.get_ds_train_config(optim_dict=optim_dict,", "self._get_model_parameters( model, optim=",
        '"type": "AdamW"', 'scheduler_steps = cfg["scheduler_steps"]',
    ],
    "openrlhf.utils.deepspeed:DeepspeedStrategy.setup_dataloader": [
        "sampler = DistributedSampler(", "batch_size=batch_size, sampler=sampler, drop_last=drop_last",
    ],
    "openrlhf.utils.distributed_sampler:DistributedSampler.__iter__": [
        "indices[self.rank : self.total_size : self.num_replicas]", "g.manual_seed(self.seed + self.epoch)",
        "torch.randperm(len(self.dataset), generator=g)",
    ],
    "openrlhf.trainer.dpo_trainer:DPOTrainer.concatenated_inputs": [
        "return inputs_ids, att_masks, prompt_id_lens * 2",
    ],
    "openrlhf.datasets:RewardDataset.collate_fn": [
        "extras.append(extra)", "zero_pad_sequences(chosen_ids, side=padding_side, "
        "value=self.tokenizer.pad_token_id)", 'if self.is_dpo: padding_side = "right"',
    ],
    # What our rows replace, and why: a version that mends one of these may need less of ours.
    "openrlhf.datasets.reward_dataset:preprocess_data": [
        "apply_chat_template(data[prompt_key] + data[chosen_key], tokenize=False)[len(prompt) :]",
        "rejected = rejected[len(prompt) :]",
    ],
    "openrlhf.datasets:RewardDataset.process_data": ["prompt_ids_len >= self.max_length - 2"],
    "openrlhf.datasets:RewardDataset.__getitem__": [
        'chosen += " " + self.tokenizer.eos_token',
        'chosen_token["input_ids"][0][-1] = self.tokenizer.eos_token_id',
    ],
    "openrlhf.models.ring_attn_utils:": [
        "from flash_attn.bert_padding import", "from flash_attn.utils.distributed",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(SOURCE))
def test_source(name):
    module, _, attribute = name.partition(":")
    value = resolve(name) if attribute else importlib.import_module(module)
    text = re.sub(r"\s+", " ", inspect.getsource(value))
    for piece in SOURCE[name]:
        assert piece in text, piece


@pytest.mark.parametrize("packing", [[], ["--ds.packing_samples"]])
def test_a_gpu_without_flash_attn_is_no_reason_to_refuse_the_default(packing, monkeypatch):
    """Upstream's default is flash attention; seen refused on an H100 where the package was not installed."""
    if importlib.util.find_spec("flash_attn") is not None:
        pytest.skip("the real flash-attn is installed")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert flags.parse(packing).arguments.ds.attn_implementation == "sdpa"
    asked = flags.parse([*packing, "--ds.attn_implementation", "flash_attention_2"])
    assert asked.arguments.ds.attn_implementation == "flash_attention_2"


@pytest.mark.parametrize(
    ("flag", "default"),
    [
        ("model.beta", 0.1), ("model.ipo_enable", False), ("model.label_smoothing", 0.0),
        ("model.nll_loss_coef", 0),
        ("model.aux_loss_coef", 0), ("model.model_name_or_path", None), ("ref.model_name_or_path", None),
        ("data.dataset", None), ("data.dataset_probs", None), ("data.dataset_split", "train"),
        ("data.max_len", 512),
        ("data.max_samples", 1_000_000), ("data.prompt_key", None), ("data.chosen_key", "chosen"),
        ("data.rejected_key", "rejected"), ("data.input_template", None), ("data.apply_chat_template", False),
        ("data.tokenizer_chat_template", None), ("data.disable_fast_tokenizer", False),
        ("eval.dataset", None),
        ("eval.split", "test"), ("eval.steps", -1), ("train.batch_size", 128), ("train.micro_batch_size", 8),
        ("train.seed", 42), ("train.max_epochs", 1), ("adam.lr", 1e-5), ("optim", "adam"), ("max_norm", 1.0),
        ("ckpt.output_dir", "./ckpt"), ("ckpt.path", "./ckpt/checkpoints_dpo"), ("ckpt.save_steps", -1),
        ("ckpt.save_hf", False), ("ckpt.disable_ds", False), ("ckpt.load_enable", False),
        ("ds.zero_stage", 2), ("ds.lora.dropout", 0), ("ds.load_in_4bit", False), ("ds.deepcompile", False),
        ("ds.use_liger_kernel", False), ("ref.offload", False), ("ds.adam_offload", False), ("use_ms", False),
        ("model.gradient_checkpointing_enable", False), ("model.gradient_checkpointing_reentrant", False),
        ("ds.param_dtype", "bf16"), ("ds.packing_samples", False), ("ds.ring_attn_size", 1),
        ("ds.tensor_parallel_size", 1), ("ds.lora.rank", 0), ("ds.lora.target_modules", "all-linear"),
        ("logger.wandb.key", None), ("logger.tensorboard_dir", None), ("logger.logging_steps", 1),
        ("local_rank", -1),
    ],
)  # fmt: skip
def test_flag_and_default(flag, default):
    value = flags.parse([]).arguments
    for part in flag.split("."):
        value = getattr(value, part)
    assert value == default


def test_our_names_do_not_collide_with_upstreams_flags():
    source = inspect.getsource(cli)
    own = {
        "--config",
        "--loss",
        "--eval.at_start",
        "--eval.at_end",
        "--model.trust_remote_code",
        "--overwrite",
    }
    own |= {"--model.dropout", "--logger.report_to", "--hub.push", "--hub.private"}
    own |= {
        "--ref.precompute",
        "--data.length_batching",
        "--data.upstream_end_tokens",
        "--data.chat_template_kwargs",
    }
    assert not own & set(re.findall(r'"(--[\w.]+)"', source))
    assert not re.findall(r'"--(?:sparsepo|dpo)\.', source)


def test_every_flag_of_upstream_is_accepted():
    upstream = set(re.findall(r'add_argument\(\s*"(--[\w.]+)"', inspect.getsource(cli)))
    assert len(upstream) > 80
    known = vars_of(flags.parse([]).arguments)
    unknown = {name for name in upstream if name[2:] not in known and name != "--muon.no_nesterov"}
    assert not unknown


def vars_of(namespace, prefix=""):
    found = set()
    for name, value in vars(namespace).items():
        found |= vars_of(value, f"{prefix}{name}.") if hasattr(value, "__dict__") else {f"{prefix}{name}"}
    return found


def test_a_launch_names_what_upstream_no_longer_uses():
    from sparsepo_plugin.adapters.openrlhf.launch import rebound

    with pytest.raises(
        AttributeError, match=r"openrlhf\.cli\.train_dpo\.train no longer uses \['PPOTrainer'\]"
    ):
        rebound(cli.train, PPOTrainer=None)
    before = dict(cli.train.__globals__)
    copy = rebound(cli.train, DPOTrainer="ours")
    assert copy.__globals__["DPOTrainer"] == "ours"
    assert cli.train.__globals__["DPOTrainer"] is before["DPOTrainer"]


@pytest.mark.skipif(
    importlib.util.find_spec("flash_attn") is not None, reason="the real flash-attn is installed"
)
def test_the_flash_attn_stand_in_leaves_no_trace():
    code = """
        import sys
        from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf
        import_openrlhf()
        import importlib.util, openrlhf.trainer.dpo_trainer, openrlhf.utils.deepspeed, openrlhf.cli.train_dpo
        assert not [name for name in sys.modules if name.split(".")[0] == "flash_attn"]
        assert importlib.util.find_spec("flash_attn") is None
        from transformers.utils import is_flash_attn_2_available
        assert not is_flash_attn_2_available()
        import_openrlhf()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


def test_the_stand_ins_padding_helpers_round_trip():
    import torch

    from sparsepo_plugin.adapters.openrlhf import standin

    if importlib.util.find_spec("flash_attn") is not None:
        pytest.skip("the real flash-attn is installed")
    helpers = standin._standins()["flash_attn.bert_padding"]
    value = torch.randn(2, 4, 3, requires_grad=True)
    mask = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    packed, indices, *_ = helpers.unpad_input(value, mask)
    assert packed.shape == (4, 3)
    padded = helpers.pad_input(packed, indices, 2, 4)
    torch.testing.assert_close(padded, value * mask[..., None])
    padded.sum().backward()
    assert torch.equal(value.grad, mask[..., None].expand_as(value).to(value.dtype))
    with pytest.raises(RuntimeError, match="real flash-attn"):
        standin._standins()["flash_attn.utils.distributed"].all_gather()


def test_deepspeeds_compiled_all_reduce_is_where_the_strategy_switches_it_off():
    import deepspeed.comm.torch  # noqa: F401

    assert callable(sys.modules["deepspeed.comm.torch"].build_shm_op)


def test_datasets_keeps_a_mapped_set_where_and_under_what_name_we_say():
    from datasets import Dataset

    assert {"cache_file_name", "new_fingerprint", "load_from_cache_file", "with_indices", "features"} <= set(
        inspect.signature(Dataset.map).parameters
    )
    data = Dataset.from_dict({"a": [1, 2]})
    assert data._fingerprint != Dataset.from_dict({"a": [1, 3]})._fingerprint


def test_the_trainers_doubling_of_prompt_lengths_gives_each_side_its_own():
    from sparsepo_plugin.adapters.openrlhf.dataset import PromptLength, PromptLengths

    lengths = PromptLengths([PromptLength(3, 0, 4), PromptLength(5, 1)])
    assert lengths * 2 == [3, 5, 4, 5]
    assert (PromptLengths([7]) * 2) == [7, 7]
    with pytest.raises(ValueError, match="expected 2"):
        lengths * 3
    copied = pickle.loads(pickle.dumps(lengths))
    assert (copied * 2, [length.index for length in copied]) == ([3, 5, 4, 5], [0, 1])
