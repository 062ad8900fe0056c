"""An OpenAI-compatible endpoint, served here by a tiny model: the same scores as the hf backend."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from eval_harness.errors import UserError
from eval_harness.gate.compare import FinishedRun, pair_runs
from eval_harness.models.answer_store import AnswerStore
from eval_harness.run.folder import read_items, read_result
from eval_harness.types import NO_ANSWER

from .conftest import BBH

TASKS = f"{BBH},ifeval"
FAST = ["--dtype", "float32", "--generation", "max_gen_toks=8", "--batch-size", "1"]


class Handler(BaseHTTPRequestHandler):
    """Completions with token prompts, echo and log-probabilities; chat completions; a model list."""

    model = tokenizer = None
    fail_after = None
    calls = 0
    key = None  # where set, the server serves nobody without it
    choice = None  # body -> (choice, HTTP code) of a chat completion, instead of the usual one
    bodies: ClassVar[list] = []

    def refused(self):
        if self.key is None or self.headers.get("Authorization") == f"Bearer {self.key}":
            return False
        self.reply({"error": "who are you?"}, 401)
        return True

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
        if not self.refused():
            self.reply({"data": [{"id": "tiny"}]})

    def do_POST(self):
        cls = type(self)
        if self.refused():
            return None
        cls.calls += 1
        if cls.fail_after is not None and cls.calls > cls.fail_after:
            return self.reply({"error": "gone"}, 500)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        cls.bodies.append(body)
        if self.path.endswith("/chat/completions") and cls.choice is not None:
            choice, code = cls.choice(body)
            return self.reply({"choices": [{"index": 0, **choice}]}, code)
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
    Handler.calls, Handler.fail_after, Handler.key, Handler.choice, Handler.bodies = 0, None, None, None, []
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
    ours_named, theirs_named = ({(s.task, s.metric): s.value for s in run.scores} for run in (ours, theirs))
    # Log-probabilities travel as decimal numbers; counts of right answers are the same.
    assert ours_named == pytest.approx(theirs_named, abs=1e-6)
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


CHAT = ["--model-id", "x", "--endpoint", "chat", "--tasks", "ifeval", "--generation", "max_gen_toks=8"]


def said(content, finish="stop", code=200, **message):
    """A server that answers all chats alike."""
    choice = {"message": {"content": content, **message}, "finish_reason": finish}
    return staticmethod(lambda body: (choice, code))


@pytest.mark.parametrize("concurrency", ["1", "4"])
def test_a_server_that_needs_a_key_gets_it_from_the_first_request(
    cli, url, model_a, monkeypatch, capfd, concurrency
):
    Handler.key = "sk-canary-42"
    args = ["--model", url, "--tokenizer", model_a, "--model-id", "a", "--tasks", TASKS, *FAST]
    args += ["--concurrency", concurrency]
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-canary")
    assert cli(*args) == 2
    error = capfd.readouterr().err
    assert "refuses the key" in error
    assert "canary" not in error
    monkeypatch.setenv("OPENAI_API_KEY", Handler.key)
    assert cli(*args) == 0
    assert Handler.calls == 8 * 2 + 8


def test_many_at_once_answer_as_one_after_the_other(cli, url, model_a, tmp_path):
    args = ["--model", url, "--tokenizer", model_a, "--model-id", "a", "--tasks", TASKS, *FAST]
    assert cli(*args, out=tmp_path / "one", cache=tmp_path / "c1") == 0
    assert cli(*args, "--concurrency", "4", out=tmp_path / "four", cache=tmp_path / "c4") == 0
    assert read_items(tmp_path / "one") == read_items(tmp_path / "four")


@pytest.mark.parametrize("concurrency", ["1", "4"])
@pytest.mark.parametrize(
    "nothing",
    [
        said(None, "length"),
        said(None, "length", reasoning_content="hm"),
        said("", "length"),
        said("", "content_filter"),
        said(None, "tool_calls", tool_calls=[{"id": "1"}]),
        said("<think>so long that no answer came", "length"),
    ],
)
def test_an_answer_that_did_not_come_is_none(cli, url, tmp_path, nothing, concurrency):
    """All models without answers answer alike: such a pair must not be KEPT."""
    Handler.choice = nothing
    args = ["--model", url, *CHAT, "--concurrency", concurrency]
    assert cli(*args) == 0
    result = read_result(tmp_path / "out")
    assert result.counts["failed"] == 8
    assert any("no answer" in note for note in result.notes)
    assert {tuple(i.outputs) for i in read_items(tmp_path / "out")} == {(NO_ANSWER,)}
    run = FinishedRun("candidate", result, read_items(tmp_path / "out"))
    with pytest.raises(UserError, match="failed items"):
        pair_runs(run, run._replace(name="baseline"))
    # and it is asked for again when there may be one
    Handler.choice = said("a, b")
    assert cli(*args, "--overwrite") == 0
    counts = read_result(tmp_path / "out").counts
    assert (counts["failed"], counts["reused"], counts["computed"]) == (0, 0, 8)


def test_an_empty_answer_that_the_model_ended_is_one_and_is_kept(cli, url, tmp_path):
    Handler.choice = said("", "stop")
    assert cli("--model", url, *CHAT) == 0
    assert read_result(tmp_path / "out").counts["failed"] == 0
    assert {tuple(i.outputs) for i in read_items(tmp_path / "out")} == {("",)}
    (tmp_path / "cache" / "runs").rename(tmp_path / "elsewhere")  # else the finished run is read back
    assert cli("--model", url, *CHAT, out=tmp_path / "again") == 0
    assert read_result(tmp_path / "again").counts["reused"] == 8
    assert {tuple(i.outputs) for i in read_items(tmp_path / "again")} == {("",)}


def test_nulls_that_were_cached_as_empty_texts_are_asked_for_again(cli, url, tmp_path):
    import sqlite3

    Handler.choice = said("a, b")
    assert cli("--model", url, *CHAT) == 0
    (tmp_path / "cache" / "runs").rename(tmp_path / "elsewhere")
    with sqlite3.connect(tmp_path / "cache" / "answers.sqlite") as db:
        db.execute("UPDATE answers SET value = '\"\"'")  # as it was stored before
    assert cli("--model", url, *CHAT, out=tmp_path / "again") == 0
    assert read_result(tmp_path / "again").counts["computed"] == 8
    assert {tuple(i.outputs) for i in read_items(tmp_path / "again")} == {("a, b",)}
    with sqlite3.connect(tmp_path / "cache" / "answers.sqlite") as db:
        assert {json.loads(value) for (value,) in db.execute("SELECT value FROM answers")} == {"a, b"}


def test_one_filtered_prompt_does_not_stop_the_run_but_a_refusing_server_does(cli, url, tmp_path, capfd):
    seen = []

    def filters_the_fifth(body):
        seen.append(body)
        if len(seen) == 5:
            return {"error": "content policy"}, 400
        return {"message": {"content": "a, b"}, "finish_reason": "stop"}, 200

    Handler.choice = staticmethod(filters_the_fifth)
    assert cli("--model", url, *CHAT) == 0
    assert read_result(tmp_path / "out").counts["failed"] == 1
    Handler.choice, Handler.calls = said("x", code=400), 0
    assert cli("--model", url, *CHAT, out=tmp_path / "two", cache=tmp_path / "c2") == 2
    error = capfd.readouterr().err
    assert "HTTP 400" in error
    assert Handler.calls == 3
    assert not (tmp_path / "two").exists()


def test_reasoning_is_removed_before_an_answer_is_graded_and_the_result_says_so(cli, url, tmp_path):
    Handler.choice = said("<think>one, two</think>\n\nthree")
    assert cli("--model", url, *CHAT) == 0
    assert {tuple(i.outputs) for i in read_items(tmp_path / "out")} == {("three",)}
    result = read_result(tmp_path / "out")
    assert result.facts[0][0] == "reasoning"
    assert result.settings["prompting"]["strip_thinking"] == "auto"
    assert cli("--model", url, *CHAT, "--strip-thinking", "no", out=tmp_path / "raw") == 0
    assert {tuple(i.outputs) for i in read_items(tmp_path / "raw")} == {("<think>one, two</think>\n\nthree",)}


def test_the_servers_template_is_told_of_the_thinking_switch(cli, url):
    args = ["--engine", "enable_thinking=false", "--engine", "chat_template_args={depth: 2}"]
    assert cli("--model", url, *CHAT, *args) == 0
    assert {str(b["chat_template_kwargs"]) for b in Handler.bodies} == {
        "{'depth': 2, 'enable_thinking': False}"
    }


def test_lone_surrogates_of_a_server_can_be_written_and_read_again(cli, url, tmp_path):
    Handler.choice = said("a\ud800b")
    for out in ("one", "two"):
        assert cli("--model", url, *CHAT, out=tmp_path / out) == 0
        assert {tuple(i.outputs) for i in read_items(tmp_path / out)} == {("a?b",)}


def test_lone_surrogates_in_the_cache_can_be_read(tmp_path):
    store = AnswerStore(tmp_path / "s.sqlite")
    store.write({"k": ["a\ud800b", {"t\udc00": "\udfff"}]})
    assert store.read(["k"]) == {"k": ["a?b", {"t?": "?"}]}
    store.close()


def test_a_server_without_log_probabilities_is_one_line(cli, url, model_a, capfd, monkeypatch):
    monkeypatch.setattr(Handler, "score", lambda self, tokens, body: {"text": "", "logprobs": None})
    args = ["--model", url, "--tokenizer", model_a, "--model-id", "a", "--tasks", BBH, *FAST]
    assert cli(*args, "--engine", "max_retries=1") == 2
    error = capfd.readouterr().err
    assert "endpoint failed during the run" in error
    assert "Traceback" not in error


def test_engine_options_of_an_endpoint_do_not_reach_the_local_model(cli, url, model_a, tmp_path, capfd):
    args = ["--model", url, "--tokenizer", model_a, "--model-id", "a", "--tasks", BBH, *FAST]
    args += ["--baseline", model_a]
    args += ["--engine", "timeout=60", "--engine", "max_retries=2", "--engine", "softmax_dtype=float64"]
    assert cli(*args) == 0
    ours, theirs = read_result(tmp_path / "out"), read_result(tmp_path / "out" / "baseline")
    assert ours.settings["engine"] == {"timeout": 60, "max_retries": 2}
    assert theirs.settings["engine"] == {"softmax_dtype": "float64"}
    assert cli(*args, "--engine", "tokenized_requests=true", "--engine", "peft=/x", out=tmp_path / "o2") == 2
    assert "peft" in capfd.readouterr().err
    assert cli(*args[:-6], "--engine", "tiemout=60", "--baseline", url, out=tmp_path / "o3") == 2
    assert "an option of no model in this run; got: tiemout" in capfd.readouterr().err


def test_a_mixed_run_renders_prompts_for_each_model_in_its_own_way(cli, url, model_a, tmp_path):
    """`--endpoint chat` is about the endpoint: the local model gets its template's text, not JSON."""
    args = ["--model", url, *CHAT, "--baseline", model_a, "--chat-template", "--dtype", "float32"]
    assert cli(*args) == 0
    assert read_items(tmp_path / "out")[0].prompt.startswith("('[{")
    assert read_items(tmp_path / "out" / "baseline")[0].prompt.startswith("<|user|>")
