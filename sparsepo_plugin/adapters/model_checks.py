"""What policy and reference must be, under any trainer; told from their configurations alone."""

from __future__ import annotations

from typing import Any

from transformers import AutoConfig

from sparsepo_plugin.errors import UserError


def load_config(what: str, name: str, trust_remote_code: bool) -> Any:
    """Load a model's transformers configuration.

    Args:
      what: what to call it in a message, such as a flag with its value.
      name: folder or hub name.
      trust_remote_code: whether code that comes with the model may be run.

    Raises:
      UserError: no such model, or a configuration that cannot be used.
    """
    try:
        return AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{what}: config.json cannot be used: {reason}") from None


def check_language_model(config: Any, what: str = "") -> None:
    """Refuse models that are not text alone.

    Args:
      config: of the policy or the reference.
      what: what to call it in the message.

    Raises:
      UserError: a vision-language model.
    """
    if hasattr(config, "vision_config"):
        start = f"{what}: " if what else ""
        raise UserError(f"{start}got a vision-language model, expected a causal language model")


def check_vocabularies(policy: Any, reference: Any) -> None:
    """Refuse two models whose tokens are not the same.

    Raises:
      UserError: their vocabularies have different sizes.
    """
    sizes = [config.get_text_config().vocab_size for config in (policy, reference)]
    if sizes[0] != sizes[1]:
        names = [getattr(config, "name_or_path", "") for config in (policy, reference)]
        got = [f"{size} tokens{name and f' in {name}'}" for size, name in zip(sizes, names)]
        raise UserError(
            f"policy and reference have different vocabularies: got {got[0]} and {got[1]}, "
            f"expected the same; use a reference of the policy's family"
        )
