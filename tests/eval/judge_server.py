"""An OpenAI-compatible judge on this machine that misbehaves on purpose, question by question.

Misbehaviours before the answer (each costs the client one try): timeout, 429, 500, garbage, truncated, slow,
closed, shape. An answer comes from `say(first, second)`, the two texts as the judge saw them.
"""

import json
import re
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SHOWN = re.compile(
    r"\[(?:answer|summary|reply) A (\w+)\]\n(.*?)\n\[end of \w+ A \1\].*"
    r"\[(?:answer|summary|reply) B \1\]\n(.*?)\n\[end of \w+ B \1\]",
    re.DOTALL,
)
LOUD = ("timeout", "429", "500", "garbage", "truncated", "slow", "closed", "shape")


def texts(body):
    """The two texts of a request, in the order in which the judge sees them."""
    match = SHOWN.search(body["messages"][-1]["content"])
    return match[2], match[3]


class Judge:
    """A server; `plan(number of the question, in order of arrival)` names its misbehaviours in turn."""

    def __init__(self, say, plan=lambda number: (), chance=None, hold=3.0, text=None, finish="stop"):
        self.say, self.plan, self.chance, self.hold, self.text = say, plan, chance, hold, text
        self.finish = finish
        self.tries, self.answered, self.bodies, self.headers = Counter(), Counter(), [], []
        self.numbers, self.lock, self.after = {}, threading.Lock(), "0.01"
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                """Silence."""

            def do_POST(self):
                owner.serve(self)

            def do_GET(self):
                owner.send(self, json.dumps({"data": [{"id": "judge"}]}))

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, *_):
                """A client that gave up is no news."""

        self.server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    def serve(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        question = json.dumps(body["messages"])
        with self.lock:
            number = self.numbers.setdefault(question, len(self.numbers))
            turn = self.tries[question]
            self.tries[question] += 1
            self.bodies.append(body)
            self.headers.append(dict(handler.headers))
        steps = tuple(self.plan(number))
        if turn < len(steps):
            return self.misbehave(handler, steps[turn], body)
        self.send(handler, json.dumps(self.answer(body)))
        with self.lock:
            self.answered[question] += 1

    def answer(self, body):
        label = self.text if self.text is not None else self.say(*texts(body))
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": label},
            "finish_reason": self.finish,
        }
        if body.get("logprobs") and self.chance is not None:
            top = [{"token": t, "logprob": p} for t, p in self.chance(*texts(body)).items()]
            choice["logprobs"] = {"content": [{**top[0], "top_logprobs": top}]}
        return {"choices": [choice], "usage": {"prompt_tokens": 100, "completion_tokens": 1}}

    def misbehave(self, handler, step, body):
        whole = json.dumps(self.answer(body))
        if step == "timeout":
            time.sleep(self.hold)
            return self.send(handler, whole)
        if step.isdigit():
            return self.send(handler, '{"error": "no"}', int(step))
        if step == "garbage":
            return self.send(handler, "<html>the gateway is sorry</html>")
        if step == "truncated":
            return self.send(handler, whole[: len(whole) // 2])
        if step == "shape":
            return self.send(handler, '{"choices": []}')
        if step == "slow":
            handler.send_response(200)
            handler.end_headers()
            for sign in whole:
                handler.wfile.write(sign.encode())
                handler.wfile.flush()
                time.sleep(0.1)
        handler.close_connection = True

    def send(self, handler, text, code=200):
        raw = text.encode()
        handler.send_response(code)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(raw)))
        if code == 429:
            handler.send_header("Retry-After", self.after)
        handler.end_headers()
        handler.wfile.write(raw)


def prefers(word):
    """A rule: the text with the word wins, neither or both are a tie."""

    def say(first, second):
        return {(True, False): "A", (False, True): "B"}.get((word in first, word in second), "C")

    return say
