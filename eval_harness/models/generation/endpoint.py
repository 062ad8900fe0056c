"""An OpenAI-compatible server as a generator."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from eval_harness.errors import UserError
from eval_harness.models.engine_options import remote_of, template_arguments
from eval_harness.models.generation.types import FAILED, Draw, Sampling, Written
from eval_harness.models.http_answers import tokens_used
from eval_harness.models.openai_client import Client
from eval_harness.models.reference import ModelRef
from eval_harness.models.remote_answers import Refusals, RemoteError, chat_text, completion_text
from eval_harness.models.settings import Settings


class EndpointGenerator:
    """Writes texts through completions, or chat completions where `--endpoint chat` says so.

    Every request carries its sample's seed; whether the server honours it is the server's affair. A prompt
    that the server refuses, or answers with nothing, has a failed text.
    """

    def __init__(self, ref: ModelRef, settings: Settings, sampling: Sampling) -> None:
        """Bind address and settings; `--engine KEY=VALUE` sets the client's options (timeout, retries)."""
        self._client, self._refusals = Client(remote_of(ref, settings)), Refusals()
        self._model, self._sampling = ref.model_id or "default", sampling
        self._chat, self._workers = settings.endpoint == "chat", settings.concurrency
        self._arguments = template_arguments(settings, "endpoint") if self._chat else {}

    def write(self, draws: Sequence[Draw]) -> list[Written]:
        """Texts in the order of the draws. Raises UserError where the server gives none after all tries."""
        with ThreadPoolExecutor(self._workers) as pool:
            try:
                return list(pool.map(self._one, draws))
            except RemoteError as error:
                pool.shutdown(cancel_futures=True)
                raise UserError(
                    "the endpoint failed during the run",
                    got=error,
                    expected="texts",
                    remedy="run the same command again: finished batches are kept",
                ) from None

    def _one(self, draw: Draw) -> Written:
        asked = {"messages": draw.messages} if self._chat else {"prompt": draw.text}
        body: dict[str, Any] = {
            "model": self._model,
            **asked,
            "temperature": draw.temperature,
            "top_p": self._sampling.top_p,
            "max_tokens": self._sampling.max_new_tokens,
            "seed": draw.seed % 2**31,
        }
        if self._sampling.stop:
            body["stop"] = list(self._sampling.stop)
        if self._arguments:
            body["chat_template_kwargs"] = self._arguments
        try:
            written = self._client.post("chat/completions" if self._chat else "completions", body, self._read)
        except RemoteError as error:
            if not error.final:
                raise
            self._refusals.note(error)
            return Written("", 0, FAILED)
        self._refusals.note(None)
        return written

    def _read(self, reply: dict[str, Any]) -> Written:
        choice = reply["choices"][0]
        text = chat_text(choice) if self._chat else completion_text(choice)
        cut_off = choice.get("finish_reason") == "length"
        return Written(text, tokens_used(reply, "completion_tokens"), "length" if cut_off else "stop")
