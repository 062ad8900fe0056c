"""Whether a model can be asked what the tasks will ask, looked for before it is loaded."""

import importlib.util
import os
from collections.abc import Iterable
from typing import Any

from eval_harness.errors import UserError, first_line
from eval_harness.models.engine_options import remote_of
from eval_harness.models.openai_client import Client
from eval_harness.models.reference import ModelRef, chat_template
from eval_harness.models.settings import Settings

ENDPOINT_CONTEXT = 2048  # lm-eval's default for an endpoint, whose model says nothing of itself
# Scoring: hf never feeds the last token, vllm must generate one, an endpoint's length is taken as it is.
_SPARE = {"hf": -1, "vllm": 1, "endpoint": 0}


def check_endpoint(ref: ModelRef, settings: Settings, *, cached: bool) -> None:
    """Raise UserError for an endpoint that does not answer, or that nothing identifies in the cache."""
    if cached and not ref.model_id:
        raise UserError(
            "an endpoint's weights cannot be hashed",
            got="no --model-id",
            expected="--model-id NAME",
            remedy="name the exact weights it serves, or pass --no-cache",
        )
    if settings.endpoint == "completions" and ref.tokenizer is None:
        raise UserError(
            "a completions endpoint needs the model's tokenizer",
            got="none",
            expected="--tokenizer DIR",
            remedy="pass the folder that holds its tokenizer",
        )
    client = Client(remote_of(ref, settings))
    try:
        client.reach()
    finally:
        client.close()


def check_answerable(ref: ModelRef, settings: Settings, tasks: dict[str, Any]) -> None:
    """Raise UserError for tasks that need log-probabilities where the model, or its mode, gives none."""
    scored = [n for n, t in tasks.items() if t.get_config("output_type") != "generate_until"]
    if not scored:
        return
    if settings.endpoint == "chat" and ref.kind == "endpoint":
        raise UserError(
            "a chat endpoint gives no log-probabilities",
            got=f"{len(scored)} tasks, e.g. {scored[0]}",
            expected="generated answers only",
            remedy="--endpoint completions, or --tasks ifeval",
        )
    if settings.engine.get("enable_thinking"):
        raise UserError(
            "tasks of log-probabilities leave a model no room to think",
            got=f"--engine enable_thinking=true with {len(scored)} such tasks, e.g. {scored[0]}",
            expected="tasks that generate",
            remedy="--engine enable_thinking=false, or --tasks with those that generate",
        )


def load_tokenizer(ref: ModelRef, settings: Settings) -> Any:
    """The tokenizer alone, None for a chat endpoint.

    Raises:
      UserError: unreadable, or without a chat template where one is asked for.
    """
    if ref.tokenizer is None:
        return None
    import transformers

    chat_endpoint = ref.kind == "endpoint" and settings.endpoint == "chat"
    if settings.chat_template and not chat_endpoint and not chat_template(ref.tokenizer):
        raise UserError(
            "the tokenizer has no chat template",
            got=ref.tokenizer.name,
            expected="chat_template",
            remedy="drop --chat-template, or save a template with the tokenizer",
        )
    # transformers raises many types here (ValueError, OSError, pyo3 exceptions); all mean the same to the
    # user.
    try:
        given = {name: settings.engine[name] for name in ("add_bos_token",) if name in settings.engine}
        return transformers.AutoTokenizer.from_pretrained(str(ref.tokenizer), **given)
    except Exception as error:
        raise UserError(
            "the tokenizer cannot be read",
            got=first_line(error),
            expected="tokenizer files",
            remedy="save the tokenizer again, or pass --tokenizer DIR",
        ) from error


def check_vocabulary(rows: int | None, tokenizer: Any, texts: Iterable[str]) -> None:
    """Refuse a tokenizer that would give the model token ids beyond its embedding.

    Special tokens beyond it that no text holds do no harm; some published models have one.

    Args:
      rows: of the embedding, None where they are not known.
      tokenizer: None where texts are sent as they are.
      texts: all prompts, and continuations.

    Raises:
      UserError: naming a token.
    """
    if rows is None or tokenizer is None:
        return
    beyond = {token: number for token, number in tokenizer.get_vocab().items() if number >= rows}
    special = {*tokenizer.get_added_vocab()}
    always = {tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token}
    used = next((token for token in beyond if token not in special or token in always), None)
    if used is None and beyond:
        used = next((token for text in texts for token in beyond if token in text), None)
    if used is not None:
        raise UserError(
            "the tokenizer has more tokens than the model",
            got=f"{used!r} has id {beyond[used]}, the embedding {rows} rows",
            expected="the model's own tokenizer",
            remedy="pass --tokenizer DIR, or save the model after its embeddings were resized",
        )


