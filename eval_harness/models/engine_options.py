"""What `--engine KEY=VALUE` may say, and to which of a run's models each key speaks."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from eval_harness.errors import UserError
from eval_harness.models.openai_client import Remote
from eval_harness.models.reference import ModelRef
from eval_harness.models.settings import Settings

_TRANSPORT = frozenset({*Remote.options(), "max_retries"})  # lm-eval's name: tries, the first included
# Of an endpoint alone: lm-eval's own options of its API models.
_REMOTE_ONLY = frozenset({"custom_prefix_token_id", "eos_string", "tokenized_requests", "truncate"})
_THINKING = frozenset({"chat_template_args", "enable_thinking", "think_end_token"})
_BOTH = _THINKING | {"add_bos_token", "max_gen_toks"}
# They shape what a model reads or what of its text is graded; all others may move the last bits of a score.
_PROMPTING = _REMOTE_ONLY | _BOTH | {"prefix_token_id", "truncation", "truncation_side", "use_fast_tokenizer"}
_NOT_FOR_LOADERS = _PROMPTING | {"softmax_dtype"}
# Each would load, ask or write down something that no hash names or no record may hold.
_UNSEEN = {
    "pretrained": "--model",
    "model": "--model",
    "subfolder": "--model with the subfolder's path",
    "peft": "--model ADAPTER --base DIR",
    "lora_local_path": "--model ADAPTER --base DIR",
    "delta": "--model with the merged weights",
    "gguf_file": "--model with weights in safetensors",
    "revision": "--model with the files of that revision",
    "variant": "--model with the files of that variant",
    "use_safetensors": "--model with one kind of weight files",
    "tokenizer": "--tokenizer",
    "tokenizer_revision": "--tokenizer",
    "base_url": "--model",
    "header": "the key in OPENAI_API_KEY",
    "auth_token": "the key in OPENAI_API_KEY",
    "seed": "--seed",
}


def narrowed(settings: Settings, ref: ModelRef) -> Settings:
    """The settings with the engine options of this model alone."""
    remote = _TRANSPORT | _REMOTE_ONLY
    if _is_endpoint(ref):
        known = [key for key in settings.engine if key in remote | _BOTH]
    else:
        known = [key for key in settings.engine if key not in remote]
    return dataclasses.replace(settings, engine={key: settings.engine[key] for key in known})


def check_options(settings: Settings, refs: Sequence[ModelRef]) -> None:
    """Raise UserError for an option that would go unseen, or that speaks to none of the run's models."""
    for key in settings.engine:
        if key in _UNSEEN:
            raise UserError(
                "--engine: an option that is given in another way",
                got=key,
                expected=_UNSEEN[key],
                remedy=f"use {_UNSEEN[key]}",
            )
        models = [ref for ref in refs if ref.kind != "outputs"]
        if models and not any(key in narrowed(settings, ref).engine for ref in models):
            known = sorted(_TRANSPORT | _REMOTE_ONLY | _BOTH)
            raise UserError(
                "--engine: an option of no model in this run",
                got=key,
                expected=", ".join(known) if _is_endpoint(models[0]) else "an option of the local engine",
            )


def _is_endpoint(ref: ModelRef) -> bool:
    return ref.kind == "endpoint"


def remote_of(ref: ModelRef, settings: Settings) -> Remote:
    """Where and how an endpoint is asked. Raises UserError for an option out of range."""
    assert ref.url is not None  # of an endpoint
    given = {key: value for key, value in settings.engine.items() if key in _TRANSPORT}
    tries = given.pop("max_retries", None)
    if isinstance(tries, int) and "retries" not in given:
        given["retries"] = max(0, tries - 1)
    return Remote(ref.url, **{"timeout": 300.0, **given}).checked()


def template_arguments(settings: Settings, kind: str) -> dict[str, Any]:
    """What a chat template gets besides the messages, as lm-eval 0.4.13 hands it over.

    Its vLLM engine always names enable_thinking (None where nobody does), its transformers engine only where
    somebody does.

    Raises:
      UserError: where lm-eval would ignore the argument.
    """
    given = settings.engine.get("chat_template_args") or {}
    if not isinstance(given, dict):
        raise UserError("--engine chat_template_args", got=given, expected="{KEY: VALUE}")
    switch = settings.engine.get("enable_thinking")
    if kind == "vllm":
        if "enable_thinking" in given:
            raise UserError(
                "--engine chat_template_args",
                got="enable_thinking, which lm-eval's vllm engine ignores there",
                expected="--engine enable_thinking=VALUE",
            )
        return {"enable_thinking": switch, **given}
    return given if switch is None else {**given, "enable_thinking": switch}


def loader_options(settings: Settings) -> dict[str, Any]:
    """Options that go to the loader where this package generates the texts itself."""
    return {key: value for key, value in settings.engine.items() if key not in _NOT_FOR_LOADERS}


def upstream_options(settings: Settings) -> dict[str, Any]:
    """Options that lm-eval's API models know."""
    known = (_REMOTE_ONLY | _BOTH) - _THINKING
    return {key: value for key, value in settings.engine.items() if key in known}


def recorded(settings: Settings, ref: ModelRef) -> dict[str, Any]:
    """The engine's options as a result keeps them, sorted by what a difference between two runs means.

    `prompting` shapes what the model reads or what is graded: two runs that differ in it asked two things.
    `numerics` may move the last bits of a score. How an endpoint is reached is neither.
    """
    engine = narrowed(settings, ref).engine
    prompting = {key: value for key, value in engine.items() if key in _PROMPTING}
    numerics = {key: value for key, value in engine.items() if key not in _PROMPTING | _TRANSPORT}
    return {
        "engine": engine,
        "prompting": {**prompting, "strip_thinking": settings.strip_thinking},
        "numerics": numerics,
    }
