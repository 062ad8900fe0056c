"""Everything that can be known to be wrong before a model is loaded: one clear line each."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from transformers import AutoTokenizer
from transformers.utils import cached_file

from sparsepo_plugin.adapters import model_checks, reference_logps
from sparsepo_plugin.adapters.openrlhf import (
    checkpoints,
    data_check,
    hub,
    mode_check,
    option_ranges,
    places,
    reporting,
    run_identity,
    template_check,
    weights_check,
)
from sparsepo_plugin.adapters.openrlhf.flags import Parsed
from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf
from sparsepo_plugin.adapters.pairs.prepare import PreparedPairs, check_weights
from sparsepo_plugin.configured_loss import ConfiguredLoss, reference_shape
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.options import LossOptions


class Examined(NamedTuple):
    """A run that can start.

    Attributes:
      objective: of the chosen loss, or None for upstream's own.
      tokenizer: the policy's.
      policy: the policy without its numbers.
      reference: the same of the reference, or None where the training needs none.
      data: prepared rows by flag.
      notes: what a user should know, a sentence each.
    """

    objective: ConfiguredLoss | None
    tokenizer: Any
    policy: Any
    reference: Any
    data: dict[str, PreparedPairs]
    notes: list[str]


def check(
    parsed: Parsed, processes: int | None = None, *, elsewhere: bool = False, check_places: bool = True
) -> ConfiguredLoss | None:
    """Check a run as ``examine`` does.

    Returns:
      The objective of the chosen loss, or None for upstream's own.
    """
    return examine(parsed, processes, elsewhere=elsewhere, check_places=check_places).objective


def examine(
    parsed: Parsed, processes: int | None = None, *, elsewhere: bool = False, check_places: bool = True
) -> Examined:
    """Check arguments, models, data and output folder; rows of data go to the datasets cache.

    Args:
      parsed: result of flags.parse. What is found out here is set in its arguments: ``eval.split`` of local
        files, a prompt column that was not named, the text of a chat template given as a file, an attention
        kernel that the model has.
      processes: number of processes the run will have; default: what the launcher says.
      elsewhere: they are on other machines, which have devices and packages of their own.
      check_places: whether to look at what is in the places where the run writes.

    Raises:
      UserError: the first thing found wrong.
    """
    arguments, notes = parsed.arguments, list(parsed.notes)
    processes = int(os.environ.get("WORLD_SIZE", "1")) if processes is None else processes
    chosen = None if parsed.loss is None else parsed.loss.name
    option_ranges.check_ranges(arguments)
    _check_options(arguments, parsed)
    mode_check.check_modes(arguments, chosen and f"--loss {chosen}", processes, elsewhere=elsewhere)
    option_ranges.check_effects(arguments, parsed.options.record if parsed.options else 0, chosen)
    _check_batch(arguments, processes)
    reporting.check(arguments)
    # The first process speaks for all; once it holds the lock, the others would find it taken.
    if check_places and os.environ.get("RANK", "0") == "0":
        places.check(arguments)
        hub.check(arguments)
    configs = _check_models(arguments)
    mode_check.check_model(arguments, configs[0])
    objective = None
    if parsed.loss is not None and parsed.options is not None:
        options = _options_of_the_run(arguments, parsed.loss.name, parsed.options, parsed.given)
        notes += options.lines(parsed.loss.name, parsed.options)
        objective = ConfiguredLoss(parsed.loss, options, reference_shape(configs[1]))
        _check_shape(objective, arguments.train.seed)
        if arguments.ref.precompute:
            reference_logps.check(objective.needs, "--ref.precompute", f"--loss {chosen}")
    tokenizer = _load_tokenizer(arguments)
    import_openrlhf()  # first: it keeps what transformers imports next from warning of its own
    option_ranges.check_scheduler(arguments)
    template_check.check_templates(arguments, tokenizer)
    policy, reference = _load_outlines(arguments, configs)
    _choose_attention(arguments, policy, reference, notes)
    data = data_check.check_datasets(arguments, tokenizer, notes)
    if objective is not None and objective.needs.token_weights:
        _check_weights(arguments, data, objective.loss.name)
    _check_rows(arguments, data, (policy, reference), tokenizer, notes)
    _check_resume(arguments)  # last: checkpoints remember what was found out above
    if check_places and os.environ.get("RANK", "0") == "0":
        places.check_same_run(arguments)
    judged = (objective is None or objective.needs.reference) and not arguments.ref.precompute
    return Examined(objective, tokenizer, policy, reference if judged else None, data, notes)


def _check_rows(
    arguments: SimpleNamespace,
    data: dict[str, PreparedPairs],
    models: tuple[Any, Any],
    tokenizer: Any,
    notes: list[str],
) -> None:
    names = {data_check.TRAINING: arguments.data.dataset, data_check.EVALUATION: arguments.eval.dataset}
    for flag, prepared in data.items():
        source, length = f"{flag} {names[flag]}", arguments.data.max_len
        for model in dict.fromkeys(models):
            weights_check.check_rows(source, prepared.account, model, tokenizer, length, notes)


def _check_weights(arguments: SimpleNamespace, data: dict[str, PreparedPairs], loss: str) -> None:
    names = {data_check.TRAINING: arguments.data.dataset, data_check.EVALUATION: arguments.eval.dataset}
    for flag, prepared in data.items():
        check_weights(f"{flag} {names[flag]}", prepared.pairs, f"--loss {loss}")


def _options_of_the_run(
    arguments: SimpleNamespace, loss: str, options: LossOptions, given: frozenset[str]
) -> LossOptions:
    """The parsed options; of a run that is resumed, with the defaults that it was begun with."""
    if arguments.ckpt.load_enable:
        recorded = run_identity.recorded_options(Path(arguments.ckpt.path), loss)
        options = options.as_begun(recorded, given)
        setattr(arguments, loss, SimpleNamespace(**vars(options)))
    return options


def _check_shape(objective: ConfiguredLoss, seed: int) -> None:
    """Build the mask module, so that what the reference's sizes rule out is known now."""
    with torch.device("meta"):
        objective.build_masks(seed)


