"""A suite in a folder of its own: one file and one decorator, no other file of the harness touched."""

import json
import sys
import textwrap

import pytest

import eval_harness
from eval_harness.cli.app import main
from eval_harness.run import registry
from eval_harness.run.folder import read_items, read_result

SUITE = '''
"""How often a word stands in the texts of a file: all that a suite is."""

import dataclasses
import json
from pathlib import Path

from eval_harness.errors import UserError
from eval_harness.files.rows import read_rows, text_field
from eval_harness.models.identity import sha
from eval_harness.run.job import Measured
from eval_harness.run.preset import Limit, Preset, smaller
from eval_harness.run.registry import Suite, register_suite
from eval_harness.types import ItemRecord, ModelIdentity, Score


class WordPreset(Preset):
    word: str
    limit: Limit = None

    def tasks(self):
        return {"texts": self.word}

    def task_lines(self):
        return [f"texts  {self.word}"]

    def selected(self, tasks, limit):
        return self.model_copy(update={"limit": smaller(limit, self.limit)})


@dataclasses.dataclass(frozen=True)
class WordOptions:
    shout: bool = False


@register_suite("word_count")
class WordCount(Suite[WordPreset, WordOptions]):
    default_preset = "words"
    preset_type = WordPreset

    def add_flags(self, group):
        group.add_argument("--shout", action="store_true", help="the word in capitals")

    def options(self, args):
        return WordOptions(args.shout)

    def describe(self, job):
        return f"word_count:{job.preset.name} ok"

    def prepare(self, job):
        if job.ref.kind != "outputs":
            raise UserError("word_count reads files of texts", got=job.ref.kind, expected="a .jsonl file")
        return Plan(job, [text_field(row, "output", "a row") for row in read_rows(job.ref.path)])


@dataclasses.dataclass(frozen=True)
class Plan:
    job: object
    texts: list

    @property
    def key(self):
        parts = [self.texts, self.job.preset.model_dump(), self.job.options.shout]
        return sha(json.dumps(parts))

    @property
    def model(self):
        return ModelIdentity("outputs", self.job.ref.path.stem, str(len(self.texts)), "none")

    def line(self):
        return f"word_count ok: {len(self.texts)} texts"

    def measure(self, store):
        word = self.job.preset.word.upper() if self.job.options.shout else self.job.preset.word
        texts = self.texts[: self.job.preset.limit]
        shares = [float(word in text.split()) for text in texts]
        items = [
            ItemRecord("texts", i, str(i), str(i), str(i), {"lacks,none": 1 - s}, [t], word, f"text {i}")
            for i, (s, t) in enumerate(zip(shares, texts))
        ]
        lacking = 1 - sum(shares) / len(shares)
        score = Score("texts", "lacks,none", lacking, None, len(texts), main=True, higher_is_better=False)
        return Measured((score,), items, {"items": len(texts)}, facts=(("word", word),))

    def leave(self, folder):
        (folder / "word.txt").write_text(self.job.preset.word)
'''


@pytest.fixture
def suite(tmp_path, monkeypatch):
    """The suite's folder on eval_harness's path, forgotten afterwards; its presets in files of their own."""
    package = tmp_path / "more" / "word_count"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "suite.py").write_text(textwrap.dedent(SUITE))
    registry.names()  # the shipped ones are imported once and must stay known
    monkeypatch.setattr(eval_harness, "__path__", [*eval_harness.__path__, str(tmp_path / "more")])
    monkeypatch.setattr(registry, "_SUITES", dict(registry._SUITES))
    preset = tmp_path / "words.yaml"
    preset.write_text("version: 1\nsuite: word_count\ntitle: the word yes\nword: yes!\n")
    yield preset
    for name in ("eval_harness.word_count.suite", "eval_harness.word_count"):
        sys.modules.pop(name, None)


def texts(path, right, wrong):
    rows = [{"output": "I say yes! now"}] * right + [{"output": "I say nothing"}] * wrong
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_folder_with_one_file_is_a_suite(suite, tmp_path, capsys):
    better, worse = texts(tmp_path / "better.jsonl", 90, 10), texts(tmp_path / "worse.jsonl", 40, 60)
    args = ["--suites", f"word_count:{suite}", "--cache", tmp_path / "cache"]

    def run(model, baseline, out, *more):
        fixed = ["run", "--model", model, "--baseline", baseline, "--out", tmp_path / out]
        return main([str(arg) for arg in (*fixed, *args, *more)])

    assert run(better, worse, "out") == 0
    assert "lacks,none" in capsys.readouterr().out
    result = read_result(tmp_path / "out")
    assert (result.suite, result.facts, result.counts) == ("word_count", (("word", "yes!"),), {"items": 100})
    assert result.score("texts", "lacks,none").value == pytest.approx(0.1)
    assert len(read_items(tmp_path / "out" / "baseline")) == 100
    assert (tmp_path / "out" / "word.txt").read_text() == "yes!"
    # its direction and its facts reach the gate, which has not heard of it
    assert main(["compare", str(tmp_path / "out"), str(tmp_path / "out" / "baseline")]) == 0
    assert "+0.500" in capsys.readouterr().out
    (tmp_path / "gates.yaml").write_text("version: 1\ngates: {texts: {margin: 0.1}}\n")
    gates = ["--gates", str(tmp_path / "gates.yaml")]
    assert main(["gate", str(tmp_path / "out"), *gates]) == 0
    assert "word: yes!" in capsys.readouterr().out
    assert run(worse, better, "back") == 0
    assert main(["gate", str(tmp_path / "back"), *gates]) == 1
    # flags, limits, dry run and validate are the harness's
    assert run(better, worse, "loud", "--shout", "--limit", "7") == 0
    assert read_result(tmp_path / "loud").score("texts", "lacks,none").value == 1.0
    assert read_result(tmp_path / "loud").counts["items"] == 7
    capsys.readouterr()
    assert run(better, worse, "dry", "--dry-run") == 0
    assert "word_count ok: 100 texts" in capsys.readouterr().out
    assert main(["validate", "--suites", f"word_count:{suite}"]) == 0
    assert "word_count:words ok" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("word:", "wrd:", "preset words: unknown key; got: wrd; expected: did you mean word?"),
        ("word: yes!", "", "preset words: missing key"),
        ("version: 1", "version: 0", "preset words: version; got: 0; expected: an integer of at least 1"),
        ("suite: word_count", "suite: reasoning", "got: suite reasoning; expected: suite word_count"),
        ("version: 1", "version: 1\nlimit: -3", "preset words: limit"),
    ],
)
def test_its_mistakes_are_one_line_too(suite, tmp_path, capsys, old, new, message):
    suite.write_text(suite.read_text().replace(old, new))
    model = str(texts(tmp_path / "t.jsonl", 1, 1))
    args = ["run", "--suites", f"word_count:{suite}", "--model", model, "--out", str(tmp_path / "out")]
    assert main(args) == 2
    said = capsys.readouterr().err.strip()
    assert message in said
    assert "\n" not in said
    assert not (tmp_path / "out").exists()


def test_without_its_folder_nobody_knows_it(capsys):
    assert main(["run", "--suites", "word_count", "--model", "m", "--out", "o"]) == 2
    assert "unknown suite" in capsys.readouterr().err
