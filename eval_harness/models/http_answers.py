"""What a server sends, made harmless: bounded, parsed strictly, without surprises for who reads it on."""

import email.utils
import json
import math
import time
import zlib
from typing import Any

from eval_harness.files.texts import printable, sound_json

RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
REFUSED = {401: "the endpoint refuses the key", 403: "the endpoint refuses the key", 404: "no such endpoint"}
_MOST_TOKENS = 1 << 40


def inflate(raw: bytes, encoding: str, most: int) -> bytes:
    """The body, decompressed where a server compresses unasked. Raises ValueError: beyond `most` bytes."""
    if encoding.strip().lower() not in ("gzip", "x-gzip", "deflate"):
        return raw
    try:
        inflated = zlib.decompressobj(zlib.MAX_WBITS | 32).decompress(raw, most + 1)
    except zlib.error as error:
        raise ValueError(f"a body that is not {encoding}") from error
    if len(inflated) > most:
        raise ValueError(f"an answer of more than {most >> 20} MiB")
    return inflated


def parse(text: str) -> dict[str, Any]:
    """A JSON object with texts that can be written. Raises ValueError: none, or NaN or infinity in it."""
    try:
        answer = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise ValueError("the answer is no JSON") from None
    if not isinstance(answer, dict):
        raise ValueError("the answer is no JSON object")
    try:
        return dict(sound_json(answer))
    except RecursionError:
        raise ValueError("the answer is nested too deeply") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def tokens_used(reply: dict[str, Any], name: str) -> int:
    """A count of the reply's usage, 0 where the server says none or nonsense."""
    usage = reply.get("usage")
    count = usage.get(name) if isinstance(usage, dict) else None
    sane = isinstance(count, int | float) and math.isfinite(count) and 0 <= count < _MOST_TOKENS
    return int(count) if sane else 0  # type: ignore[arg-type]


def retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, a number or a date; None where there is none or it is nonsense."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (TypeError, ValueError, OverflowError):
            return None
    return seconds if math.isfinite(seconds) else None


def shown(text: str, most: int = 120) -> str:
    """The beginning of a server's text, on one line, without control characters."""
    return printable(" ".join(text.split())[:most])