def _load_outlines(arguments: SimpleNamespace, configs: tuple[Any, Any]) -> tuple[Any, Any]:
    names = (arguments.model.model_name_or_path, arguments.ref.model_name_or_path)
    trust = arguments.model.trust_remote_code
    policy = weights_check.load_outline(names[0], "--model.model_name_or_path", configs[0], trust)
    if names[1] in (None, names[0]):
        return policy, policy
    return policy, weights_check.load_outline(names[1], "--ref.model_name_or_path", configs[1], trust)


def _choose_attention(arguments: SimpleNamespace, policy: Any, reference: Any, notes: list[str]) -> None:
    asked = arguments.ds.attn_implementation
    for model in (policy, reference):
        arguments.ds.attn_implementation = weights_check.choose_attention(
            arguments.ds.attn_implementation, model
        )
    if (found := arguments.ds.attn_implementation) != asked:
        notes.append(f"--ds.attn_implementation {asked}: the model has no such kernel, {found} is used")


def _check_resume(arguments: SimpleNamespace) -> None:
    folder = Path(arguments.ckpt.path)
    if arguments.ckpt.load_enable and (saved := checkpoints.to_resume(folder)) is not None:
        run_identity.check_same(saved, run_identity.identity(arguments), folder)


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


def _check_batch(arguments: SimpleNamespace, processes: int) -> None:
    ds, train = arguments.ds, arguments.train
    unit = train.micro_batch_size * processes // ds.tensor_parallel_size // ds.ring_attn_size
    if unit == 0 or train.batch_size % unit:
        raise UserError(
            f"--train.batch_size: got {train.batch_size}, expected a multiple of {unit} "
            f"(--train.micro_batch_size {train.micro_batch_size} x {processes} processes)"
        )


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
