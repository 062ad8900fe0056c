"""lm-eval's models for OpenAI-compatible servers, asking through our own client.

lm-eval's own calls follow redirects, wait without a deadline for the whole, and make an empty text of null.
"""

import copy
import functools
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from typing import Any

from eval_harness.errors import UserError
from eval_harness.models.engine_options import remote_of, template_arguments, upstream_options
from eval_harness.models.openai_client import Client
from eval_harness.models.reference import ModelRef
from eval_harness.models.remote_answers import Refusals, RemoteError, chat_text, completion_text
from eval_harness.models.resumable import resumable
from eval_harness.models.settings import Settings
from eval_harness.models.thinking import Thinking
from eval_harness.types import NO_ANSWER


def endpoint_model(ref: ModelRef, settings: Settings, batch_size: int | str) -> Any:
    """lm-eval's model for the endpoint. Raises UserError for options it does not know."""
    chat = settings.endpoint == "chat"
    common = {
        "model": ref.model_id or "default",
        "base_url": f"{ref.url}/{'chat/' if chat else ''}completions",
        "num_concurrent": settings.concurrency,
        "max_retries": 1,  # our client tries again
        **upstream_options(settings),
    }
    if not chat:
        common |= {
            "tokenizer": str(ref.tokenizer),
            "tokenizer_backend": "huggingface",
            "batch_size": batch_size,
        }
        common["max_length"] = (settings.limit_context or 2047) + 1
    model = resumable(_class(chat))(**common)
    arguments = template_arguments(settings, "endpoint") if chat else {}
    model.connect(Client(remote_of(ref, settings)), chat, arguments)
    return model


@functools.cache
def _class(chat: bool) -> type:
    from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI

    class Endpoint(LocalChatCompletion if chat else LocalCompletionsAPI):  # type: ignore[misc]
        """The same requests; what is no answer stays none."""

        thinking = Thinking()

        def connect(self, client: Client, chat: bool, arguments: dict[str, Any]) -> None:
            """Bind the client; `arguments` go to the server's chat template."""
            self._client, self._refusals, self._arguments = client, Refusals(), arguments
            self._path = "chat/completions" if chat else "completions"
            self._text = chat_text if chat else completion_text

        def model_call(
            self, messages: Any, *, generate: bool = True, gen_kwargs: Any = None, **kwargs: Any
        ) -> list[dict[str, Any]]:
            """Replies to the messages of one batch; asked one by one where the server refuses the batch."""
            body = self._create_payload(
                self.create_message(messages),
                generate=generate,
                gen_kwargs=copy.deepcopy(gen_kwargs or {}),
                seed=self._seed,
                eos=self.eos_string,
                **kwargs,
            )
            if self._arguments:
                body["chat_template_kwargs"] = self._arguments
            try:
                reply = self._client.post(self._path, body, self._texts if generate else _scored)
            except RemoteError as error:
                if error.refused and generate and len(messages) == 1:
                    self._refusals.note(error)
                    return [_nothing()]
                if error.refused and generate:
                    parts = [self.model_call([m], generate=True, gen_kwargs=gen_kwargs) for m in messages]
                    return [reply for part in parts for reply in part]
                raise UserError(
                    "the endpoint failed during the run",
                    got=error,
                    expected="answers",
                    remedy="run the same command again: finished answers are kept",
                ) from None
            self._refusals.note(None)
            return [reply]

        def _texts(self, reply: dict[str, Any]) -> dict[str, Any]:
            for choice in reply["choices"]:  # of another shape: worth another try
                self._answer(choice)
            return {"choices": list(reply["choices"])}

        def _answer(self, choice: dict[str, Any]) -> str:
            try:
                answer = self.thinking.answer(self._text(choice))
            except RemoteError:
                return NO_ANSWER
            return NO_ANSWER if answer is None else answer

        def parse_generations(self, outputs: Any, **_: Any) -> list[str]:
            """Texts in the order of the prompts."""
            texts = []
            for reply in outputs if isinstance(outputs, list) else [outputs]:
                choices = sorted(reply["choices"], key=lambda choice: int(choice.get("index") or 0))
                texts += [self._answer(choice) for choice in choices]
            return texts

        async def get_batched_requests(
            self, requests: list[Any], cache_keys: list[Any], *, generate: bool = True, **kwargs: Any
        ) -> list[list[Any]]:
            """Answers batch by batch, `num_concurrent` batches at once, each kept as it arrives."""
            ctxlens, size = kwargs.pop("ctxlens", None) or [None] * len(requests), self._batch_size
            starts = range(0, len(requests), size)
            with ThreadPoolExecutor(self._concurrent) as pool:
                ask = functools.partial(self.model_call, generate=generate, **kwargs)
                waiting: dict[Future[list[dict[str, Any]]], int] = {
                    pool.submit(ask, requests[start : start + size]): start for start in starts
                }
                answers: dict[int, list[Any]] = {}
                try:
                    for done in as_completed(waiting):
                        start = waiting[done]
                        part = slice(start, start + size)
                        answers[start] = self._read(done.result(), requests[part], ctxlens[part], generate)
                        self._keep(cache_keys[part], answers[start], generate)
                except BaseException:
                    pool.shutdown(cancel_futures=True)
                    raise
            return [answers[start] for start in starts]

        def _read(self, replies: Any, messages: Any, ctxlens: Sequence[Any], generate: bool) -> list[Any]:
            if generate:
                return self.parse_generations(replies)
            return list(self.parse_logprobs(outputs=replies, tokens=messages, ctxlens=ctxlens))

        def _keep(self, keys: Sequence[Any], answers: Sequence[Any], generate: bool) -> None:
            for key, answer in zip(keys, answers, strict=True):
                if key is not None:
                    self.cache_hook.add_partial(
                        "generate_until" if generate else "loglikelihood", key, answer
                    )

    return Endpoint


def _nothing() -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": None, "message": {"content": None}}]}


def _scored(reply: dict[str, Any]) -> dict[str, Any]:
    """The reply, if it holds log-probabilities."""
    for choice in reply["choices"]:
        len(choice["logprobs"]["token_logprobs"]), len(choice["logprobs"]["top_logprobs"]), choice["index"]
    return reply
