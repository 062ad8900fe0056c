"""What other packages print on every start, and nobody can act on, is left out; everything else stays."""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

from torch import nn

_LOGGED = {
    "DeepSpeed": "Setting accelerator to CPU",
    "transformers.configuration_utils": "`torch_dtype` is deprecated",
    "transformers.modeling_utils": "`torch_dtype` is deprecated",
}
_WARNED = (
    "'set_vital' is deprecated",
    "'pin_memory' argument is set as true but no accelerator",
    "`torch.distributed.all_gather_into_tensor` is deprecated",
)


def silence() -> None:
    """Leave those messages out; to be called before these packages are imported."""
    for name, said in _LOGGED.items():
        logging.getLogger(name).addFilter(functools.partial(_is_other, said))
    for said in _WARNED:
        warnings.filterwarnings("ignore", message=said)


def _is_other(said: str, record: logging.LogRecord) -> bool:
    return said not in record.getMessage()


def silence_bars() -> None:
    """Leave out the bars of loading and saving weights: a training has one bar of its own."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


@contextlib.contextmanager
def without_lines(beginning: str) -> Iterator[None]:
    """Print what is printed meanwhile, but for the lines that begin so."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said):
            yield
    finally:
        for line in said.getvalue().splitlines():
            if not line.startswith(beginning):
                print(line, flush=True)


def mute(arguments: SimpleNamespace) -> SimpleNamespace:
    """What upstream's loading of data takes for its strategy; it prints nothing."""
    return SimpleNamespace(print=lambda *_: None, is_rank_0=lambda: False, args=arguments)


def described(value: Any) -> Any:
    """A model in one line, where upstream would print every layer; anything else as it is."""
    if not isinstance(value, nn.Module):
        return value
    model = getattr(value, "model", value)
    # ZeRO-3 leaves an empty tensor in the place of a parameter and its whole size beside it.
    sizes = [(getattr(p, "ds_numel", p.numel()), p.requires_grad) for p in model.parameters()]
    whole, trained = sum(size for size, _ in sizes), sum(size for size, on in sizes if on)
    some = "" if trained == whole else f", {trained:,} of them trained"
    return f"policy: {type(model).__name__}, {whole:,} parameters{some}"
