"""The client against servers that send nonsense: one line or a failed answer, in time, and never the key."""

import gzip
import json
import re
import socket
import threading
import time

import pytest

from eval_harness.errors import UserError
from eval_harness.models.http_answers import parse, retry_after, tokens_used
from eval_harness.models.openai_client import Client, Remote
from eval_harness.models.remote_answers import RemoteError, chat_text

KEY = "sk-canary-42"


class Raw:
    """A server of bytes: `reply(request)` gives (bytes, seconds to wait before them), then it hangs up."""

    def __init__(self, reply):
        self.reply, self.requests = reply, []
        self.socket = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}/v1"

    def serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection):
        with connection:
            text = self.read(connection)
            self.requests.append(text)
            try:
                for chunk, wait in self.reply(text):
                    time.sleep(wait)
                    connection.sendall(chunk)
            except OSError:
                pass  # the client hung up

    @staticmethod
    def read(connection):
        """The whole request: what is left unread would reset the connection."""
        text = ""
        while "\r\n\r\n" not in text:
            text += connection.recv(1 << 16).decode("latin-1")
        head, _, body = text.partition("\r\n\r\n")
        length = re.search(r"content-length: (\d+)", head, re.IGNORECASE)
        while length and len(body) < int(length[1]):
            body += connection.recv(1 << 16).decode("latin-1")
        return f"{head}\r\n\r\n{body}"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def http(body=b"{}", code="200 OK", *headers):
    lines = [f"HTTP/1.1 {code}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def ask(reply, read=lambda answer: answer, timeout=2.0, **options):
    """Post once to a server; returns what is read."""
    with Raw(reply) as server:
        client = Client(Remote(server.url, timeout=timeout, **{"retries": 0, "backoff": 0.0, **options}))
        try:
            return client.post("chat/completions", {"model": "m"}, read)
        finally:
            client.close()


def failure(chunks, **options):
    """What a server's bytes end in: the text of the RemoteError, and how long it took."""
    began = time.monotonic()
    with pytest.raises(RemoteError) as caught:
        ask(lambda _: chunks, **options)
    return str(caught.value), time.monotonic() - began


def dripping(text, wait):
    return [(bytes([sign]), wait) for sign in text]


def test_headers_that_drip_do_not_outlive_the_timeout():
    text, seconds = failure(dripping(http(), 0.1), timeout=1.0)
    assert "no whole answer" in text
    assert seconds < 2.5


def test_a_body_that_drips_does_not_outlive_the_timeout():
    head, body = http(b"x" * 400).split(b"\r\n\r\n")
    _, seconds = failure([(head + b"\r\n\r\n", 0), *dripping(body, 0.05)], timeout=1.0)
    assert seconds < 2.5


def test_an_endless_body_ends(monkeypatch):
    monkeypatch.setattr("eval_harness.models.openai_client._LARGEST_ANSWER", 1 << 20)

    def endless():
        yield b"HTTP/1.1 200 OK\r\n\r\n", 0
        while True:
            yield b"x" * 65536, 0

    text, _ = failure(endless(), timeout=30.0)
    assert "more than 1 MiB" in text


def test_a_body_that_explodes_when_it_is_inflated_is_refused(monkeypatch):
    monkeypatch.setattr("eval_harness.models.openai_client._LARGEST_ANSWER", 1 << 20)
    bomb = gzip.compress(b" " * (64 << 20))
    text, _ = failure([(http(bomb, "200 OK", "Content-Encoding: gzip"), 0)])
    assert "more than 1 MiB" in text
    small = gzip.compress(b'{"a": 1}')  # a proxy that compresses unasked
    assert ask(lambda _: [(http(small, "200 OK", "Content-Encoding: gzip"), 0)]) == {"a": 1}


@pytest.mark.parametrize(
    "chunks",
    [
        [(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", 0)],
        [(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{}", 0)],
        [(b"no http at all\r\n\r\n", 0)],
        [(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}", 0)],
        [(b"HTTP/1.1 200 OK\r\nX: " + b"y" * (1 << 20) + b"\r\n\r\n{}", 0)],
        [(b"", 0)],
    ],
)
def test_broken_http_is_one_failed_answer(chunks):
    failure(chunks)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"[" * 200_000, "no JSON"),
        (b'{"a": ' + b"[" * 3000 + b"]" * 3000 + b"}", "no JSON|too deeply"),
        (b'{"a": NaN}', "no JSON"),
        (b"<html>log in</html>", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b"7", "no JSON object"),
    ],
)
def test_bodies_that_are_no_answer(body, message):
    with pytest.raises(RemoteError, match=message):
        ask(lambda _: [(http(body), 0)])


@pytest.mark.parametrize(
    "value", ["nan", "inf", "-inf", "-5", "1e999", "soon", "Mon, 99 Foo 0000", "9" * 400]
)
def test_any_retry_after_is_survived(value):
    seconds = retry_after(value)
    assert seconds is None or seconds == seconds  # not NaN
    turns = []

    def reply(_):
        turns.append(1)
        if len(turns) > 1:
            return [(http(b'{"a": 1}'), 0)]
        return [(http(b"{}", "429 Too Many Requests", f"Retry-After: {value}"), 0)]

    assert ask(reply, retries=1, longest_wait=0.1) == {"a": 1}


@pytest.mark.parametrize(
    "usage", [{"n": 1e999}, {"n": -3}, {"n": "7"}, {"n": None}, {"n": [1]}, None, 7, "x"]
)
def test_any_usage_is_survived(usage):
    assert tokens_used({"usage": usage}, "n") == 0
    assert tokens_used({"usage": {"n": 7}}, "n") == 7
    assert parse('{"usage": {"n": 1e999}}')  # a JSON number beyond every float


def test_lone_surrogates_are_replaced():
    answer = parse('{"a": "x\\ud800y", "b": ["\\ude00"], "\\ud800": 1}')
    assert answer == {"a": "x?y", "b": ["?"], "?": 1}
    assert parse('{"a": "\\ud83d\\ude00"}') == {"a": "\U0001f600"}


def test_a_redirect_is_refused_and_the_key_stays_at_home(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with Raw(lambda _: [(http(b'{"a": 1}'), 0)]) as other:
        to = f"Location: {other.url}/{KEY}"
        for code in ("301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"):
            with pytest.raises(UserError, match="redirect") as caught:
                ask(lambda _, code=code: [(http(b"", code, to), 0)])
            assert KEY not in str(caught.value)
        with Raw(lambda _: [(http(b"", "302 Found", to), 0)]) as server:
            client = Client(Remote(server.url))
            with pytest.raises(UserError, match="redirect"):
                client.reach()
            client.close()
            assert f"Bearer {KEY}" in server.requests[0]
        assert other.requests == []


def test_a_login_page_is_no_list_of_models():
    with Raw(lambda _: [(http(b"<!doctype html><title>Log in</title>"), 0)]) as server:
        client = Client(Remote(server.url))
        with pytest.raises(UserError, match="web page"):
            client.reach()
        client.close()


def test_a_server_without_a_list_of_models_is_reached():
    with Raw(lambda _: [(http(b"no", "404 Not Found"), 0)]) as server:
        client = Client(Remote(server.url))
        client.reach()
        client.close()


def test_what_a_terminal_would_obey_is_escaped():
    with pytest.raises(RemoteError) as caught:
        ask(lambda _: [(http(b"\x1b[2J\x00 evil", "400 Bad Request"), 0)])
    assert "\x1b" not in str(caught.value)
    assert r"\x1b[2J\x00 evil" in str(caught.value)


@pytest.mark.parametrize("url", ["http://h:port/v1", "http://[::1/v1", "ftp://h/v1", "http:///v1", "h/v1"])
def test_addresses_that_are_none(url):
    with pytest.raises(UserError, match="endpoint address"):
        Remote(url).checked()


def test_a_key_that_no_header_can_carry_is_not_shown(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\u00e9")
    with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
        Client(Remote("http://127.0.0.1:9/v1"))
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    ("message", "finish"),
    [
        ({"content": None}, "length"),
        ({"content": None}, "stop"),
        ({}, None),
        ({"content": None, "reasoning_content": "hm"}, "length"),
        ({"content": ""}, "length"),
        ({"content": ""}, "content_filter"),
        ({"content": "half of"}, "content_filter"),
        ({"content": None, "tool_calls": [{"id": 1}]}, "tool_calls"),
        ({"content": "", "tool_calls": [{"id": 1}]}, "stop"),
    ],
)
def test_messages_without_an_answer_are_asked_for_once(message, finish):
    body = json.dumps({"choices": [{"message": message, "finish_reason": finish}]}).encode()
    turns = []

    def reply(_):
        turns.append(1)
        return [(http(body), 0)]

    with pytest.raises(RemoteError) as caught:
        ask(reply, lambda answer: chat_text(answer["choices"][0]), retries=3)
    assert caught.value.empty
    assert len(turns) == 1


@pytest.mark.parametrize(("text", "finish"), [("", "stop"), ("", None), ("half", "length"), ("a", "stop")])
def test_messages_with_an_answer(text, finish):
    assert chat_text({"message": {"content": text}, "finish_reason": finish}) == text
