"""Ranges of upstream's options, and options that do nothing for want of another: found before work begins."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch

from sparsepo_plugin.errors import UserError


class Range(NamedTuple):
    """Accepted numbers: from ``least`` to ``most``, and also ``instead``; ``above`` excludes ``least``.

    ``below`` excludes ``most``. Numbers are finite in any case.
    """

    least: float
    most: float = math.inf
    above: bool = False
    below: bool = False
    instead: int | None = None

    def holds(self, value: float) -> bool:
        """Whether a number is accepted."""
        if self.instead is not None and value == self.instead:
            return True
        low = value > self.least if self.above else value >= self.least
        high = value < self.most if self.below else value <= self.most
        return math.isfinite(value) and low and high

    def words(self) -> str:
        """What is expected, for a message."""
        if math.isinf(self.most):
            text = f"a number {'>' if self.above else '>='} {self.least}"
        else:
            brackets = "(" if self.above else "[", ")" if self.below else "]"
            text = f"a number in {brackets[0]}{self.least}, {self.most}{brackets[1]}"
        return text if self.instead is None else f"{text}, or {self.instead}"


_COUNT, _SHARE = Range(1), Range(0, 1)
_RATE = Range(0, above=True)
RANGES: dict[str, Range] = {
    "train.seed": Range(0, 2**32 - 1),
    "train.max_epochs": _COUNT,
    "train.batch_size": _COUNT,
    "train.micro_batch_size": _COUNT,
    "ckpt.save_steps": Range(1, instead=-1),
    "ckpt.max_num": _COUNT,
    "eval.steps": Range(1, instead=-1),
    "logger.logging_steps": _COUNT,
    "data.max_len": Range(4),
    "data.max_samples": _COUNT,
    "data.dataloader_num_workers": Range(0),
    "model.beta": Range(0, above=True),
    "model.label_smoothing": Range(0, 0.5, below=True),
    "model.aux_loss_coef": Range(0),
    "model.nll_loss_coef": Range(0),
    "adam.lr": _RATE,
    "adam.eps": Range(0, above=True),
    "adam.weight_decay": Range(0),
    "muon.lr": _RATE,
    "muon.momentum": Range(0, 1, below=True),
    "lr_warmup_ratio": _SHARE,
    "min_lr_ratio": _SHARE,
    "max_norm": Range(0),
    "ds.zpg": _COUNT,
    "ds.tensor_parallel_size": _COUNT,
    "ds.ring_attn_size": _COUNT,
    "ds.lora.rank": Range(0),
    "ds.lora.alpha": Range(0, above=True),
    "ds.lora.dropout": Range(0, 1, below=True),
}


def check_ranges(arguments: SimpleNamespace) -> None:
    """Check every number that has a range.

    Raises:
      UserError: the first one outside it.
    """
    for name, accepted in RANGES.items():
        value = read(arguments, name)
        if not accepted.holds(float(value)):
            raise UserError(f"--{name}: got {value}, expected {accepted.words()}")
    for beta in arguments.adam.betas:
        if not 0 <= beta < 1:
            raise UserError(f"--adam.betas: got {beta}, expected two numbers in [0, 1)")


def check_effects(arguments: SimpleNamespace, record: int, loss: str | None) -> None:
    """Refuse options that would do nothing.

    Args:
      arguments: upstream's arguments.
      record: evaluation pairs whose tokens are to be written.
      loss: name of the registered loss, or None.

    Raises:
      UserError: the first such option, with what it lacks.
    """
    data, evaluated = arguments.data, bool(arguments.eval.dataset)
    several = "," in (data.dataset or "")
    adapted = arguments.ds.lora.rank > 0
    asked: list[tuple[str, Any, bool, str]] = [
        ("data.tokenizer_chat_template", data.tokenizer_chat_template, data.apply_chat_template,
         "--data.apply_chat_template"),
        ("data.chat_template_kwargs", data.chat_template_kwargs, data.apply_chat_template,
         "--data.apply_chat_template"),
        ("data.input_template", data.input_template, not data.apply_chat_template,
         "no --data.apply_chat_template"),
        ("data.dataset_probs", data.dataset_probs, several, "several data sets in --data.dataset"),
        ("ds.lora.dropout", arguments.ds.lora.dropout, adapted, "--ds.lora.rank above 0"),
        ("eval.steps", arguments.eval.steps != -1, evaluated, "--eval.dataset"),
        (f"{loss}.record", record, evaluated, "--eval.dataset"),
        ("ckpt.save_hf", arguments.ckpt.save_hf, arguments.ckpt.save_steps != -1, "--ckpt.save_steps"),
    ]  # fmt: skip
    for name, given, effective, needed in asked:
        if given and not effective:
            shown = "" if given is True else f" {str(given)[:60]}"
            raise UserError(f"--{name}{shown}: got no effect without {needed}; expected that, or drop it")


def read(arguments: SimpleNamespace, name: str) -> Any:
    """The value of a dotted flag."""
    value: Any = arguments
    for part in name.split("."):
        value = getattr(value, part)
    return value


def check_scheduler(arguments: SimpleNamespace) -> None:
    """Build and step what upstream will build: some of transformers' schedules need what it does not give.

    Raises:
      UserError: the schedule is unknown or cannot be built.
    """
    from transformers import get_scheduler
    from transformers.trainer_utils import SchedulerType

    name = arguments.lr_scheduler
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    own = {"min_lr_rate": arguments.min_lr_ratio} if "with_min_lr" in name else {}
    try:
        schedule = get_scheduler(
            name, optimizer, num_warmup_steps=1, num_training_steps=3, scheduler_specific_kwargs=own
        )
        optimizer.step()
        schedule.step()
        schedule.get_last_lr()
    except (ValueError, TypeError, AttributeError):
        names = [kind.value for kind in SchedulerType if kind.value not in _UNUSABLE_SCHEDULES]
        raise UserError(f"--lr_scheduler: got {name!r}, expected one of {', '.join(sorted(names))}") from None


# They need numbers of steps, or a metric, that upstream does not give them.
_UNUSABLE_SCHEDULES = ("reduce_lr_on_plateau", "warmup_stable_decay", "greedy")
