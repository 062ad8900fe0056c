"""Options of scorers and of the suite, and the scorers that they make; shared with `scorer-agreement`."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from eval_harness.errors import UserError
from eval_harness.faithfulness.examples import Device, Dtype, Scorer
from eval_harness.faithfulness.registry import ScorerSpec, build_scorer
from eval_harness.files.configs import key_values


@dataclass(frozen=True)
class ScorerOptions:
    """`given` holds KEY=VALUE for every scorer and SCORER.KEY=VALUE for one."""

    given: tuple[str, ...] = ()
    dtype: Dtype = "float32"
    batch_tokens: int = 8192

    def build(self, specs: Sequence[ScorerSpec], device: str, answers: Path | None) -> list[Scorer]:
        """Build scorers.

        Args:
          specs: names and options, of a preset or bare.
          device: where models run.
          answers: file that keeps what judges say, None keeps nothing.

        Raises:
          UserError: unknown names or options, values of another type.
        """
        import eval_harness.faithfulness.scorers  # noqa: F401 - registers them

        if self.batch_tokens < 1:
            raise UserError("--batch-tokens", got=self.batch_tokens, expected="an integer of at least 1")
        given = self._per_scorer([spec.name for spec in specs])
        run_on = Device(device, self.dtype, self.batch_tokens, answers)
        return [build_scorer(ScorerSpec(s.name, {**s.options, **given[s.name]}), run_on) for s in specs]

    def _per_scorer(self, names: list[str]) -> dict[str, dict[str, Any]]:
        """Options per scorer. Raises UserError: no KEY=VALUE, or a scorer that is not asked for."""
        options: dict[str, dict[str, Any]] = {name: {} for name in names}
        for key, value in key_values(self.given, "--scorer-option").items():
            scorer, dot, option = key.partition(".")
            if dot and scorer not in options:
                raise UserError("--scorer-option", got=key, expected=f"one of the scorers {', '.join(names)}")
            for name in [scorer] if dot else names:
                options[name][option if dot else key] = value
        return options


@dataclass(frozen=True)
class FaithfulnessOptions:
    """`documents` to summarise; `names` of scorers instead of the preset's."""

    documents: Path | None = None
    names: tuple[str, ...] | None = None
    scorers: ScorerOptions = ScorerOptions()


def add_scorer_flags(group: Any) -> None:
    """Flags of scorers and of the machine their models run on."""
    group.add_argument(
        "--scorer-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of every scorer, or SCORER.KEY=VALUE of one; `ls --scorers` lists them",
    )
    dtypes = get_args(Dtype)
    group.add_argument("--scorer-dtype", choices=dtypes, default="float32", help="of the scorers' models")
    group.add_argument(
        "--batch-tokens", type=int, default=8192, help="rows x longest row of a scorer's batch"
    )


def scorer_options(args: argparse.Namespace) -> ScorerOptions:
    """The options of a command line."""
    return ScorerOptions(tuple(args.scorer_option), args.scorer_dtype, args.batch_tokens)


def split_names(text: str) -> list[str]:
    """Names joined by commas."""
    return [name.strip() for name in text.split(",")]
