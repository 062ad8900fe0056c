"""Training arguments that the preference losses cannot honour: refused by name, before any work."""

from __future__ import annotations

import os
from typing import Any

from sparsepo_plugin.errors import UserError

# Accepting any other optimizer would mean a mask module that it silently does not train: some build their own
# groups or step inside the backward pass.
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd", "adafactor")


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
    "precompute_ref_log_probs": "sums over sequences cannot be masked, so the reference runs at every step",
    "use_liger_kernel": "its fused loss keeps neither logits nor hidden states, which the loss reads",
    "sync_ref_model": "masks and losses are defined on one fixed reference",
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


def check_optimizer(args: Any, custom: object = None) -> None:
    """Check that the optimizer will train a mask module.

    Args:
      args: TRL training arguments.
      custom: an optimizer class or instance given past them.

    Raises:
      UserError: another optimizer than those that are tested.
    """
    name = str(getattr(args.optim, "value", args.optim))
    if custom is not None or name not in OPTIMIZERS:
        raise other_optimizer("optim", name if custom is None else "one of its own")


def other_optimizer(key: str, got: str) -> UserError:
    """The error for an optimizer that a mask module is not tested with."""
    return UserError(
        f"{key}: got {got}, expected one of {', '.join(OPTIMIZERS)}: the mask module is a parameter "
        f"group of its own, which is tested with these only"
    )


def _check_parallelism(args: Any, chosen: str) -> None:
    sharded = "shards the policy, tested with OpenRLHF only; use `sparsepo train`, DDP, or PEFT"
    for name, given in (
        ("deepspeed", args.deepspeed or _switched_on("ACCELERATE_USE_DEEPSPEED")),
        ("fsdp", args.fsdp or _switched_on("ACCELERATE_USE_FSDP")),
        ("parallelism_config", getattr(args, "parallelism_config", None)),
    ):
        if given:
            raise UserError(f"{name} with {chosen}: got it switched on, expected it off: it {sharded}")
    if args.n_gpu > 1:
        raise UserError(
            f"{args.n_gpu} GPUs in one process with {chosen}: expected one process for each; start with "
            f"`accelerate launch` or `torchrun`, or show one GPU with CUDA_VISIBLE_DEVICES"
        )


def _switched_on(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("1", "true", "yes", "on", "y", "t")


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
