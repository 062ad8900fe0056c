"""A job's options: preset, prompts and judge as the command line changes them."""

import dataclasses
from typing import Any

from eval_harness.errors import UserError
from eval_harness.files import read_prompts
from eval_harness.judges import Judge, read_judge
from eval_harness.run.job import Job
from eval_harness.win_rate.preset import WinRatePreset, read_sampling


def preset_of(job: Job) -> WinRatePreset:
    """The job's preset with what the command line changes. Raises UserError for a value out of range."""
    preset: WinRatePreset = job.preset
    sampling = read_sampling(job.settings.generation, "--generation", preset.sampling)
    sampling = dataclasses.replace(sampling, seed=job.settings.seeds["torch"])
    share = job.options.get("max_unjudged")
    if share is not None and not 0 <= share < 1:
        raise UserError("--max-unjudged", got=share, expected="a share from 0 to below 1")
    changes: dict[str, Any] = {} if share is None else {"max_unjudged": share}
    if job.options.get("prompt_key"):
        changes["prompt_keys"] = (job.options["prompt_key"],)
    return dataclasses.replace(preset, sampling=sampling, **changes)


def prompts_of(job: Job, preset: WinRatePreset) -> list[str]:
    """The prompts. Raises UserError: no file given, or as `read_prompts`."""
    path = job.options.get("prompts")
    if path is None:
        raise UserError(
            f"preset {preset.name} needs its prompts",
            got="no --prompts",
            expected=f"--prompts FILE, JSON or JSON Lines with {' or '.join(preset.prompt_keys)}",
        )
    return read_prompts(path, preset.prompt_keys, preset.limit)


def judge_of(job: Job, preset: WinRatePreset) -> Judge:
    """The judge. Raises UserError: none named, or as `read_judge`."""
    spec = job.options.get("judge")
    if not spec:
        raise UserError("no judge", expected="--judge NAME", remedy="eval-harness ls --judges")
    template = job.options.get("template") or preset.template
    return read_judge(spec, job.options.get("judge_options", {}), template)
