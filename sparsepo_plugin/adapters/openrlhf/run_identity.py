"""What makes a resumed run the same run, and what a checkpoint must remember to be built again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from huggingface_hub import try_to_load_from_cache

from sparsepo_plugin import config
from sparsepo_plugin.adapters.openrlhf.checkpoints import SCHEMA_VERSION, Saved, complete
from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.files import digest

# What may change from a checkpoint to its resumption: where things are, what is shown and evaluated, how the
# work is divided. It moves no number of the training by more than rounding. Every other option counts.
FREE = frozenset(
    {
        *("config", "local_rank", "use_ms", "train.micro_batch_size", "train.full_determinism_enable"),
        *("data.dataloader_num_workers", "data.length_batching", "model.trust_remote_code"),
        *("ref.offload", "ref.precompute"),
        *("model.gradient_checkpointing_enable", "model.gradient_checkpointing_reentrant"),
        *("ds.adam_offload", "ds.attn_implementation", "ds.deepcompile", "ds.experts_implementation"),
        *("ds.overlap_comm", "ds.packing_samples", "ds.use_liger_kernel", "ds.use_universal_ckpt", "ds.zpg"),
    }
)
FREE_SECTIONS = ("ckpt.", "eval.", "hub.", "logger.", "perf.", "ray.")
_TOKENIZER = ("*token*", "chat_template*", "vocab*", "merges*", "*.model", "*.tiktoken")
_WEIGHTS = ("config.json", "*.safetensors", "*.bin", "adapter_config.json")


def identity(arguments: SimpleNamespace) -> dict[str, Any]:
    """What must be the same when a run is resumed, by option; files by their content.

    Args:
      arguments: upstream's arguments, with the effective options of the chosen loss.
    """
    options = dict(config.flatten(yaml.safe_load(config.dump(arguments))))
    kept = {key: value for key, value in options.items() if not is_free(key)}
    policy, reference = arguments.model.model_name_or_path, arguments.ref.model_name_or_path
    contents = {
        "data.dataset": fingerprint(arguments.data.dataset),
        "tokenizer": folder_fingerprint(policy, _TOKENIZER),
        "reference": folder_fingerprint(reference or policy, _WEIGHTS),
    }
    if arguments.ds.lora.rank:  # the adapter of a checkpoint needs the base that it was trained on
        contents["base model"] = folder_fingerprint(policy, _WEIGHTS)
    return {**kept, **{f"content of {name}": value for name, value in contents.items()}}


def is_free(key: str) -> bool:
    """Whether an option may change from a checkpoint to its resumption."""
    return key in FREE or key.startswith(FREE_SECTIONS) or key.endswith(".record")


def blueprint(arguments: SimpleNamespace, record: dict[str, Any] | None) -> dict[str, Any]:
    """What a checkpoint must remember so that the policy and the masks can be built again.

    Args:
      arguments: upstream's arguments.
      record: ConfiguredLoss.record, or None for upstream's own loss.
    """
    ds, lora = arguments.ds, arguments.ds.lora
    template = arguments.data.tokenizer_chat_template if arguments.data.apply_chat_template else None
    return {
        "model": arguments.model.model_name_or_path,
        "trust_remote_code": arguments.model.trust_remote_code,
        "fast_tokenizer": not arguments.data.disable_fast_tokenizer,
        "chat_template": template,
        "actor": {
            "attn_implementation": ds.attn_implementation,
            "param_dtype": ds.param_dtype,
            "load_in_4bit": ds.load_in_4bit,
            "lora_rank": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            "target_modules": lora.target_modules,
        },
        "masks": record,
    }


def checkpoint_record(arguments: SimpleNamespace, objective: ConfiguredLoss | None) -> dict[str, Any]:
    """What every checkpoint of a run remembers of it."""
    record = None if objective is None else objective.record()
    return {"identity": identity(arguments), "build": blueprint(arguments, record)}


def fingerprint(dataset: str) -> str:
    """SHA-256 over the local files of a dataset option; names of hub datasets enter as they are."""
    whole = hashlib.sha256()
    for part in dataset.split(","):
        path = Path(part.strip().split("@")[0].strip())
        whole.update(path.name.encode())
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            if file.is_file():
                with open(file, "rb") as stream:
                    whole.update(hashlib.file_digest(stream, "sha256").digest())
    return whole.hexdigest()[:16]


def folder_fingerprint(name: str, patterns: Iterable[str]) -> str:
    """Digest of a folder's files of some patterns; of a hub model, the commit in the cache, or its name."""
    folder = Path(name)
    if not folder.is_dir():
        cached = try_to_load_from_cache(name, "config.json")
        return Path(cached).parent.name if isinstance(cached, str) else name
    whole = hashlib.sha256()
    for file in sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()}):
        whole.update(f"{file.name} {file.stat().st_size} {digest(file)}\n".encode())
    return whole.hexdigest()[:16]


def _read(saved: Saved, folder: Path) -> dict[str, Any]:
    """Identity of a checkpoint by option; version 0.1.0 nested it, and wrote down fewer options."""
    schema, then = saved.record.get("schema_version"), saved.record["identity"]
    if schema == SCHEMA_VERSION:
        return dict(then)
    if schema != 1:
        raise UserError(
            f"cannot resume from {folder / saved.tag}: got schema_version {schema}, expected "
            f"{SCHEMA_VERSION}; use the sparsepo version that wrote it, or train anew elsewhere"
        )
    flat = dict(config.flatten(then))
    flat["content of data.dataset"] = flat.pop("data.content")
    prefix = "options."
    return {
        k.replace(prefix, f"{then['loss']}.", 1) if k.startswith(prefix) else k: v for k, v in flat.items()
    }


def recorded_options(folder: Path, loss: str) -> dict[str, Any]:
    """Options of a loss that the newest checkpoint of a folder wrote down; empty where it has none."""
    begins = f"{loss}."
    return {
        key.removeprefix(begins): value
        for saved in complete(folder)[:1]
        for key, value in _read(saved, folder).items()
        if key.startswith(begins)
    }


def check_same(saved: Saved, now: dict[str, Any], folder: Path) -> None:
    """Refuse to continue a run as another one.

    Raises:
      UserError: naming the first difference with both values, or a checkpoint of another schema.
    """
    now = json.loads(json.dumps(now))  # the same JSON types on both sides
    then = _read(saved, folder)
    keys = then.keys() if saved.record["schema_version"] == 1 else now.keys() | then.keys()
    # The loss before its options, and options before the content of what they name.
    for key in sorted(keys, key=lambda key: (key != "loss", "content" in key, key)):
        if now.get(key) != then.get(key):
            raise UserError(
                f"cannot resume from {folder / saved.tag}: {key} is {now.get(key)!r} now and was "
                f"{then.get(key)!r}; give the old value, or train anew with another --ckpt.path"
            )
