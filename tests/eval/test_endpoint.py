"""An OpenAI-compatible endpoint, served here by a tiny model: the same scores as the hf backend."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from eval_harness.run.folder import read_items, read_result

from .conftest import BBH

TASKS = f"{BBH},ifeval"
FAST = ["--dtype", "float32", "--generation", "max_gen_toks=8", "--batch-size", "1"]


class Handler(BaseHTTPRequestHandler):
    """Completions with token prompts, echo and log-probabilities; chat completions; a model list."""

    model = tokenizer = None
    fail_after = None
    calls = 0

    def log_message(self, *_):
        """Silence."""

    def reply(self, body, code=200):
        raw = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def do_GET(self):
        self.reply({"data": [{"id": "tiny"}]})

    def do_POST(self):
        cls = type(self)
        cls.calls += 1
        if cls.fail_after is not None and cls.calls > cls.fail_after:
            return self.reply({"error": "gone"}, 500)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path.endswith("/chat/completions"):
            content = f"{len(body['messages'])} messages, {body['max_tokens']} tokens"
            return self.reply({"choices": [{"index": 0, "message": {"content": content}}]})
        prompts = body["prompt"] if isinstance(body["prompt"][0], list) else [body["prompt"]]
        act = self.score if body.get("echo") else self.generate
        return self.reply({"choices": [{"index": i, **act(p, body)} for i, p in enumerate(prompts)]})

    def score(self, tokens, body):
        import torch

        with torch.no_grad():
            logs = self.model(torch.tensor([tokens])).logits[0].log_softmax(-1)
        picked = [None] + [float(logs[i, t]) for i, t in enumerate(tokens[1:])]
        top = [None] + [{"x": float(logs[i].max())} for i in range(len(tokens) - 1)]
        # one generated token follows the echo, which lm-eval drops
        return {
            "text": "",
            "logprobs": {"token_logprobs": [*picked, 0.0], "top_logprobs": [*top, {"x": 0.0}]},
        }

    def generate(self, tokens, body):
        import torch

        with torch.no_grad():
            done = self.model.generate(
                torch.tensor([tokens]), max_new_tokens=body["max_tokens"], do_sample=False
            )
        text = self.tokenizer.decode(done[0, len(tokens) :], skip_special_tokens=True)
        for stop in body["stop"]:
            text = text.split(stop)[0] if stop else text
        return {"text": text}


@pytest.fixture
def url(model_a):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pytest.importorskip("tenacity", reason="lm-eval[api] is not installed")
    Handler.model = AutoModelForCausalLM.from_pretrained(model_a, dtype="float32").eval()
    Handler.tokenizer = AutoTokenizer.from_pretrained(model_a)
    Handler.calls, Handler.fail_after = 0, None
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()
    server.server_close()


def test_same_scores_as_the_hf_backend_and_cached(cli, url, model_a, tmp_path):
    args = ["--model", url, "--tokenizer", model_a, "--model-id", "tiny-a", "--tasks", TASKS, *FAST]
    assert cli(*args) == 0
    calls = Handler.calls
    assert calls == 8 * 2 + 8
    assert cli("--model", model_a, "--tasks", TASKS, *FAST, out=tmp_path / "hf") == 0
    ours, theirs = read_result(tmp_path / "out"), read_result(tmp_path / "hf")
    assert [(s.task, s.metric, s.value) for s in ours.scores] == [
        (s.task, s.metric, s.value) for s in theirs.scores
    ]
    for one, two in zip(read_items(tmp_path / "out"), read_items(tmp_path / "hf"), strict=True):
        assert one.prompt_hash == two.prompt_hash
        if one.task == BBH:
            assert [o[0] for o in one.outputs] == pytest.approx([o[0] for o in two.outputs], abs=1e-4)
        else:
            assert one.outputs == two.outputs
    assert cli(*args, out=tmp_path / "again") == 0
    assert Handler.calls == calls
    args[args.index("tiny-a")] = "tiny-b"
    assert cli(*args, out=tmp_path / "other") == 0
    assert read_result(tmp_path / "other").counts["reused"] == 0


def test_chat_endpoint_answers_generated_tasks(cli, url, tmp_path, capfd):
    args = ["--model", url, "--model-id", "x", "--endpoint", "chat", "--generation", "max_gen_toks=8"]
    assert cli(*args, "--tasks", "ifeval") == 0
    assert {tuple(i.outputs) for i in read_items(tmp_path / "out")} == {("1 messages, 8 tokens",)}
    assert cli(*args, "--tasks", BBH, out=tmp_path / "two") == 2
    assert "no log-probabilities" in capfd.readouterr().err


def test_an_endpoint_that_dies_keeps_what_it_answered(cli, url, model_a, capfd, tmp_path):
    args = [
        "--model",
        url,
        "--tokenizer",
        model_a,
        "--model-id",
        "tiny-a",
        "--tasks",
        BBH,
        *FAST,
        "--engine",
        "max_retries=1",
    ]
    Handler.fail_after = 5
    assert cli(*args) == 2
    assert "finished answers are kept" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
    Handler.fail_after = None
    assert cli(*args) == 0
    counts = read_result(tmp_path / "out").counts
    assert (counts["reused"], counts["computed"]) == (5, 11)


@pytest.mark.parametrize(
    ("args", "message"), [(["--tokenizer", "@"], "--model-id"), (["--model-id", "x"], "--tokenizer")]
)
def test_what_an_endpoint_needs(cli, url, model_a, capfd, args, message):
    args = [str(model_a) if a == "@" else a for a in args]
    assert cli("--model", url, *args, "--tasks", BBH) == 2
    assert message in capfd.readouterr().err


def test_without_cache_no_model_id_is_needed(cli, url, model_a):
    assert (
        cli("--model", url, "--tokenizer", model_a, "--tasks", BBH, "--limit", "1", "--no-cache", *FAST) == 0
    )


def test_endpoint_not_reachable(cli, model_a, capfd, tmp_path):
    args = ["--model", "http://127.0.0.1:9/v1", "--model-id", "x", "--tokenizer", model_a, "--tasks", BBH]
    assert cli(*args) == 2
    assert "endpoint not reachable" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()
