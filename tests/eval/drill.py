"""Healthy pairs of runs, each KEPT, and the ways to break them: the mutation drill's stages.

A stage measures and gates: `stage()` the healthy pair, `stage(change)` the same pair after one change. It
gives the exit code; a run that is refused counts with its own.
"""

import dataclasses
import json
import random
import shutil

from eval_harness.cli.app import main
from eval_harness.run.folder import read_items, read_result, write_run
from eval_harness.types import NO_ANSWER

from .judge_server import Judge
from .runs import METRIC, make_run, values
from .summary_server import Summariser

SIDES = values(280, 6, 6, 108)
GATES = "version: 1\nmargin: 0.05\ngates: {alpha: {}, beta: {}}\n"


def call(*args):
    return main([str(arg) for arg in args])


class Records:
    """Run folders made of numbers; a change gets the candidate's folder and may write into it."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, change=None):
        for name, side in (("a", 0), ("b", 1)):
            make_run(self.folder / name, {"alpha": SIDES[side], "beta": SIDES[side]}, name)
        (self.folder / "gates.yaml").write_text(GATES)
        if change is not None:
            change(self.folder / "a")
        run, other = self.folder / "a", self.folder / "b"
        return call("gate", run, "--baseline", other, "--gates", self.folder / "gates.yaml")


def result(**changes):
    """Change fields of the candidate's result, by value or as a function of the old one."""

    def change(folder):
        old = read_result(folder)
        made = {k: v(getattr(old, k)) if callable(v) else v for k, v in changes.items()}
        write_run(folder, dataclasses.replace(old, **made), read_items(folder))

    return change


def items(change):
    """Change the candidate's items, and its result's means with them."""

    def changed(folder):
        write_items(folder, change(read_items(folder)))

    return changed


def write_items(folder, made):
    lines = (json.dumps(dataclasses.asdict(item)) for item in made)
    (folder / "items.jsonl").write_text("".join(line + "\n" for line in lines))


def first(**changes):
    return items(lambda made: [dataclasses.replace(made[0], **changes), *made[1:]])


def both(change):
    """The same change in candidate and baseline, whose folder lies beside it."""

    def changed(folder):
        for name in ("a", "b"):
            change(folder.parent / name)

    return changed


def remade(ours, theirs, clusters=None, **changes):
    """Both runs anew, of other values of the task alpha."""

    def change(folder):
        (folder.parent / "gates.yaml").write_text("version: 1\nmargin: 0.05\ngates: {alpha: {}}\n")
        make_run(folder, {"alpha": ours}, "a", clusters=clusters, **changes)
        make_run(folder.parent / "b", {"alpha": theirs}, "b", clusters=clusters, **changes)

    return change


def smaller_is_better(folder):
    """A metric that is better when smaller, and rises from 0.3 to 0.5."""
    remade([0, 1] * 200, [0, 1, 0, 0, 1] * 60 + [0] * 100)(folder)
    for run in (folder, folder.parent / "b"):
        old = read_result(run)
        scores = tuple(dataclasses.replace(score, higher_is_better=False) for score in old.scores)
        write_run(run, dataclasses.replace(old, scores=scores), read_items(run))


def one_direction_only(folder):
    old = read_result(folder.parent / "b")
    scores = (dataclasses.replace(old.scores[0], higher_is_better=False), *old.scores[1:])
    write_run(folder.parent / "b", dataclasses.replace(old, scores=scores), read_items(folder.parent / "b"))
    text = 'version: 1\ngates: {all: {tasks: ["*"], metric: "acc,none"}}\n'
    (folder.parent / "gates.yaml").write_text(text)


def engine(**options):
    """Options of the candidate's engine that shape its prompts; the baseline has none."""

    def change(folder):
        for run, given in ((folder, options), (folder.parent / "b", {})):
            result(settings=lambda old, given=given: {**old, "engine": given, "prompting": given})(run)

    return change


def unjudged(folder):
    """A judge's metric of which a tenth is missing in the candidate."""
    for run, lacking in ((folder, 40), (folder.parent / "b", 0)):
        old, made = read_result(run), read_items(run)
        made = [
            dataclasses.replace(item, metrics={METRIC: None}) if number < lacking else item
            for number, item in enumerate(made)
        ]
        kept = [item.metrics[METRIC] for item in made if item.task == "alpha"][lacking:]
        scores = (dataclasses.replace(old.scores[0], value=sum(kept) / len(kept)), *old.scores[1:])
        write_run(run, dataclasses.replace(old, scores=scores, max_unjudged=0.02), made)


