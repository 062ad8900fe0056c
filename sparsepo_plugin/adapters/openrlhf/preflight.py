"""Everything that can be known to be wrong before a model is loaded: one clear line each."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from transformers import AutoTokenizer
from transformers.utils import cached_file

from sparsepo_plugin.adapters import model_checks
from sparsepo_plugin.adapters.openrlhf import checkpoints, data_check, mode_check
from sparsepo_plugin.adapters.openrlhf.flags import Parsed
from sparsepo_plugin.configured_loss import ConfiguredLoss, reference_shape
from sparsepo_plugin.errors import UserError


def check(parsed: Parsed, processes: int | None = None) -> ConfiguredLoss | None:
    """Check arguments, models, data and output folder; nothing is written.

    Args:
      parsed: result of flags.parse. ``eval.split`` is set to "train" for local files, which have no other.
      processes: number of processes the run will have; default: what the launcher says.

    Returns:
      The objective of the chosen loss, or None for upstream's own.

    Raises:
      UserError: the first thing found wrong.
    """
    arguments = parsed.arguments
    processes = int(os.environ.get("WORLD_SIZE", "1")) if processes is None else processes
    _check_options(arguments, parsed)
    chosen = None if parsed.loss is None else f"--loss {parsed.loss.name}"
    mode_check.check_modes(arguments, chosen, processes)
    _check_batch(arguments, processes)
    _check_output(Path(arguments.ckpt.output_dir))
    policy, reference = _check_models(arguments)
    mode_check.check_model(arguments, policy)
    tokenizer = _load_tokenizer(arguments)
    data_check.check_datasets(arguments, tokenizer)
    if parsed.loss is None or parsed.options is None:
        return None
    objective = ConfiguredLoss(parsed.loss, parsed.options, reference_shape(reference or policy))
    _check_resume(arguments, objective)
    return objective


def _check_resume(arguments: SimpleNamespace, objective: ConfiguredLoss) -> None:
    folder = Path(arguments.ckpt.path)
    if arguments.ckpt.load_enable and (saved := checkpoints.to_resume(folder)) is not None:
        checkpoints.check_same(saved, checkpoints.identity(arguments, objective), folder)


def _check_options(arguments: SimpleNamespace, parsed: Parsed) -> None:
    model = arguments.model
    if parsed.loss is not None:
        chosen = f"--loss {parsed.loss.name}"
        for flag, given in (
            ("--model.ipo_enable", model.ipo_enable),
            ("--model.label_smoothing", model.label_smoothing != 0),
        ):
            if given:
                raise UserError(
                    f"{flag} contradicts {chosen}: it belongs to upstream's own loss; drop one of them"
                )
    if not model.beta > 0:
        raise UserError(f"--model.beta: got {model.beta}, expected a number > 0")


def _check_batch(arguments: SimpleNamespace, processes: int) -> None:
    ds, train = arguments.ds, arguments.train
    unit = train.micro_batch_size * processes // ds.tensor_parallel_size // ds.ring_attn_size
    if unit == 0 or train.batch_size % unit:
        raise UserError(
            f"--train.batch_size: got {train.batch_size}, expected a multiple of {unit} "
            f"(--train.micro_batch_size {train.micro_batch_size} x {processes} processes)"
        )


def _check_output(folder: Path) -> None:
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir():
        raise UserError(
            f"--ckpt.output_dir {folder}: {existing} is a file, expected a folder that can be written"
        )
    if not os.access(existing, os.W_OK):
        raise UserError(f"--ckpt.output_dir {folder}: {existing} is not writable; choose another folder")


def _check_models(arguments: SimpleNamespace) -> tuple[Any, Any]:
    name = arguments.model.model_name_or_path
    if not name:
        raise UserError("--model.model_name_or_path is missing: expected a Hugging Face folder or hub name")
    reference_name = arguments.ref.model_name_or_path or name
    trust = arguments.model.trust_remote_code
    policy = load_config(name, "--model.model_name_or_path", trust)
    if reference_name == name:
        return policy, policy
    reference = load_config(reference_name, "--ref.model_name_or_path", trust)
    model_checks.check_vocabularies(policy, reference)
    return policy, reference


def load_config(name: str, flag: str, trust: bool) -> Any:
    """Load a model's configuration; code that comes with the model is not run unless asked for.

    Args:
      name: folder or hub name.
      flag: what named it, for the message.
      trust: whether such code is allowed.

    Raises:
      UserError: no such model, or one that brings code.
    """
    looks_local = name.startswith((".", "/", "~")) or name.count("/") != 1
    if looks_local and not Path(name).is_dir():
        raise UserError(
            f"{flag} {name}: no such folder; expected a Hugging Face folder or a hub name such as org/name"
        )
    try:
        path = cached_file(name, "config.json")
    except OSError:
        raise UserError(f"{flag} {name}: no config.json there (or the hub cannot be reached)") from None
    if path is None:
        raise UserError(f"{flag} {name}: no config.json there")
    _refuse_remote_code(name, trust)
    config = model_checks.load_config(f"{flag} {name}", name, trust)
    model_checks.check_language_model(config, f"{flag} {name}")
    return config


def _refuse_remote_code(name: str, trust: bool) -> None:
    # Upstream's Actor and tokenizer loader have trust_remote_code=True hard-coded.
    if trust:
        return
    for file in ("config.json", "tokenizer_config.json"):
        path = cached_file(name, file, _raise_exceptions_for_missing_entries=False)
        if path is not None and '"auto_map"' in Path(path).read_text(encoding="utf-8"):
            raise UserError(
                f"{name}: its {file} asks to run code that comes with the model (auto_map); "
                f"read that code, then allow it with --model.trust_remote_code"
            )


def _load_tokenizer(arguments: SimpleNamespace) -> Any:
    name = arguments.model.model_name_or_path
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name,
            trust_remote_code=arguments.model.trust_remote_code,
            use_fast=not arguments.data.disable_fast_tokenizer,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{name}: its tokenizer cannot be loaded: {' '.join(str(error).split())[:200]}"
        ) from None
    if tokenizer.eos_token is None:
        raise UserError(
            f"{name}: its tokenizer has no eos_token, which ends every response; set one and save it"
        )
    return tokenizer
