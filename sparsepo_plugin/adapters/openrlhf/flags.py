"""Command line of a run: upstream's own parser, plus --loss and the options of every registered loss.

Upstream builds its parser under ``if __name__ == "__main__"``. That block is taken from its source and run
with our parser class in place of argparse's and with ``train`` replaced by a collector, so that upstream's
flags, defaults and post-processing are upstream's own, without importing its heavy modules.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import math
import os
from collections.abc import Sequence
from datetime import datetime
from types import SimpleNamespace
from typing import Any, NamedTuple, NoReturn

import torch

from sparsepo_plugin import config, registry
from sparsepo_plugin.errors import UserError, unknown
from sparsepo_plugin.forward.runner import HEAD_MODES
from sparsepo_plugin.options import LossOptions, option_rows
from sparsepo_plugin.registry import Loss
from sparsepo_plugin.run_folder import trackers

UPSTREAM_CLI = "openrlhf.cli.train_dpo"


class Parsed(NamedTuple):
    """Arguments as upstream hands them to train(), and the chosen loss (None: upstream's own)."""

    arguments: SimpleNamespace
    loss: Loss | None
    options: LossOptions | None


def parse(argv: Sequence[str]) -> Parsed:
    """Parse a command line; ``--config FILE`` supplies flags that come before those on the command line.

    Raises:
      UserError: unknown flag, key or loss, a bad value, or contradictory options.
    """
    collected: list[SimpleNamespace] = []
    parser = _Parser(list(argv))
    namespace: dict[str, Any] = {
        "argparse": SimpleNamespace(ArgumentParser=lambda *_, **__: parser),
        "math": math,
        "os": os,
        "datetime": datetime,
        "train": collected.append,
    }
    try:
        exec(_main_block(), namespace)
    except AssertionError as error:  # upstream's way to refuse a combination of flags
        raise UserError(str(error)) from None
    except ImportError as error:
        if error.name != "modelscope":
            raise
        raise UserError("--use_ms needs the package modelscope: not installed") from None
    if not collected:
        raise RuntimeError(f"{UPSTREAM_CLI}: its main block did not call train(args)")
    if not _has_flash_attention():
        # Upstream rewrites this to flash attention when samples are packed; sdpa and eager keep the samples
        # of a packed row apart as well, by its positions.
        collected[0].ds.attn_implementation = parser.attention
    return _finish(collected[0])


def _has_flash_attention() -> bool:
    return torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None


def _main_block() -> Any:
    """Compile the body of upstream's ``if __name__ == "__main__"``.

    Raises:
      UserError: openrlhf is not installed.
      RuntimeError: upstream's source has no such block (a version we do not know).
    """
    if importlib.util.find_spec("openrlhf") is None:
        raise UserError(
            "openrlhf is not installed: expected openrlhf==0.11.2; run `make install`, or see README"
        )
    spec = importlib.util.find_spec(UPSTREAM_CLI)
    if spec is None or spec.origin is None:
        raise RuntimeError(f"{UPSTREAM_CLI}: no source file")
    with open(spec.origin, encoding="utf-8") as file:
        tree = ast.parse(file.read())
    for node in tree.body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "__name__ == '__main__'":
            return compile(ast.Module(body=node.body, type_ignores=[]), spec.origin, "exec")
    raise RuntimeError(f"{spec.origin}: no main block")


class _Parser(argparse.ArgumentParser):
    """Upstream's parser as it is built, with our flags added when it is asked to parse."""

    def __init__(self, argv: list[str]) -> None:
        super().__init__(prog="sparsepo train", formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        self._argv = argv
        self.attention = ""

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Add a flag of upstream's; three are widened for machines without CUDA and for files."""
        if names[0] == "--ds.param_dtype":
            options["choices"] = [*options["choices"], "fp32"]
        if names[0] == "--ds.attn_implementation" and not torch.cuda.is_available():
            options["default"] = "sdpa"
        action = super().add_argument(*names, **options)
        if options.get("action") == "store_true":
            # Lets the command line take back a switch that a configuration file sets.
            super().add_argument(
                f"--no-{names[0][2:]}", dest=action.dest, action="store_false", default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )  # fmt: skip
        return action

    def parse_args(self, args: Any = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """Add our flags, put the configuration file's before the command line's, parse."""
        self._add_own_flags()
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--config")
        configured, rest = finder.parse_known_args(self._argv)
        if configured.config:
            switches = {a.dest: a.nargs == 0 for a in self._actions if a.dest not in ("help", "config")}
            rest = [*config.read_flags(configured.config, switches), *rest]
        parsed, extra = self.parse_known_args(rest)
        if extra:
            raise unknown("flag", extra[0].split("=")[0], self._option_string_actions)
        parsed.config = configured.config
        self.attention = getattr(parsed, "ds.attn_implementation")
        if getattr(parsed, "ds.lora.target_modules", None) == ["all-linear"]:
            # peft knows the word only outside a list, which is what a given flag makes of it.
            setattr(parsed, "ds.lora.target_modules", "all-linear")
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UserError(message)

    def _add_own_flags(self) -> None:
        ours = self.add_argument_group("SparsePO")
        ours.add_argument("--config", help="YAML file of flags; flags on the command line win")
        ours.add_argument(
            "--loss", help=f"registered loss: {', '.join(registry.names())}; none: upstream's own"
        )
        # On the parser itself, not in the group, so that each gets its --no- form.
        self.add_argument(
            "--overwrite",
            action="store_true",
            help="replace the earlier run in the output folders",
        )
        self.add_argument("--eval.at_start", action="store_true", help="also evaluate before the first step")
        self.add_argument(
            "--model.trust_remote_code", action="store_true", help="run code that comes with a model"
        )
        self.add_argument(
            "--data.upstream_end_tokens",
            action="store_true",
            help="end rows as OpenRLHF does: a space before the end token, and one where a response was cut",
        )
        self.add_argument(
            "--data.chat_template_kwargs", help='given to the chat template, JSON: {"enable_thinking": false}'
        )
        self.add_argument("--model.dropout", action="store_true", help="keep the policy's dropout; off: none")
        self._add_reporting_flags()
        self._add_speed_flags()
        cluster = self.add_argument_group("--ray: run as Ray actors")
        cluster.add_argument("--ray.address", help="address of a cluster, or auto; none: this machine")
        cluster.add_argument("--ray.num_nodes", type=int, default=1, help="nodes")
        cluster.add_argument("--ray.gpus_per_node", type=int, default=1, help="actors per node, CPU ones too")
        for name in registry.names():
            group = self.add_argument_group(f"--loss {name}")
            for row in option_rows(registry.get(name).options):
                group.add_argument(
                    f"--{name}.{row.name}",
                    type=row.kind,
                    choices=row.choices or None,
                    default=argparse.SUPPRESS,
                    help=f"{row.help} (default: {row.default})",
                )

    def _add_reporting_flags(self) -> None:
        self.add_argument(
            "--logger.report_to", nargs="*", choices=trackers.NAMES, default=[],
            help="trackers beside metrics.jsonl",
        )  # fmt: skip
        self.add_argument("--hub.push", metavar="ORG/NAME", help="upload the trained policy to the model hub")
        self.add_argument("--hub.private", action="store_true", help="as a private repository")

    def _add_speed_flags(self) -> None:
        speed = self.add_argument_group("speed and memory: no number changes")
        speed.add_argument(
            "--perf.head",
            choices=HEAD_MODES,
            default="auto",
            help="auto: no logits where the model allows it; rows: logits of responses; off: of all tokens",
        )
        speed.add_argument(
            "--perf.prefix",
            choices=("auto", "off"),
            default="auto",
            help="auto: what chosen and rejected begin with runs once, where the model allows it",
        )
        # Not in the group either: it has a --no- form.
        self.add_argument(
            "--data.length_batching", action="store_true", help="micro-batches of pairs of similar length"
        )


def _finish(arguments: SimpleNamespace) -> Parsed:
    """Collect the chosen loss's options, replace them by their effective values, refuse contradictions."""
    given = {name: vars(getattr(arguments, name, SimpleNamespace())) for name in registry.names()}
    for name, values in given.items():
        if values and name != arguments.loss:
            flags = ", ".join(f"--{name}.{key}" for key in values)
            raise UserError(
                f"{flags} given with --loss {arguments.loss}: expected --loss {name}, or no such flag"
            )
    if arguments.loss is None:
        return Parsed(arguments, None, None)
    loss = registry.get(arguments.loss)
    options = loss.options.build(given[loss.name])
    options.check_effects()
    setattr(arguments, loss.name, SimpleNamespace(**vars(options)))
    return Parsed(arguments, loss, options)
