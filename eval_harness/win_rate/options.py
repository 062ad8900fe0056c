"""The suite's options: prompts and judge of the command line, and what they make of a preset."""

import argparse
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eval_harness.errors import UserError
from eval_harness.files.configs import key_values
from eval_harness.files.rows import PROMPT_KEYS, read_rows, text_field
from eval_harness.judges import Judge, read_judge
from eval_harness.run.job import Job
from eval_harness.run.preset import read_sampling
from eval_harness.win_rate.official import ANNOTATOR
from eval_harness.win_rate.preset import WinRatePreset, check_share


@dataclass(frozen=True)
class WinRateOptions:
    """None stands for the preset's value; `alpaca_official` names an annotator of the official package."""

    judge: str | None = None
    judge_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    template: str | None = None
    prompts: Path | None = None
    prompt_key: str | None = None
    max_unjudged: float | None = None
    alpaca_official: str | None = None

    def changed(self, preset: WinRatePreset) -> WinRatePreset:
        """The preset with what the options change. Raises UserError for a value out of range."""
        changes: dict[str, Any] = {}
        if self.max_unjudged is not None:
            check_share(self.max_unjudged)
            changes["max_unjudged"] = self.max_unjudged
        if self.prompt_key:
            changes["prompt_keys"] = (self.prompt_key,)
        return preset.model_copy(update=changes)


WinRateJob = Job[WinRatePreset, WinRateOptions]


def add_judge_flags(group: Any) -> None:
    """The flags that name a judge, of the suite and of `agreement`."""
    group.add_argument("--judge", help="http, hf, reward, words, function, length, recorded, or a .yaml file")
    group.add_argument(
        "--judge-set", action="append", default=[], metavar="KEY=VALUE", help="an option of the judge"
    )
    group.add_argument("--judge-template", help="template by name or path; default the preset's")


def add_flags(group: Any) -> None:
    """All flags of the suite."""
    add_judge_flags(group)
    group.add_argument(
        "--alpaca-official",
        nargs="?",
        const=ANNOTATOR,
        metavar="ANNOTATOR",
        help="also run the official alpaca-eval on the same texts, in an environment of its own",
    )
    group.add_argument("--prompts", type=Path, help="JSON or JSON Lines with the prompts")
    group.add_argument("--prompt-key", help="key of the prompt in a row; default the preset's")
    group.add_argument(
        "--max-unjudged", type=float, help="share without judgement that is accepted; default the preset's"
    )


def options_from(args: argparse.Namespace) -> WinRateOptions:
    """The options of a command line."""
    return WinRateOptions(
        args.judge,
        key_values(args.judge_set, "--judge-set"),
        args.judge_template,
        args.prompts,
        args.prompt_key,
        args.max_unjudged,
        args.alpaca_official,
    )


def preset_of(job: WinRateJob) -> WinRatePreset:
    """The job's preset with what the command line changes. Raises UserError for a value out of range."""
    sampling = read_sampling(job.settings.generation, "--generation", job.preset.sampling)
    sampling = dataclasses.replace(sampling, seed=job.settings.seeds["torch"])
    return job.options.changed(job.preset).model_copy(update={"sampling": sampling})


def prompts_of(job: WinRateJob, preset: WinRatePreset) -> list[str]:
    """The prompts. Raises UserError: no file given, or as `read_prompts`."""
    if job.options.prompts is None:
        raise UserError(
            f"preset {preset.name} needs its prompts",
            got="no --prompts",
            expected=f"--prompts FILE, JSON or JSON Lines with {' or '.join(preset.prompt_keys)}",
        )
    return read_prompts(job.options.prompts, preset.prompt_keys, preset.limit)


def judge_of(job: WinRateJob, preset: WinRatePreset) -> Judge:
    """The judge. Raises UserError: none named, or as `read_judge`."""
    if not job.options.judge:
        raise UserError("no judge", expected="--judge NAME", remedy="eval-harness ls --judges")
    return read_judge(job.options.judge, job.options.judge_options, job.options.template or preset.template)


def read_prompts(path: Path, keys: Sequence[str] = PROMPT_KEYS, limit: int | None = None) -> list[str]:
    """The first `limit` distinct prompts of a file, in its order.

    Several rows may share a prompt (preference pairs do): it is asked once.

    Raises:
      UserError: a row without any of the keys, or with a prompt that is empty or no text.
    """
    rows = enumerate(read_rows(path), start=1)
    prompts = dict.fromkeys(text_field(row, keys, f"{path}, row {number}") for number, row in rows)
    return list(prompts)[:limit]
