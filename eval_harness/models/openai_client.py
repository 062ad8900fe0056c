"""The one client for OpenAI-compatible servers: whole answers or a named failure, and no key in any text."""

import asyncio
import json
import os
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, fields
from typing import Any, TypeVar
from urllib.parse import urlsplit

from eval_harness.errors import UserError, first_line
from eval_harness.models.http_answers import REFUSED, RETRIED, inflate, parse, retry_after, shown
from eval_harness.models.remote_answers import RemoteError

T = TypeVar("T")

_LONGEST_WAIT = 60.0  # seconds, for our own backoff
_LARGEST_ANSWER = 32 << 20  # bytes
_PROBE = 10.0  # seconds for the list of models


class _TransientError(Exception):
    """Worth another try, after `wait` seconds where the server said so."""

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


@dataclass(frozen=True)
class Remote:
    """Where and how to ask.

    The key is read from the environment variable `key_env` when a client is made and is kept nowhere else.
    `timeout` is for one whole try, connection and headers included, in seconds. `retries` follow a first try
    that failed by 429, 5xx, time-out, broken connection or an answer that is no JSON; the waits grow from
    `backoff` seconds, and `Retry-After` is honoured up to `longest_wait` seconds. `ca_cert_path` names a file
    of certificates to trust instead of the machine's.
    """

    url: str
    key_env: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 1.0
    longest_wait: float = 300.0
    verify_certificate: bool = True
    ca_cert_path: str | None = None

    @classmethod
    def options(cls) -> list[str]:
        """Names of all that may be set besides the address."""
        return [field.name for field in fields(cls)][1:]

    def checked(self) -> "Remote":
        """Return self. Raises UserError for an address that cannot be asked, or that holds a secret."""
        try:
            parts = urlsplit(self.url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or parts.scheme not in ("http", "https"):
            raise UserError("endpoint address", got=self.url, expected="http(s)://HOST/v1")
        if parts.username or parts.password or parts.query:
            raise UserError(
                "an endpoint address must hold no secret",
                got=f"{parts.scheme}://{host}/... with a user, a password or a query",
                expected="http(s)://HOST/v1",
                remedy=f"put the key into the environment variable {self.key_env}",
            )
        numbers = (self.timeout, self.retries, self.backoff, self.longest_wait)
        if not all(isinstance(n, int | float) and n < 1e9 for n in numbers) or not (
            self.timeout > 0 and self.retries >= 0 and self.backoff >= 0 and self.longest_wait >= 0
        ):
            raise UserError(
                "timeout, retries, backoff, longest_wait",
                got=numbers,
                expected="a positive number of seconds, an integer of at least 0, two numbers of at least 0",
            )
        return self


class Client:
    """Safe for use by several threads: exchanges run in one event loop, where a deadline ends each whole."""

    def __init__(self, remote: Remote) -> None:
        """Read the key and open the connection pool. Raises UserError: a key that no header can carry."""
        import httpx

        self._remote = remote.checked()
        self._url = remote.url.rstrip("/")
        self._key = os.environ.get(remote.key_env, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise UserError(f"the key in {remote.key_env}", got="characters that no header can carry")
        headers = {"Accept-Encoding": "identity"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            verify: Any = remote.ca_cert_path or remote.verify_certificate
            # Redirects are never followed: the key is for this host alone.
            self._http = httpx.AsyncClient(headers=headers, timeout=remote.timeout, verify=verify)
        except OSError as error:
            raise UserError("ca_cert_path", got=f"{remote.ca_cert_path}: {first_line(error)}") from None
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()

    def close(self) -> None:
        """Close all connections."""
        self._wait_for(self._http.aclose())
        self._loop.call_soon_threadsafe(self._loop.stop)

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def reach(self) -> None:
        """Ask for the list of models. Raises UserError where no API answers, or it refuses the key."""
        expected = "an OpenAI-compatible server"
        remedy = "start it, or correct the address (it usually ends in /v1)"
        try:
            code, text, headers = self._exchange("GET", "models", None, min(_PROBE, self._remote.timeout))
        except _TransientError as error:
            raise UserError(
                "endpoint not reachable", got=f"{self._remote.url}: {error}", expected=expected, remedy=remedy
            ) from None
        if code in (401, 403) or 300 <= code < 400:
            self._refuse(code, text, headers)
        if code == 200 and text.lstrip()[:1] == "<":
            raise UserError(
                "the endpoint answers with a web page",
                got=shown(text),
                expected=expected,
                remedy="correct the address; a login page wants another way to authenticate",
            )

    def post(self, path: str, body: dict[str, Any], read: Callable[[dict[str, Any]], T]) -> T:
        """What `read` finds in the server's JSON object; an object of another shape is asked for again.

        Raises:
          RemoteError: no answer after all tries, or the server refuses this question (400, 413, 422).
          UserError: the server refuses every question: wrong key, no such model or path, a redirect.
        """
        import tenacity

        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._remote.retries + 1),
            wait=self._pause,
            retry=tenacity.retry_if_exception_type(_TransientError),
            reraise=True,
        )
        try:
            answer: T = tries(self._read, path, body, read)
        except _TransientError as error:
            raise RemoteError(f"{error} ({self._remote.retries + 1} tries)") from None
        return answer

    def _read(self, path: str, body: dict[str, Any], read: Callable[[dict[str, Any]], T]) -> T:
        # ASCII alone, so that no text can fail to be sent.
        code, text, headers = self._exchange("POST", path, json.dumps(body), self._remote.timeout)
        if code != 200:
            self._refuse(code, text, headers)
        try:
            answer = parse(text)
        except ValueError as error:
            raise _TransientError(f"{error}: {shown(text, 60)!r}") from None
        try:
            return read(answer)
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            raise _TransientError(f"an answer of another shape: {first_line(error, 80)}") from None

    def _pause(self, state: Any) -> float:
        """Seconds before the next try."""
        import tenacity

        error = state.outcome.exception()
        if isinstance(error, _TransientError) and error.wait is not None:
            return min(max(error.wait, 0.0), self._remote.longest_wait)
        growing = tenacity.wait_random_exponential(multiplier=self._remote.backoff, max=_LONGEST_WAIT)
        return float(growing(state))

    def _exchange(
        self, method: str, path: str, content: str | None, seconds: float
    ) -> tuple[int, str, dict[str, str]]:
        """Status, text and headers. Raises _TransientError: no whole answer in time, or too large a one."""
        import httpx

        began = time.monotonic()
        try:
            return self._wait_for(self._whole(method, path, content, seconds))
        except (TimeoutError, httpx.TimeoutException):
            raise _TransientError(f"no whole answer in {time.monotonic() - began:.3g} s") from None
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise _TransientError(self._clean(first_line(error))) from None

    async def _whole(
        self, method: str, path: str, content: str | None, seconds: float
    ) -> tuple[int, str, dict[str, str]]:
        raw = bytearray()
        headers = {"Content-Type": "application/json"} if content is not None else {}
        async with (
            asyncio.timeout(seconds),
            self._http.stream(method, f"{self._url}/{path}", content=content, headers=headers) as reply,
        ):
            async for chunk in reply.aiter_raw():
                raw += chunk
                if len(raw) > _LARGEST_ANSWER:
                    raise ValueError(f"an answer of more than {_LARGEST_ANSWER >> 20} MiB")
        text = inflate(bytes(raw), reply.headers.get("Content-Encoding", ""), _LARGEST_ANSWER)
        return reply.status_code, self._clean(text.decode("utf-8", "replace")), dict(reply.headers)

    def _refuse(self, code: int, text: str, headers: dict[str, str]) -> None:
        """Raise what a status other than 200 means."""
        said = f"HTTP {code}: {shown(text)}"
        if code in RETRIED or code >= 500:
            raise _TransientError(said, retry_after(headers.get("retry-after")))
        if 300 <= code < 400:
            raise UserError(
                "the endpoint answers with a redirect",
                got=f"HTTP {code} to {shown(self._clean(headers.get('location', 'nowhere')))}",
                expected="an answer from this address (the key is for no other host)",
                remedy="pass the final address",
            )
        if code in REFUSED:
            raise UserError(
                REFUSED[code],
                got=said,
                expected="an OpenAI-compatible server that knows key and model",
                remedy=f"check address, model and the environment variable {self._remote.key_env}",
            )
        raise RemoteError(said, refused=True)

    def _clean(self, text: str) -> str:
        """Text without the key: servers like to repeat a key that they refuse."""
        return text.replace(self._key, "[key]") if self._key else text
