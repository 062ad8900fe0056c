"""lm-eval model objects for each kind of model and backend."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

from eval_harness.errors import UserError, first_line
from eval_harness.models.engine_options import template_arguments
from eval_harness.models.reference import ModelRef
from eval_harness.models.resumable import hf_class, vllm_class
from eval_harness.models.settings import Settings

# vllm schedules its own batches and answers when all are done: pieces bound what a kill can lose.
_PIECE = {"hf": 0, "vllm": 512, "endpoint": 0}
_SHELF: ContextVar[dict[str, Any] | None] = ContextVar("shelf", default=None)


def resolve_device(name: str) -> str:
    """`auto` is the accelerator where there is one, else the CPU."""
    if name != "auto":
        return name
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def world_size() -> int:
    """Number of processes that `accelerate launch` started (1 without it)."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def template_function(ref: ModelRef, settings: Settings, tokenizer: Any) -> Any:
    """The engine's own way from messages to prompt, before any model is loaded; None for plain text.

    Raises:
      UserError: a template argument that would change nothing.
    """
    kind = engine_kind(ref, settings)
    if kind == "endpoint" and settings.endpoint == "chat":
        from lm_eval.models.api_models import TemplateAPI

        stub = SimpleNamespace(tokenizer_backend=None, tokenized_requests=False)
        return lambda messages, **kwargs: TemplateAPI.apply_chat_template(stub, messages, **kwargs)
    arguments = template_arguments(settings, kind)
    if not settings.chat_template:
        if settings.engine.keys() & {"enable_thinking", "chat_template_args"}:
            raise UserError(
                "--engine: arguments for a chat template that is not applied",
                got=json.dumps(arguments),
                expected="--chat-template beside them",
                remedy="--chat-template, or drop them",
            )
        return None
    from lm_eval.models.huggingface import HFLM

    holder = SimpleNamespace(tokenizer=tokenizer, chat_template_args=arguments)
    return lambda messages, **kwargs: HFLM.apply_chat_template(holder, messages, **kwargs)


def engine_kind(ref: ModelRef, settings: Settings) -> str:
    """hf, vllm or endpoint."""
    return "endpoint" if ref.kind == "endpoint" else settings.backend


def load_engine(ref: ModelRef, settings: Settings) -> Any:
    """Load the model. Raises UserError where its files do not make a model."""
    kind = engine_kind(ref, settings)
    build = {"hf": _hf, "vllm": _vllm, "endpoint": _endpoint}[kind]
    key, shelf = repr((ref, settings)), _SHELF.get()
    if shelf is not None and key in shelf:
        return shelf[key]
    with loading():
        engine = build(ref, settings)
    if shelf is not None:
        shelf[key] = engine
    return engine


@contextmanager
def kept() -> Iterator[None]:
    """While open, a model that was loaded stays loaded, and is not loaded a second time."""
    token = _SHELF.set({})
    try:
        yield
    finally:
        _SHELF.reset(token)


@contextmanager
def loading() -> Iterator[None]:
    """Turn whatever goes wrong inside into a UserError about the model's files."""
    # Loading runs transformers, peft or vllm on the user's files: any failure is about those files or this
    # machine.
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            "the model cannot be loaded",
            got=first_line(error),
            expected="a loadable causal model",
            remedy="check the checkpoint, --dtype and memory",
        ) from error


def piece_size(ref: ModelRef, settings: Settings) -> int:
    """How many requests the engine gets at once, 0 for all."""
    return _PIECE[engine_kind(ref, settings)]


def _batch(settings: Settings) -> int | str:
    return int(settings.batch_size) if settings.batch_size.isdigit() else settings.batch_size


def _hf(ref: ModelRef, settings: Settings) -> Any:
    lm = hf_class()(
        pretrained=str(ref.path),
        tokenizer=str(ref.tokenizer),
        peft=str(ref.adapter) if ref.adapter else None,
        dtype=settings.dtype,
        device=settings.device,
        batch_size=_batch(settings),
        max_length=settings.limit_context,
        parallelize=settings.tensor_parallel > 1,
        **settings.engine,
    )
    check_loaded(lm.model)
    return lm


def check_loaded(model: Any) -> None:
    """Refuse a model with weights that are not finite: transformers loads them without a word.

    Raises:
      UserError: naming the first such tensor.
    """
    import torch

    for name, tensor in model.named_parameters():
        if tensor.device.type != "meta" and not bool(
            torch.isfinite(tensor.detach().sum(dtype=torch.float32))
        ):
            if bool(torch.isfinite(tensor.detach()).all()):
                continue  # only the sum overflowed
            raise UserError(
                "corrupt weights",
                got=f"{name} holds NaN or infinity",
                expected="finite numbers",
                remedy="copy or save the checkpoint again",
            )


def _vllm(ref: ModelRef, settings: Settings) -> Any:
    extra = {"distributed_executor_backend": settings.executor} if settings.executor else {}
    return vllm_class()(
        pretrained=str(ref.path),
        tokenizer=str(ref.tokenizer),
        dtype=settings.dtype,
        batch_size=_batch(settings),
        max_model_len=settings.limit_context,
        tensor_parallel_size=settings.tensor_parallel,
        data_parallel_size=settings.data_parallel,
        seed=settings.seeds["torch"],
        lora_local_path=str(ref.adapter) if ref.adapter else None,
        **{**extra, **settings.engine},
    )


def _endpoint(ref: ModelRef, settings: Settings) -> Any:
    from eval_harness.models.endpoint_engine import endpoint_model

    return endpoint_model(ref, settings, _batch(settings))
