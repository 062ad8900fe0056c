"""Show where MaPO records a model's activations; only its configuration is read, no weights."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from sparsepo_plugin.errors import UserError
from sparsepo_plugin.forward.activations import find_sites


def describe_sites(name: str) -> str:
    """List the recording sites of a Hugging Face folder or hub name, one per line.

    Raises:
      UserError: no such model, or one without the structure of a causal language model.
    """
    try:
        config = AutoConfig.from_pretrained(name)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"{name}: no causal language model there: {' '.join(str(error).split())[:200]}"
        ) from None
    sites = find_sites(model)
    width = max(len(site.name) for site in sites)
    lines = [f"{site.name:{width}}  {site.side:6}  {site.module}" for site in sites]
    return "\n".join([f"{type(model).__name__}: {len(sites)} sites", *lines])
