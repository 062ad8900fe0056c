"""An OpenAI-compatible server as a generator."""

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from eval_harness.errors import UserError
from eval_harness.files.rows import sound
from eval_harness.models.generation.types import Draw, Sampling, Written
from eval_harness.models.openai_client import Client, Remote, RemoteError
from eval_harness.models.reference import ModelRef
from eval_harness.models.settings import Settings


class EndpointGenerator:
    """Writes texts through completions, or chat completions where `--endpoint chat` says so.

    Every request carries its sample's seed; whether the server honours it is the server's affair.
    """

    def __init__(self, ref: ModelRef, settings: Settings, sampling: Sampling) -> None:
        """Bind address and settings; `--engine KEY=VALUE` sets the client's options (timeout, retries)."""
        assert ref.url is not None  # of an endpoint
        try:
            self._client = Client(Remote(ref.url, **settings.engine))
        except TypeError:
            known = [field.name for field in dataclasses.fields(Remote)][1:]
            raise UserError(
                "--engine for an endpoint", got=dict(settings.engine), expected=", ".join(known)
            ) from None
        self._model, self._sampling = ref.model_id or "default", sampling
        self._chat, self._workers = settings.endpoint == "chat", settings.concurrency

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
        return self._client.post("chat/completions" if self._chat else "completions", body, self._read)

    def _read(self, reply: dict[str, Any]) -> Written:
        choice = reply["choices"][0]
        text = choice["message"]["content"] if self._chat else choice["text"]
        if not isinstance(text, str):
            raise TypeError(f"content is {type(text).__name__}")
        used = (reply.get("usage") or {}).get("completion_tokens")
        return Written(
            sound(text), int(used or 0), "length" if choice.get("finish_reason") == "length" else "stop"
        )
