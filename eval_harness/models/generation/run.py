"""From a plan to samples: what the store holds is read, the rest is asked of the model batch by batch."""

import gc
from collections.abc import Sequence
from typing import Protocol

from eval_harness.models import engines
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.generation.plan import Generation
from eval_harness.models.generation.types import FAILED, Draw, Sample, Written, cut

_VLLM_PIECE = 512  # vllm answers when all of a call are done: pieces bound what a kill can lose


class Generator(Protocol):
    """A loaded model."""

    def write(self, draws: Sequence[Draw]) -> list[Written]:
        """Texts in the order of the draws."""


def generate(plan: Generation, store: AnswerStore, counts: dict[str, int] | None = None) -> list[Sample]:
    """Samples by prompt, temperature and number; each finished batch is on disk before the next starts.

    A text that did not come (`finish` is failed) is not stored: the next call asks for it again.

    Args:
      plan: from `plan_generation`.
      store: read first, written batch by batch. After a kill the same call computes only what is missing.
      counts: `reused`, `computed` and `failed` texts are added here.

    Raises:
      UserError: the model cannot be loaded, or an endpoint gave no answer.
    """
    asked = plan.distinct
    held = _held(plan, store)
    # Longest first, as lm-eval does: a batch too large for memory fails at once; what a kill leaves is the
    # end of this order and falls into the same batches.
    todo = sorted((d for k, d in asked.items() if k not in held), key=lambda d: (-len(d.ids), d.key))
    reused = len(held)
    if todo:
        _write(plan, todo, store, held)
    if counts is not None:
        counts["reused"] = counts.get("reused", 0) + reused
        counts["computed"] = counts.get("computed", 0) + len(todo)
        if failed := sum(written.finish == FAILED for written in held.values()):
            counts["failed"] = counts.get("failed", 0) + failed
    return [
        Sample(place, temperature, number, *held[draw.key]) for place, temperature, number, draw in plan.draws
    ]


def _held(plan: Generation, store: AnswerStore) -> dict[str, Written]:
    """Stored texts, but for an endpoint's empty ones that were cut off: once they were taken for answers."""
    held = {key: Written(*value) for key, value in store.read(plan.distinct).items()}
    hollow = [
        k for k, w in held.items() if plan.ref.kind == "endpoint" and not w.text and w.finish == "length"
    ]
    store.forget(hollow)
    return {key: written for key, written in held.items() if key not in set(hollow)}


def _write(plan: Generation, todo: list[Draw], store: AnswerStore, held: dict[str, Written]) -> None:
    from tqdm import tqdm

    engine, size = _load(plan)
    with tqdm(total=len(todo), desc=f"texts of {plan.model.label}", disable=None) as bar:
        for start in range(0, len(todo), size):
            batch = todo[start : start + size]
            texts = [_answered(plan, written) for written in engine.write(batch)]
            got = dict(zip((d.key for d in batch), texts, strict=True))
            store.write({key: list(written) for key, written in got.items() if written.finish != FAILED})
            held.update(got)
            bar.update(len(batch))
    # The next model must find the memory free: vllm's workers end with their engine.
    del engine
    gc.collect()


def _answered(plan: Generation, written: Written) -> Written:
    """The text without its reasoning, cut at the first stop string; failed where reasoning never ends."""
    if written.finish == FAILED or not plan.thinking.strip:
        return written
    answer = plan.thinking.answer(written.text)
    if answer is None:
        return Written("", written.tokens, FAILED)
    text, stopped = cut(answer, plan.sampling.stop)
    return Written(text, written.tokens, "stop" if stopped else written.finish)


def _load(plan: Generation) -> tuple[Generator, int]:
    """The loaded model and how many draws it gets at once. Raises UserError: its files make no model."""
    ref, settings = plan.ref, plan.settings
    if ref.kind == "endpoint":
        from eval_harness.models.generation.endpoint import EndpointGenerator

        return EndpointGenerator(ref, settings, plan.sampling), 4 * settings.concurrency
    with engines.loading():
        if settings.backend == "vllm":
            from eval_harness.models.generation.vllm import VLLMGenerator

            return VLLMGenerator(ref, settings, plan.sampling, plan.tokenizer, plan.thinking), _VLLM_PIECE
        from eval_harness.models.generation.hf import HFGenerator

        generator = HFGenerator(ref, settings, plan.sampling, plan.tokenizer, plan.thinking)
        return generator, int(settings.batch_size)
