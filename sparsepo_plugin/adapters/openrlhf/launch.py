"""Run upstream's train() with our strategy, dataset and trainer in the places of its own."""

from __future__ import annotations

import functools
import os
import time
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from sparsepo_plugin.adapters.openrlhf import flags, hub, places, preflight, quiet
from sparsepo_plugin.adapters.openrlhf.actors import build_actor, build_steady
from sparsepo_plugin.adapters.openrlhf.run_identity import checkpoint_record
from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf
from sparsepo_plugin.adapters.process_exit import leave_group_at_exit
from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.patched import patched
from sparsepo_plugin.run_folder import closing, lock


def run(argv: Sequence[str]) -> None:
    """Parse, check, train.

    Args:
      argv: command line without the program name.

    Raises:
      UserError: bad input (before anything is written), or a non-finite loss.
    """
    started = time.monotonic()
    parsed = flags.parse(argv)
    examined = preflight.examine(parsed)
    objective = examined.objective
    if os.environ.get("RANK", "0") == "0":
        print("\n".join(examined.notes), end="\n" if examined.notes else "", flush=True)
    # Tokenizers are used by forked dataset workers; this is what silences their warning.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import_openrlhf()
    leave_group_at_exit()
    quiet.silence_bars()
    import openrlhf.cli.train_dpo as upstream

    from sparsepo_plugin.adapters.openrlhf import reference_first

    replaced = _replacements(objective, checkpoint_record(parsed.arguments, objective))
    replaced["blending_datasets"] = functools.partial(_blended, upstream.blending_datasets)
    build = build_actor if parsed.arguments.model.dropout else build_steady
    actor = functools.partial(build, upstream.Actor)
    replaced["Actor"] = reference_first.leaving_out(actor) if parsed.arguments.ref.precompute else actor
    # One process locks for all: the others end with it where it is refused.
    targets = places.folders(parsed.arguments)[: 2 if places.saves(parsed.arguments) else 1]
    with lock.held(targets if os.environ.get("RANK", "0") == "0" else ()):
        rebound(upstream.train, **replaced)(parsed.arguments)
        if os.environ.get("RANK", "0") == "0":
            hub.push(parsed.arguments)
            _close(parsed.arguments, time.monotonic() - started)


def _close(arguments: SimpleNamespace, seconds: float) -> None:
    model, folder = arguments.model.model_name_or_path, Path(arguments.ckpt.output_dir)
    said = closing.lines(folder, model, arguments.loss, seconds)
    print("\n".join(said), flush=True)


def _blended(
    blend: Callable[..., Any], value: Any, share: Any, strategy: Any, *rest: Any, **more: Any
) -> Any:
    """Upstream's data, without its lines on every file: what was read is said once, with its numbers."""
    return blend(value, share, quiet.mute(strategy.args), *rest, **more)


def rebound(function: Callable[..., Any], **names: Any) -> Callable[..., Any]:
    """Copy a function so that it sees ``names`` in place of its module's globals; the module stays as it is.

    Raises:
      AttributeError: the function's module does not use one of the names.
    """
    unused = set(names) - set(function.__code__.co_names)
    if unused:
        raise AttributeError(f"{function.__module__}.{function.__qualname__} no longer uses {sorted(unused)}")
    return types.FunctionType(
        function.__code__, {**function.__globals__, **names}, function.__name__, function.__defaults__
    )


def _replacements(objective: ConfiguredLoss | None, record: dict[str, Any]) -> dict[str, Any]:
    from sparsepo_plugin.adapters.openrlhf.data_order import OrderedTrainer
    from sparsepo_plugin.adapters.openrlhf.dataset import IndexedPreferenceDataset
    from sparsepo_plugin.adapters.openrlhf.keeping import PortableStrategy
    from sparsepo_plugin.adapters.openrlhf.strategy import PreferenceStrategy
    from sparsepo_plugin.adapters.openrlhf.trainer import PreferenceTrainer

    common = {"RewardDataset": IndexedPreferenceDataset}
    if objective is None:
        strategy = functools.partial(_build_strategy, PortableStrategy, record)
        return {**common, "get_strategy": strategy, "DPOTrainer": OrderedTrainer}
    strategy = functools.partial(PreferenceStrategy, objective=objective)
    return {
        **common,
        "get_strategy": functools.partial(_build_strategy, strategy, record),
        "DPOTrainer": functools.partial(PreferenceTrainer, objective=objective),
    }


def _build_strategy(strategy_class: Callable[..., Any], record: dict[str, Any], arguments: Any) -> Any:
    """Upstream's get_strategy with another class: it looks the class up when it is called."""
    import openrlhf.utils.deepspeed as package
    from openrlhf.utils import get_strategy

    with patched(package, DeepspeedStrategy=strategy_class):
        strategy = get_strategy(arguments)
    strategy.record = record
    return strategy