def context_length(ref: ModelRef, settings: Settings, tokenizer: Any) -> int:
    """Context length in tokens that the backend will use."""
    if settings.limit_context:
        return settings.limit_context
    if ref.path is None:
        return ENDPOINT_CONTEXT - 1
    import transformers
    from lm_eval.models.utils import resolve_max_length

    try:
        config = transformers.AutoConfig.from_pretrained(str(ref.path))
    except Exception as error:  # unknown architecture, bad values: many types, one meaning
        raise UserError(
            "the model's config cannot be read", got=first_line(error), expected="config.json"
        ) from error
    return int(resolve_max_length(config, tokenizer))


def too_long(
    tasks: dict[str, Any], tokenizer: Any, context: int, default_new: int, spare: int
) -> list[tuple[str, int, int]]:
    """Requests that do not fit: (task, tokens needed, document).

    A prompt of b UTF-8 bytes has at most b tokens and a few special ones, so only prompts near the limit are
    tokenised. `default_new` tokens are generated where a task names no maximum; `spare` is what a backend
    needs besides prompt and scored continuation.
    """
    too_long_ones = []
    for name, task in tasks.items():
        for request in task.instances:
            text, extra = str(request.args[0]), 0
            if request.request_type == "generate_until":
                extra = int(request.args[1].get("max_gen_toks", default_new))
            else:
                text += "".join(str(a) for a in request.args[1:2])
            if len(text.encode("utf-8")) + 8 + extra <= context:
                continue
            need = len(tokenizer(text).input_ids) + (extra or spare)
            if need > context:
                too_long_ones.append((name, need, int(request.doc_id)))
    return too_long_ones


def check_context(
    loaded: dict[str, Any], ref: ModelRef, settings: Settings, tokenizer: Any
) -> dict[str, int]:
    """Number of truncated requests per task, empty normally.

    Raises:
      UserError: some request does not fit and truncation was not allowed.
    """
    if tokenizer is None:
        return {}
    context = context_length(ref, settings, tokenizer)
    kind = "endpoint" if ref.kind == "endpoint" else settings.backend
    too_long_ones = too_long(loaded, tokenizer, context, default_new=256, spare=_SPARE[kind])
    if too_long_ones and not settings.allow_truncation:
        task, need, doc = max(too_long_ones, key=lambda f: f[1])
        raise UserError(
            f"{len(too_long_ones)} requests are longer than the model's context",
            got=f"{need} tokens ({task}, document {doc})",
            expected=f"at most {context}",
            remedy="fewer shots or new tokens, a model with more context, or "
            "--allow-truncation (cut from the left, counted in the result)",
        )
    counts: dict[str, int] = {}
    for task, _, _ in too_long_ones:
        counts[task] = counts.get(task, 0) + 1
    return counts


def check_backend(settings: Settings) -> None:
    """Raise UserError where the engine or what it needs is not installed."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and settings.batch_size.startswith("auto"):
        # Finding a batch size is a collective call; after a kill one rank may have nothing left to ask.
        raise UserError(
            "--batch-size under accelerate launch",
            got=settings.batch_size,
            expected="an integer",
            remedy="--batch-size 8",
        )
    if settings.backend == "vllm" and importlib.util.find_spec("vllm") is None:
        raise UserError(
            "backend vllm",
            got="vllm is not installed",
            expected="vllm",
            remedy="pip install vllm in an environment of its own, or --backend hf",
        )
    wants_ray = settings.backend == "vllm" and (settings.data_parallel > 1 or settings.executor == "ray")
    if wants_ray and importlib.util.find_spec("ray") is None:
        raise UserError(
            "several replicas or machines need Ray",
            got="ray is not installed",
            expected="ray",
            remedy="pip install ray",
        )
