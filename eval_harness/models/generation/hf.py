"""transformers as a generator: left padding, one batch at a time."""

from collections.abc import Sequence
from typing import Any

from eval_harness.models.engine_options import loader_options
from eval_harness.models.engines import check_loaded
from eval_harness.models.generation.nucleus import RowSampler, StopStrings
from eval_harness.models.generation.types import Draw, Sampling, Written, cut
from eval_harness.models.reference import ModelRef
from eval_harness.models.settings import Settings
from eval_harness.models.thinking import Thinking, decode, marks_of


def load_causal(ref: ModelRef, settings: Settings) -> Any:
    """The model in evaluation mode, an adapter on top of its base; nothing of the user's code runs."""
    import transformers

    spread = {"device_map": "auto"} if settings.tensor_parallel > 1 else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(
        str(ref.path), dtype=settings.dtype, **spread, **loader_options(settings)
    )
    if ref.adapter is not None:
        import peft

        model = peft.PeftModel.from_pretrained(model, str(ref.adapter))
    check_loaded(model)
    return (model if spread else model.to(settings.device)).eval()


class HFGenerator:
    """Writes texts with a transformers model."""

    def __init__(
        self, ref: ModelRef, settings: Settings, sampling: Sampling, tokenizer: Any, thinking: Thinking
    ) -> None:
        """Load the model."""
        import transformers

        self._model = load_causal(ref, settings)
        self._tokenizer, self._sampling, self._thinking = tokenizer, sampling, thinking
        self._marks = marks_of(tokenizer, thinking)
        defaults = self._model.generation_config
        ends = defaults.eos_token_id if isinstance(defaults.eos_token_id, list) else [defaults.eos_token_id]
        self._ends = sorted({e for e in [*ends, tokenizer.eos_token_id] if e is not None})
        pads = (tokenizer.pad_token_id, defaults.pad_token_id, *self._ends, 0)
        self._pad = next(p for p in pads if p is not None)
        # The folder's own defaults (a repetition penalty, say) must not bend what Sampling states.
        self._model.generation_config = transformers.GenerationConfig()

    def write(self, draws: Sequence[Draw]) -> list[Written]:
        """One batch; texts in the order of the draws."""
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        length, device = max(len(d.ids) for d in draws), self._model.device
        ids = [[self._pad] * (length - len(d.ids)) + d.ids for d in draws]
        mask = [[0] * (length - len(d.ids)) + [1] * len(d.ids) for d in draws]
        sampler = RowSampler([d.temperature for d in draws], [d.seed for d in draws], self._sampling.top_p)
        stops: list[Any] = []
        if self._sampling.stop:
            stops.append(StopStrings(self._text, self._sampling.stop, length, self._thinking))
        with torch.inference_mode():
            rows = self._model.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                max_new_tokens=self._sampling.max_new_tokens,
                do_sample=False,
                eos_token_id=self._ends or None,
                pad_token_id=self._pad,
                logits_processor=LogitsProcessorList([sampler]),
                stopping_criteria=StoppingCriteriaList(stops),
            )
        return [self._written(row[length:].tolist()) for row in rows]

    def _written(self, ids: list[int]) -> Written:
        ended = [index for index, token in enumerate(ids) if token in self._ends]
        kept = ids[: ended[0]] if ended else ids
        text, stopped = self._text(kept), False
        if not self._thinking.strip:  # else a stop string counts in the answer alone
            text, stopped = cut(text, self._sampling.stop)
        return Written(text, len(kept), "stop" if ended or stopped else "length")

    def _text(self, ids: list[int]) -> str:
        return decode(self._tokenizer, ids, self._marks)
