"""An OpenAI-compatible summariser on this machine: sentences of the document, some with swapped facts."""

import json
import random
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from . import scorer_models as tiny


class Summariser:
    """Two sentences of the document, drawn with the request's seed; a share `swap` names another place."""

    def __init__(self, swap=0.0):
        owner = self
        self.swap, self.calls = swap, 0

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_):
                """Silence."""

            def do_GET(self):
                owner.send(self, {"data": [{"id": "summariser"}]})

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                message = {"role": "assistant", "content": owner.summary(body)}
                choice = {"index": 0, "message": message, "finish_reason": "stop"}
                owner.send(self, {"id": "x", "object": "chat.completion", "choices": [choice], "usage": {}})

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"

    def summary(self, body):
        self.calls += 1
        text = body["messages"][-1]["content"].removesuffix("\n\nTL;DR:")
        rng = random.Random(f"{body.get('seed')} {text}")
        chosen = rng.sample(text.rstrip(".").split(". "), 2)
        degrade = random.Random(f"{body.get('seed')} {text} swap")
        facts = [tiny.swapped(c + ".", degrade) if degrade.random() < self.swap else c + "." for c in chosen]
        return " ".join(facts)

    def send(self, handler, payload):
        data = json.dumps(payload).encode()
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
