"""Flags that we add to upstream's: configuration, loss and its options, reporting, speed, Ray."""

from __future__ import annotations

import argparse

from sparsepo_plugin import __version__, registry
from sparsepo_plugin.forward.runner import HEAD_MODES
from sparsepo_plugin.options import option_rows
from sparsepo_plugin.run_folder import trackers


def add(parser: argparse.ArgumentParser) -> None:
    """Add them to upstream's parser."""
    ours = parser.add_argument_group("SparsePO")
    ours.add_argument("--config", help="YAML file of flags; flags on the command line win")
    ours.add_argument("--loss", help=f"registered loss: {', '.join(registry.names())}; none: upstream's own")
    ours.add_argument("--version", action="version", version=f"sparsepo {__version__}")
    # On the parser itself, not in the group, so that each gets its --no- form.
    parser.add_argument(
        "--resume",
        dest="ckpt.load_enable",
        action="store_true",
        default=argparse.SUPPRESS,
        help="go on from the last complete checkpoint; the same as --ckpt.load_enable",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the earlier run in the output folders",
    )
    for name, when in (("start", "before the first step"), ("end", "after the last step")):
        parser.add_argument(
            f"--eval.at_{name}",
            action="store_true",
            default=True,
            help=f"evaluate {when} as well, where --eval.dataset is given; --no-eval.at_{name}: do not",
        )
    parser.add_argument(
        "--model.trust_remote_code", action="store_true", help="run code that comes with a model"
    )
    parser.add_argument(
        "--data.upstream_end_tokens",
        action="store_true",
        help="end rows as OpenRLHF does: a space before the end token, and one where a response was cut",
    )
    parser.add_argument(
        "--data.chat_template_kwargs", help='given to the chat template, JSON: {"enable_thinking": false}'
    )
    parser.add_argument("--model.dropout", action="store_true", help="keep the policy's dropout; off: none")
    _add_reporting(parser)
    _add_speed(parser)
    cluster = parser.add_argument_group("--ray: run as Ray actors")
    cluster.add_argument("--ray.address", help="address of a cluster, or auto; none: this machine")
    cluster.add_argument("--ray.num_nodes", type=int, default=1, help="nodes")
    cluster.add_argument("--ray.gpus_per_node", type=int, default=1, help="actors per node, CPU ones too")
    for name in registry.names():
        group = parser.add_argument_group(f"--loss {name}")
        for row in option_rows(registry.get(name).options):
            group.add_argument(
                f"--{name}.{row.name}",
                type=row.kind,
                choices=row.choices or None,
                default=argparse.SUPPRESS,
                help=f"{row.help} (default: {row.default})",
            )


def _add_reporting(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--logger.report_to", nargs="*", choices=trackers.NAMES, default=[],
        help="trackers beside metrics.jsonl",
    )  # fmt: skip
    parser.add_argument("--hub.push", metavar="ORG/NAME", help="upload the trained policy to the model hub")
    parser.add_argument("--hub.private", action="store_true", help="as a private repository")


def _add_speed(parser: argparse.ArgumentParser) -> None:
    speed = parser.add_argument_group("speed and memory: no number changes")
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
    # Not in the group either: they have --no- forms.
    parser.add_argument(
        "--ref.precompute",
        action="store_true",
        help="run the reference over the data before the training, and hold none during it",
    )
    parser.add_argument(
        "--data.length_batching", action="store_true", help="micro-batches of pairs of similar length"
    )