class Models:
    """A tiny trained model and its copy on generated tasks; a change gets the copy, may return another."""

    def __init__(self, folder, trained, tasks):
        self.folder, self.trained, self.tasks = folder, trained, tasks
        self.runs = 0

    def __call__(self, change=None):
        self.runs += 1
        copy = shutil.copytree(self.trained, self.folder / f"copy-{self.runs}")
        model = (change(copy) if change else None) or copy
        out = self.folder / f"out-{self.runs}"
        args = ["--model", model, "--baseline", self.trained, "--out", out, "--cache", self.folder / "cache"]
        args += ["--suites", f"reasoning:{self.tasks / 'tasks.yaml'}", "--data", self.tasks / "data.yaml"]
        args += ["--device", "cpu", "--dtype", "float32", "--batch-size", "64"]
        return call("run", *args) or call("gate", out, "--gates", self.tasks / "gates.yaml")


SUMMARIES = """
version: 1
suite: faithfulness
prompt: "{document}"
temperatures: [0]
samples: 1
max_new_tokens: 32
scorers: {rouge: {against: document, measure: precision}, content: {}}
"""
SUMMARY_GATES = """
version: 1
gates:
  support: {tasks: ["*"], metric: "rouge2,none", margin: 0.06, graded: true}
  content: {tasks: ["*"], metric: "content,none", margin: 0.06, graded: true}
"""


class Answers:
    """Two endpoints that summarise; a change says what the candidate's server replies to a document."""

    def __init__(self, folder, documents):
        self.folder, self.runs = folder, 0
        (folder / "docs.jsonl").write_text("".join(json.dumps({"document": d}) + "\n" for d in documents))
        (folder / "mine.yaml").write_text(SUMMARIES)
        (folder / "gates.yaml").write_text(SUMMARY_GATES)

    def __call__(self, change=None):
        self.runs += 1
        out = self.folder / f"out-{self.runs}"
        with Server(change or whole(two_sentences)) as candidate, Server(whole(two_sentences)) as baseline:
            args = [
                "--model",
                candidate.url,
                "--baseline",
                baseline.url,
                "--model-id",
                "m",
                "--device",
                "cpu",
            ]
            args += [
                "--suites",
                f"faithfulness:{self.folder / 'mine.yaml'}",
                "--endpoint",
                "chat",
                "--out",
                out,
            ]
            args += ["--documents", self.folder / "docs.jsonl", "--cache", self.folder / f"cache-{self.runs}"]
            code = call("run", *args, "--engine", "retries=0", "--engine", "backoff=0.0")
        return code or call("gate", out, "--gates", self.folder / "gates.yaml")


class Server(Summariser):
    """A chat endpoint whose choice is `reply(document)`; None refuses the question."""

    def __init__(self, reply):
        super().__init__()
        self.reply = reply

    def summary(self, body):
        return body["messages"][-1]["content"]

    def send(self, handler, payload):
        for choice in payload.get("choices", ()):
            choice |= self.reply(choice["message"]["content"])
        super().send(handler, payload)


def two_sentences(document):
    return ". ".join(random.Random(document).sample(document.rstrip(".").split(". "), 2)) + "."


def whole(say):
    return lambda document: {"message": {"role": "assistant", "content": say(document)}}


def reply(content, finish="stop"):
    return lambda document: {"message": {"role": "assistant", "content": content}, "finish_reason": finish}


class Duel:
    """Texts of files, judged over HTTP; a change is the options of the judge's server."""

    def __init__(self, folder, files, run):
        self.folder, self.files, self.run, self.runs = folder, files, run, 0

    def __call__(self, change=None):
        from .test_win_rate import http

        self.runs += 1
        options = {"say": honest, **(change or {})}
        out = f"out-{self.runs}"
        with Judge(**options) as server:
            code = self.run(*self.files, *http(server, retries=0), out=out, cache=f"cache-{self.runs}")
        return code or call("gate", self.folder / out, "--gates", "win_rate-kept")


def honest(first, second):
    """GOOD wins; else a tie."""
    return {(True, False): "A", (False, True): "B"}.get(("GOOD" in first, "GOOD" in second), "C")


NOT_CAME = first(outputs=[NO_ANSWER])
