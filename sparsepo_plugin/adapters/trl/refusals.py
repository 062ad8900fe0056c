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
    for name, accepted, reason in _INCOMPATIBLE:
        value = getattr(args, name, accepted)
        if value != accepted and value is not None:
            raise UserError(
                f"{name}: got {value!r}, expected {accepted!r} with {chosen}: {reason}; drop {name}"
            )
    if not args.beta > 0:
        raise UserError(f"beta: got {args.beta!r}, expected a number > 0")
    _check_batches(args.accelerator_config)


_OWN_LOSS = "it belongs to TRL's own losses"
_INCOMPATIBLE: tuple[tuple[str, Any, str], ...] = (
    (
        "precompute_ref_log_probs",
        False,
        "sums over sequences cannot be masked, so the reference runs at every step",
    ),
    (
        "use_liger_kernel",
        False,
        "its fused loss keeps neither logits nor hidden states, which the loss reads",
    ),
    ("sync_ref_model", False, "masks and losses are defined on one fixed reference"),
    ("padding_free", False, "TRL itself has disabled it"),
    ("loss_type", ["sigmoid"], _OWN_LOSS),
    ("loss_weights", None, _OWN_LOSS),
    ("ld_alpha", None, _OWN_LOSS),
    ("use_weighting", False, _OWN_LOSS),
    ("label_smoothing", 0.0, f"{_OWN_LOSS} (for swapped labels use preference_loss cdpo)"),
    ("f_divergence_type", "reverse_kl", _OWN_LOSS),
)


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
        got = name if custom is None else "one of its own"
        raise UserError(
            f"optim: got {got}, expected one of {', '.join(OPTIMIZERS)}: the mask module is a parameter "
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
