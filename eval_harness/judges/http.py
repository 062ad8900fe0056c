"""A language model behind an OpenAI-compatible address."""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any, Self

from pydantic import Field, model_validator

from eval_harness.errors import UserError
from eval_harness.files.configs import Text
from eval_harness.judges.registry import register_judge
from eval_harness.judges.templates import TemplateJudge
from eval_harness.judges.types import FAILED, UNPARSABLE, Answer, Cost, Question
from eval_harness.models.http_answers import tokens_used
from eval_harness.models.identity import sha
from eval_harness.models.openai_client import Client, Remote
from eval_harness.models.remote_answers import Refusals, RemoteError, chat_text

_FAILURES = 20  # in a row, each after all its tries: nobody is there
_REFUSALS = 3  # of the first questions, and no answer yet: this server takes no question of ours
_TOP = 20  # the most log-probabilities that OpenAI's interface gives


@register_judge("http")
class HTTPJudge(TemplateJudge):
    """Chat completions. `body` goes over the request's own keys; null removes one.

    With `logprobs` a label's value is weighted by its probability among the labels, where the server gives
    log-probabilities; else the label that was written counts. Prices are per million tokens.
    """

    url: Text
    model: Text
    temperature: float = 0.0
    seed: int | None = 0
    logprobs: bool = False
    body: dict[str, Any] = Field(default_factory=dict)
    key_env: Text = "OPENAI_API_KEY"
    concurrency: int = Field(8, ge=1, description="an integer of at least 1")
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 1.0
    price_in: float | None = None
    price_out: float | None = None

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.logprobs and self.template.pattern is not None:
            raise UserError(
                "judge http: logprobs",
                got=f"template {self.template.name}, whose answer is a text",
                expected="a template without a pattern, whose answer is a label",
            )
        self._remote().checked()
        return self

    def _remote(self) -> Remote:
        return Remote(self.url, self.key_env, self.timeout, self.retries, self.backoff)

    @property
    def label(self) -> str:
        """The model's name."""
        return self.model

    def check(self) -> None:
        """Ask the server for its models. Raises UserError where it cannot be reached or refuses the key."""
        client = Client(self._remote())
        try:
            client.reach()
        finally:
            client.close()

    def settings(self) -> dict[str, Any]:
        """All that shapes an answer; the address as a hash."""
        shape = {"temperature": self.temperature, "seed": self.seed, "logprobs": self.logprobs}
        return {
            "judge": "http",
            "model": self.model,
            "address": sha(self.url.rstrip("/")),
            "template": self.template.digest,
            "body": self.body,
            **shape,
        }

    def request(self, question: Question) -> dict[str, Any]:
        """The body of one request."""
        body: dict[str, Any] = {
            "model": self.model,
            "messages": self.template.messages(question.fields),
            "temperature": self.temperature,
            "max_tokens": self.template.max_tokens,
            "seed": self.seed,
        }
        if self.logprobs:
            body |= {"logprobs": True, "top_logprobs": _TOP}
        return {key: value for key, value in {**body, **self.body}.items() if value is not None}

    def answers(self, questions: Sequence[Question]) -> Iterator[tuple[int, Answer]]:
        """Ask `concurrency` questions at once; a failed one is an answer too, with its reason.

        Raises:
          UserError: the server refuses the first questions, or many answers in a row have failed.
        """
        client = Client(self._remote())
        pool = ThreadPoolExecutor(self.concurrency)
        try:
            waiting: dict[Future[tuple[Answer, RemoteError | None]], int] = {
                pool.submit(self._answer, client, question): number
                for number, question in enumerate(questions)
            }
            silent, refusals = 0, Refusals(min(_REFUSALS, len(questions)))
            for done in as_completed(waiting):
                answer, error = done.result()
                silent = 0 if error is None or error.final else silent + 1
                if error is None or error.final:
                    refusals.note(error)
                if silent == max(_FAILURES, 2 * self.concurrency):
                    raise UserError(
                        f"the judge gave no answer {silent} times in a row",
                        got=answer.text,
                        expected="answers",
                        remedy="run the same command again when it answers: what it has judged is kept",
                    )
                yield waiting[done], answer
        finally:
            # After a refusal (or an interrupt) nothing more is asked.
            pool.shutdown(wait=True, cancel_futures=True)
            client.close()

    def _answer(self, client: Client, question: Question) -> tuple[Answer, RemoteError | None]:
        """The answer, and why it failed."""
        try:
            return client.post("chat/completions", self.request(question), self._read), None
        except RemoteError as error:
            return Answer(None, FAILED, str(error)), error

    def _read(self, reply: dict[str, Any]) -> Answer:
        choice = reply["choices"][0]
        text = chat_text(choice)
        used = tokens_used(reply, "prompt_tokens"), tokens_used(reply, "completion_tokens")
        if choice.get("finish_reason") == "length" and self.template.pattern is not None:
            return Answer(None, UNPARSABLE, f"cut off at {self.template.max_tokens} tokens: {text}", *used)
        answer = self.template.answer(text, *used)
        # The probabilities belong to the label that was written; prose may begin with a label's letter.
        weighted = None if answer.value is None else self._weighted(choice.get("logprobs"))
        return answer if weighted is None else dataclasses.replace(answer, value=weighted)

    def _weighted(self, logprobs: Any) -> float | None:
        """Value of the labels weighted by their probabilities, at the first token that is no space.

        None where that token is no whole label or the server gave no probabilities.
        """
        labels = {label.lower(): value for label, value in self.template.labels.items()}
        if not self.logprobs:
            return None
        try:
            for token in logprobs["content"]:
                if not str(token["token"]).strip():
                    continue
                if str(token["token"]).strip().lower() not in labels:
                    return None
                chances: dict[str, float] = {}
                for other in token.get("top_logprobs") or [token]:
                    name = str(other["token"]).strip().lower()
                    if name in labels:
                        chances[name] = chances.get(name, 0.0) + math.exp(float(other["logprob"]))
                total = sum(chances.values())
                return sum(labels[n] * p for n, p in chances.items()) / total if total > 0 else None
        except (KeyError, TypeError, ValueError, OverflowError):
            return None
        return None

    def cost(self, questions: Sequence[Question]) -> Cost:
        """Calls, tokens (by characters) and, where prices are named, the price."""
        cost = super().cost(questions)
        if self.price_in is None or self.price_out is None:
            return cost._replace(price=None)
        price = (cost.prompt_tokens * self.price_in + cost.answer_tokens * self.price_out) / 1e6
        return cost._replace(price=price)
