"""``sparsepo weigh``: its flags, and what they mean."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from sparsepo_plugin.weigh.settings import KINDS, Settings


def add_flags(parser: ArgumentParser) -> None:
    """Add the flags of ``sparsepo weigh``."""
    parser.add_argument("--data", type=Path, required=True, help="preference pairs, JSON lines")
    parser.add_argument("--out", type=Path, help="JSON lines to write: the same with columns of weights")
    parser.add_argument(
        "--halves",
        metavar="DIR",
        type=Path,
        help="only split the data in halves by prompt, to train one model on each",
    )
    parser.add_argument("--score", choices=KINDS, default="log-ratio", help="what the numbers are")
    parser.add_argument(
        "--model", metavar="MODEL", nargs="+", default=[],
        help="gives the numbers; two: trained on first and second half, each scores what it has not seen",
    )  # fmt: skip
    parser.add_argument("--against", metavar="MODEL", help="log-ratio: the model in the denominator")
    parser.add_argument(
        "--words", metavar="FILE", type=Path, help="words: a word a line, or word, tab, number"
    )
    parser.add_argument("--absolute", action="store_true", help="write sizes without signs")
    parser.add_argument("--prompt_key", default="prompt", help="column of prompts, where there is one")
    parser.add_argument("--chosen_key", default="chosen")
    parser.add_argument("--rejected_key", default="rejected")
    parser.add_argument("--chat_template", action="store_true", help="render conversations")
    parser.add_argument("--max_len", type=int, default=2048, help="tokens of prompt and response together")
    parser.add_argument("--batch_size", type=int, default=8, help="pairs per forward pass")
    parser.add_argument("--device", default="cpu", help="as torch names it")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--overwrite", action="store_true", help="replace an earlier output")
    parser.add_argument("--page", metavar="FILE", type=Path, help="HTML page that colours tokens by number")
    parser.add_argument("--show", type=int, default=50, help="pairs on the page")


def run(known: Namespace) -> None:
    """Write the halves, or the weights.

    Raises:
      UserError: as ``weigh.run.weigh``.
    """
    from sparsepo_plugin.errors import UserError

    if known.halves is not None:
        from sparsepo_plugin.weigh.halves import write_halves

        write_halves(known.data, known.halves, known.prompt_key)
        return
    if known.out is None:
        raise UserError("--out is missing: expected a file to write (or --halves DIR)")
    from sparsepo_plugin.weigh.run import weigh

    given = {name: value for name, value in vars(known).items() if name in Settings.__dataclass_fields__}
    weigh(Settings(models=tuple(known.model), **given))
