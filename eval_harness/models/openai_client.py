"""A client for OpenAI-compatible servers: whole answers or a named failure, retries, no key in any text."""

import email.utils
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from eval_harness.errors import UserError, first_line

T = TypeVar("T")

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
_REFUSED = {401: "the endpoint refuses the key", 403: "the endpoint refuses the key", 404: "no such endpoint"}
_LONGEST_WAIT = 60.0  # seconds, for our own backoff
_LARGEST_ANSWER = 32 << 20  # bytes


class RemoteError(Exception):
    """One question got no answer; the text is one line without secrets.

    `refused`: the server is there and refuses this question; else nobody answered in all tries.
    """

    def __init__(self, text: str, refused: bool = False) -> None:
        super().__init__(text)
        self.refused = refused


class _TransientError(Exception):
    """Worth another try, after `wait` seconds where the server said so."""

    def __init__(self, text: str, wait: float | None = None) -> None:
        super().__init__(text)
        self.wait = wait


@dataclass(frozen=True)
class Remote:
    """Where and how to ask.

    The key is read from the environment variable `key_env` when a client is made and is kept nowhere else.
    `timeout` is for one whole try, in seconds; a slow stream does not prolong it. `retries` follow a first
    try that failed by 429, 5xx, time-out, broken connection or an answer that is no JSON; the waits grow from
    `backoff` seconds, and `Retry-After` is honoured up to `longest_wait` seconds.
    """

    url: str
    key_env: str = "OPENAI_API_KEY"
    timeout: float = 120.0
    retries: int = 5
    backoff: float = 1.0
    longest_wait: float = 300.0

    def checked(self) -> "Remote":
        """Return self. Raises UserError for an address that cannot be asked, or that holds a secret."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UserError("endpoint address", got=self.url, expected="http(s)://HOST/v1")
        if parts.username or parts.password or parts.query:
            raise UserError(
                "an endpoint address must hold no secret",
                got=f"{parts.scheme}://{parts.hostname}/... with a user, a password or a query",
                expected="http(s)://HOST/v1",
                remedy=f"put the key into the environment variable {self.key_env}",
            )
        if self.timeout <= 0 or self.retries < 0 or self.backoff < 0:
            raise UserError(
                "timeout, retries, backoff",
                got=(self.timeout, self.retries, self.backoff),
                expected="a positive number, an integer of at least 0, a number of at least 0",
            )
        return self


class Client:
    """Safe for use by several threads."""

    def __init__(self, remote: Remote) -> None:
        """Read the key and open the connection pool."""
        import httpx

        self._remote = remote.checked()
        self._key = os.environ.get(remote.key_env, "").strip()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._http = httpx.Client(headers=headers, timeout=remote.timeout, limits=httpx.Limits())

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def reach(self) -> None:
        """Raise UserError where no server answers, or it refuses the key."""
        import httpx

        try:
            code = self._http.get(f"{self._remote.url.rstrip('/')}/models", timeout=10).status_code
        except httpx.HTTPError as error:
            raise UserError(
                "endpoint not reachable",
                got=f"{self._remote.url}: {self._clean(first_line(error))}",
                expected="an OpenAI-compatible server",
                remedy="start it, or correct the address (it usually ends in /v1)",
            ) from None
        if code in (401, 403):
            self._refuse(code, "", None)

    def post(self, path: str, body: dict[str, Any], read: Callable[[dict[str, Any]], T]) -> T:
        """What `read` finds in the server's JSON object; an object of another shape is asked for again.

        Raises:
          RemoteError: no answer after all tries, or the server refuses this question (400, 413, 422).
          UserError: the server refuses every question: wrong key, no such model or path.
        """
        import tenacity

        tries = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(self._remote.retries + 1),
            wait=self._wait,
            retry=tenacity.retry_if_exception_type(_TransientError),
            reraise=True,
        )
        try:
            answer: T = tries(self._read, path, body, read)
        except _TransientError as error:
            raise RemoteError(f"{error} ({self._remote.retries + 1} tries)") from None
        return answer

    def _read(self, path: str, body: dict[str, Any], read: Callable[[dict[str, Any]], T]) -> T:
        answer = self._once(path, body)
        try:
            return read(answer)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise _TransientError(f"an answer of another shape: {first_line(error, 80)}") from None

    def _wait(self, state: Any) -> float:
        import tenacity

        error = state.outcome.exception()
        if isinstance(error, _TransientError) and error.wait is not None:
            return min(max(error.wait, 0.0), self._remote.longest_wait)
        own = tenacity.wait_random_exponential(multiplier=self._remote.backoff, max=_LONGEST_WAIT)
        return float(own(state))

    def _once(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        import httpx

        end = time.monotonic() + self._remote.timeout
        raw = bytearray()
        try:
            with self._http.stream("POST", f"{self._remote.url.rstrip('/')}/{path}", json=body) as reply:
                for chunk in reply.iter_bytes():
                    raw += chunk
                    if time.monotonic() > end or len(raw) > _LARGEST_ANSWER:
                        raise _TransientError(f"no whole answer in {self._remote.timeout:g} s")
        except httpx.TimeoutException:
            raise _TransientError(f"no answer in {self._remote.timeout:g} s") from None
        except httpx.HTTPError as error:
            raise _TransientError(self._clean(first_line(error))) from None
        text = self._clean(raw.decode("utf-8", "replace"))
        if reply.status_code != 200:
            self._refuse(reply.status_code, text, reply.headers.get("Retry-After"))
        try:
            answer = json.loads(text)
        except ValueError:
            raise _TransientError(f"the answer is no JSON: {text[:60]!r}") from None
        if not isinstance(answer, dict):
            raise _TransientError(f"the answer is no JSON object: {text[:60]!r}")
        return answer

    def _refuse(self, code: int, text: str, after: str | None) -> None:
        said = " ".join(text.split())[:120]
        if code in _RETRIED or code >= 500:
            raise _TransientError(f"HTTP {code}: {said}", retry_after(after))
        if code in _REFUSED:
            raise UserError(
                _REFUSED[code],
                got=f"HTTP {code}: {said}",
                expected="an OpenAI-compatible server that knows key and model",
                remedy=f"check address, model and the environment variable {self._remote.key_env}",
            )
        raise RemoteError(f"HTTP {code}: {said}", refused=True)

    def _clean(self, text: str) -> str:
        """Text without the key: servers like to repeat a key that they refuse."""
        return text.replace(self._key, "[key]") if self._key else text


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, a number or a date; None where there is none or it is nonsense."""
    if value is None:
        return None
    try:
        return float(value)
    except ValueError:
        pass
    try:
        return email.utils.parsedate_to_datetime(value).timestamp() - time.time()
    except (TypeError, ValueError):
        return None
