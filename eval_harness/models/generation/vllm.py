"""vLLM as a generator: it schedules its own batches; every request carries a seed of its own."""

from collections.abc import Sequence
from typing import Any

from eval_harness.models.engine_options import loader_options
from eval_harness.models.generation.types import Draw, Sampling, Written
from eval_harness.models.reference import ModelRef
from eval_harness.models.resumable import check_outputs
from eval_harness.models.settings import Settings
from eval_harness.models.thinking import Thinking, decode, marks_of


class VLLMGenerator:
    """Writes texts with vLLM's offline engine."""

    def __init__(
        self, ref: ModelRef, settings: Settings, sampling: Sampling, tokenizer: Any, thinking: Thinking
    ) -> None:
        """Load the model."""
        import vllm

        extra: dict[str, Any] = (
            {"distributed_executor_backend": settings.executor} if settings.executor else {}
        )
        if settings.limit_context:
            extra["max_model_len"] = settings.limit_context
        if ref.adapter is not None:
            extra |= {"enable_lora": True, "max_lora_rank": _rank(ref)}
        self._sampling, self._tokenizer, self._thinking = sampling, tokenizer, thinking
        self._marks = marks_of(tokenizer, thinking)
        self._llm = vllm.LLM(
            model=str(ref.path),
            tokenizer=str(ref.tokenizer),
            dtype=settings.dtype,
            tensor_parallel_size=settings.tensor_parallel,
            seed=sampling.seed,
            **{**extra, **loader_options(settings)},
        )
        self._adapter = str(ref.adapter) if ref.adapter else None

    def write(self, draws: Sequence[Draw]) -> list[Written]:
        """Texts in the order of the draws."""
        import vllm
        from vllm.lora.request import LoRARequest

        asked = [
            vllm.SamplingParams(
                temperature=draw.temperature,
                top_p=self._sampling.top_p,
                max_tokens=self._sampling.max_new_tokens,
                # Within reasoning a stop string means nothing: the answer is cut afterwards.
                stop=[] if self._thinking.strip else list(self._sampling.stop),
                seed=draw.seed,
                logprobs=0,  # of the chosen token: tells NaN logits, which vllm samples from
            )
            for draw in draws
        ]
        answers = self._llm.generate(
            [{"prompt_token_ids": draw.ids} for draw in draws],
            asked,
            lora_request=LoRARequest("adapter", 1, self._adapter) if self._adapter else None,
            use_tqdm=False,
        )
        check_outputs(answers)
        return [self._written(answer.outputs[0]) for answer in answers]

    def _written(self, out: Any) -> Written:
        # vllm's own text lacks the marks of reasoning where the tokenizer calls them special.
        ids = list(out.token_ids)
        text = decode(self._tokenizer, ids, self._marks) if self._marks else out.text
        return Written(text, len(ids), "length" if out.finish_reason == "length" else "stop")


def _rank(ref: ModelRef) -> int:
    import json

    assert ref.adapter is not None  # by the caller
    return int(json.loads((ref.adapter / "adapter_config.json").read_text(encoding="utf-8")).get("r", 16))
