"""A reward model: a sequence classifier with one output, on this machine."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field

from eval_harness.errors import UserError
from eval_harness.files.configs import Text
from eval_harness.judges.content import content
from eval_harness.judges.programs import compared
from eval_harness.judges.registry import register_judge
from eval_harness.judges.types import Answer, Cost, Judge, Question
from eval_harness.models import engines
from eval_harness.models.finite import check_finite
from eval_harness.models.reference import chat_template, resolve

Key = tuple[str, str]  # prompt (or document), text


@register_judge("reward")
class RewardJudge(Judge):
    """The text with the higher reward wins; with `soft` the win is shared by sigmoid of the difference.

    A tokenizer with a chat template sees the prompt as the user's and the text as the assistant's turn; else
    both are joined by `separator`. Texts beyond `max_length` tokens are cut from the left.
    """

    model: Text
    soft: bool = False
    separator: Text = ""
    max_length: int = Field(2048, ge=1)
    batch_size: int = Field(8, ge=1)
    dtype: Text = "auto"
    device: Text = "auto"
    order_free: ClassVar[bool] = True

    @property
    def label(self) -> str:
        """The folder's name."""
        return Path(self.model).name

    def settings(self) -> dict[str, Any]:
        """The content of the model's files, and what shapes its input."""
        ref = resolve(self.model)
        if ref.kind != "hf":
            raise UserError("judge reward: model", got=ref.kind, expected="a Hugging Face folder")
        shape = {"soft": self.soft, "separator": self.separator, "max_length": self.max_length}
        return {
            "judge": "reward",
            "model": content(self.model),
            "dtype": self.dtype,
            **shape,
        }

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Score every distinct text once, longest first, and answer what is complete after each batch."""
        import math

        texts = {key for question in questions for key in _texts(question)}
        waiting = sorted(texts, key=lambda key: (-len(key[0]) - len(key[1]), key))
        model, tokenizer = self._load()
        scores: dict[Key, float] = {}
        answered: set[int] = set()
        for start in range(0, len(waiting), self.batch_size):
            batch = waiting[start : start + self.batch_size]
            scores.update(zip(batch, self._score(model, tokenizer, batch), strict=True))
            for number, question in enumerate(questions):
                keys = _texts(question)
                if number in answered or not all(key in scores for key in keys):
                    continue
                answered.add(number)
                rewards = [scores[key] for key in keys]
                if len(rewards) == 1:
                    yield number, Answer(rewards[0])
                elif self.soft:
                    yield number, Answer(1 / (1 + math.exp(min(max(rewards[1] - rewards[0], -700), 700))))
                else:
                    yield number, Answer(compared(*rewards))

    def _load(self) -> tuple[Any, Any]:
        import transformers

        with engines.loading():
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                self.model, padding_side="right", truncation_side="left"
            )
            model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
                self.model, dtype=self.dtype, output_loading_info=True
            )
            strange = sorted([*info["missing_keys"], *info["unexpected_keys"]])
            if strange or model.config.num_labels != 1:
                got = f"{len(strange)} tensors missing or unknown, e.g. {strange[0]}" if strange else None
                got = got or f"{model.config.num_labels} outputs"
                raise UserError("judge reward: model", got=got, expected="a classifier with one output")
            engines.check_loaded(model)
            if tokenizer.pad_token_id is None:
                tokenizer.pad_token = tokenizer.eos_token
            model.config.pad_token_id = tokenizer.pad_token_id
            return model.to(engines.resolve_device(self.device)).eval(), tokenizer

    def _score(self, model: Any, tokenizer: Any, batch: Sequence[Key]) -> list[float]:
        import torch

        chat = chat_template(Path(self.model)) is not None
        shown = [self._shown(tokenizer, *key) if chat else self.separator.join(key) for key in batch]
        tokens = tokenizer(
            shown,
            return_tensors="pt",
            padding=True,
            truncation=True,
            max_length=self.max_length,
            add_special_tokens=not chat,
        ).to(model.device)
        with torch.inference_mode():
            rewards: list[float] = model(**tokens).logits[:, 0].float().tolist()
        check_finite(rewards, "the rewards")
        return rewards

    def _shown(self, tokenizer: Any, prompt: str, text: str) -> str:
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": text}]
        rendered: str = tokenizer.apply_chat_template(turns, tokenize=False)
        return rendered

    def cost(self, questions: Sequence[Question]) -> Cost:
        """Distinct texts to score; no price."""
        return Cost(len({key for question in questions for key in _texts(question)}))


def _texts(question: Question) -> list[Key]:
    fields = question.fields
    if "first" in fields:
        return [(fields["prompt"], fields["first"]), (fields["prompt"], fields["second"])]
    return [(fields.get("document", ""), fields["text"])]
