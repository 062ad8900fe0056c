"""Training arguments that the preference losses cannot honour: refused by name, before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sparsepo_plugin.adapters import reference_logps
from sparsepo_plugin.configured_loss import ConfiguredLoss
from sparsepo_plugin.errors import UserError

# They step inside the backward pass and hide the rate that the mask module's own optimizer follows.
IN_BACKWARD = ("lomo", "layerwise")


def check(args: Any) -> None:
    """Check TRL training arguments.

    Raises:
      UserError: the first argument that contradicts a preference loss, with its value and what to do.
    """
    chosen = f"preference_loss {args.preference_loss}"
    _check_parallelism(args, chosen)
    for name, reason in REASONS.items():
        accepted = _ACCEPTED[name]
        value = getattr(args, name, accepted)
        if value != accepted and value is not None:
            raise UserError(
                f"{name}: got {value!r}, expected {accepted!r} with {chosen}: {reason}; drop {name}"
            )
    if not args.beta > 0:
        raise UserError(f"beta: got {args.beta!r}, expected a number > 0")
    _check_batches(args.accelerator_config)


_TRLS_LOSS = "it belongs to TRL's own losses"
# Why TRL's arguments are refused; Axolotl has the same under other names.
REASONS = {
    "use_liger_kernel": "its fused loss keeps neither logits nor hidden states, which the loss reads",
    "padding_free": "TRL itself has disabled it",
    **dict.fromkeys(("loss_type", "loss_weights", "ld_alpha", "use_weighting"), _TRLS_LOSS),
    "label_smoothing": f"{_TRLS_LOSS} (for swapped labels use preference_loss cdpo)",
    "f_divergence_type": _TRLS_LOSS,
}
_ACCEPTED: dict[str, Any] = {
    **dict.fromkeys(REASONS, False),
    "loss_type": ["sigmoid"],
    "loss_weights": None,
    "ld_alpha": None,
    "label_smoothing": 0.0,
    "f_divergence_type": "reverse_kl",
}


def check_output(args: Any, models: Iterable[str]) -> None:
    """Refuse to write over a model that the run reads.

    Args:
      args: TRL training arguments.
      models: folders or names of them; empty where unknown.

    Raises:
      UserError: the output folder is one of them.
    """
    output = Path(args.output_dir)
    for name in filter(None, models):
        if output.is_dir() and os.path.isdir(name) and os.path.samefile(name, output):
            raise UserError(
                f"output_dir: got {output}, which is the model that the run reads, expected another folder"
            )


def check_for(args: Any, objective: ConfiguredLoss) -> None:
    """Check TRL training arguments against what a loss with its options needs.

    Raises:
      UserError: as ``check``.
    """
    if args.precompute_ref_log_probs:
        chosen = f"preference_loss {args.preference_loss}"
        reference_logps.check(objective.needs, "precompute_ref_log_probs", chosen)
    if objective.options.learned:
        check_optimizer(args)
        if args.sync_ref_model:
            raise UserError(
                f"sync_ref_model: got True, expected False with preference_loss {args.preference_loss}: "
                f"its mask module is trained and saved for one fixed reference; drop sync_ref_model"
            )


def check_resuming(args: Any) -> None:
    """Refuse to go on from a checkpoint that lacks the reference as it was then.

    Raises:
      UserError: the reference follows the policy.
    """
    if args.sync_ref_model:
        raise UserError(
            "sync_ref_model: got True in a resumed run, expected False: checkpoints do not hold the "
            "synchronised reference; start anew"
        )


def check_optimizer(args: Any, key: str = "optim") -> None:
    """Check that a mask module can be trained beside the optimizer.

    Args:
      args: TRL training arguments, or what else names the optimizer under ``key``.
      key: its name there.

    Raises:
      UserError: an optimizer that steps inside the backward pass.
    """
    name = str(getattr(getattr(args, key, None), "value", getattr(args, key, None)))
    if any(part in name for part in IN_BACKWARD):
        raise UserError(
            f"{key}: got {name}, expected one that steps after the backward pass, such as adamw_torch: the "
            f"mask module follows its learning rate"
        )


def check_fsdp_version(version: Any) -> None:
    """Refuse FSDP1.

    Raises:
      UserError: it is not 2.
    """
    if str(version) != "2":
        raise UserError(f"fsdp_version: got {version}, expected 2: FSDP1 flattens the head's weights away")


def _check_parallelism(args: Any, chosen: str) -> None:
    sharded = "shards the policy, tested with OpenRLHF only; use `sparsepo train`, DDP, or PEFT"
    if getattr(args, "parallelism_config", None):
        raise UserError(
            f"parallelism_config with {chosen}: got it switched on, expected it off: it {sharded}"
        )
    if args.n_gpu > 1:
        raise UserError(
            f"{args.n_gpu} GPUs in one process with {chosen}: expected one process for each; start with "
            f"`accelerate launch` or `torchrun`, or show one GPU with CUDA_VISIBLE_DEVICES"
        )


def _check_batches(config: Any) -> None:
    # The metrics tell copies that pad the last evaluation batch by where accelerate puts every pair.
    for name, accepted in (
        ("split_batches", (False,)),
        ("dispatch_batches", (None, False)),
        ("even_batches", (True,)),
    ):
        value = getattr(config, name)
        if value not in accepted:
            raise UserError(f"accelerator_config.{name}: got {value!r}, expected {accepted[-1]!r}; drop it")
