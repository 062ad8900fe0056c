"""A causal language model on this machine as a judge."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from eval_harness.errors import UserError
from eval_harness.files.configs import Text
from eval_harness.judges.content import content
from eval_harness.judges.registry import register_judge
from eval_harness.judges.templates import TemplateJudge
from eval_harness.judges.types import UNPARSABLE, Answer, Question
from eval_harness.models import engines
from eval_harness.models.finite import check_finite
from eval_harness.models.fit import check_weights_fit
from eval_harness.models.reference import chat_template, resolve
from eval_harness.models.settings import Settings


@register_judge("hf")
class HFJudge(TemplateJudge):
    """Reads the probability of every label as the next token, or writes a text where the template wants one.

    The tokenizer's chat template is applied where it has one. A label's value is weighted by its probability
    among the labels; with `hard` the likeliest label counts. Where the labels together have less probability
    than `label_mass`, the judge means to write something else, and its answer cannot be read.
    """

    model: Text
    hard: bool = False
    label_mass: float = Field(0.05, gt=0, le=1, description="a probability above 0")
    batch_size: int = Field(8, ge=1)
    dtype: Text = "auto"
    device: Text = "auto"

    @property
    def label(self) -> str:
        """The folder's name."""
        return Path(self.model).name

    def settings(self) -> dict[str, Any]:
        """The content of the model's files, the template, and how answers are read."""
        ref = resolve(self.model)
        if ref.kind == "endpoint":
            raise UserError("judge hf: model", got=self.model, expected="a folder", remedy="--judge http")
        return {
            "judge": "hf",
            "model": content(self.model),
            "template": self.template.digest,
            "hard": self.hard,
            "label_mass": self.label_mass,
            "dtype": self.dtype,
        }

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Batch by batch, longest first."""
        ref = resolve(self.model)
        settings = Settings(dtype=self.dtype, device=engines.resolve_device(self.device))
        check_weights_fit(ref)
        with engines.loading():
            import transformers

            from eval_harness.models.generation.hf import load_causal

            tokenizer = transformers.AutoTokenizer.from_pretrained(str(ref.tokenizer))
            model = load_causal(ref, settings)
        assert ref.tokenizer is not None  # of every local model
        chat = chat_template(ref.tokenizer) is not None
        rows = [_tokens(tokenizer, self.template.messages(q.fields), chat) for q in questions]
        order = sorted(range(len(rows)), key=lambda number: (-len(rows[number]), number))
        ask = self._labels if self.template.pattern is None and self.template.labels else self._texts
        for start in range(0, len(order), self.batch_size):
            batch = order[start : start + self.batch_size]
            yield from zip(batch, ask(model, tokenizer, [rows[number] for number in batch]), strict=True)

    def _labels(self, model: Any, tokenizer: Any, rows: list[list[int]]) -> list[Answer]:
        """Weigh the labels by the probabilities of their first tokens, with and without a space before."""
        firsts = label_tokens(tokenizer, list(self.template.labels))
        chances = _next(model, tokenizer, rows, 1)[1]
        answers = []
        for row, chance in zip(rows, chances, strict=True):
            mass = {name: float(chance[ids].sum()) for name, ids in firsts.items()}
            total, best = sum(mass.values()), max(mass, key=lambda name: mass[name])
            if total < self.label_mass:
                said = f"the labels have probability {total:.2g}, below label_mass {self.label_mass:g}"
                answers.append(Answer(None, UNPARSABLE, said, len(row), 1))
                continue
            values = self.template.labels
            share = values[best] if self.hard else sum(values[n] * m for n, m in mass.items()) / total
            answers.append(Answer(share, text=best, prompt_tokens=len(row), answer_tokens=1))
        return answers

    def _texts(self, model: Any, tokenizer: Any, rows: list[list[int]]) -> list[Answer]:
        written = _next(model, tokenizer, rows, self.template.max_tokens)[0]
        texts = tokenizer.batch_decode(written, skip_special_tokens=True)
        return [
            self.template.answer(text, len(row), len(ids))
            for text, row, ids in zip(texts, rows, written, strict=True)
        ]


def _tokens(tokenizer: Any, messages: list[dict[str, str]], chat: bool) -> list[int]:
    if chat:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(tokenizer(text, add_special_tokens=False).input_ids)
    text = "\n\n".join(message["content"] for message in messages) + "\n\nAnswer:"
    return list(tokenizer(text).input_ids)


def label_tokens(tokenizer: Any, labels: list[str]) -> dict[str, list[int]]:
    """Label -> ids of its first token, bare and after a space; ids that two labels share are left out.

    Raises:
      UserError: a label has no first token of its own.
    """
    ids = {
        label: {tokenizer(form, add_special_tokens=False).input_ids[0] for form in (label, " " + label)}
        for label in labels
    }
    unshared = {
        label: sorted(mine - set().union(*(other for name, other in ids.items() if name != label)))
        for label, mine in ids.items()
    }
    if lacking := [label for label, mine in unshared.items() if not mine]:
        raise UserError(
            "judge hf: labels begin with the same token",
            got=", ".join(lacking),
            expected="labels that differ in their first token",
            remedy="a template with other labels, or one with a pattern",
        )
    return unshared


def _next(model: Any, tokenizer: Any, rows: list[list[int]], count: int) -> tuple[Any, Any]:
    """Greedy continuation, [batch][<= count] ids, and the next token's probabilities, [batch, vocabulary]."""
    import torch
    import transformers

    length = max(len(row) for row in rows)
    ends = model.generation_config.eos_token_id
    pad = tokenizer.pad_token_id
    if pad is None:
        pad = tokenizer.eos_token_id or 0
    with torch.inference_mode():
        done = model.generate(
            input_ids=torch.tensor([[pad] * (length - len(r)) + r for r in rows], device=model.device),
            attention_mask=torch.tensor(
                [[0] * (length - len(r)) + [1] * len(r) for r in rows], device=model.device
            ),
            generation_config=transformers.GenerationConfig(
                max_new_tokens=count,
                do_sample=False,
                pad_token_id=pad,
                eos_token_id=ends,
                output_logits=True,
                return_dict_in_generate=True,
            ),
        )
    for logits in done.logits:
        check_finite(logits.amax(-1), "the judge's logits")
    return done.sequences[:, length:].tolist(), done.logits[0].float().softmax(-1)
