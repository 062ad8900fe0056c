"""Results of other programs as tests need them: recorded ones, made ones, and damage done to them."""

import json
import random
import shutil
from pathlib import Path

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures" / "foreign"
ITEMS = 40


def answers(seed, share, number=ITEMS):
    """Right or wrong, drawn for a made model."""
    rng = random.Random(seed)
    return [float(rng.random() < share) for _ in range(number)]


MADE = {"a": answers(1, 0.5), "b": answers(2, 0.9)}


class Rows:
    """A result whose items are rows of a file, so that tests can change them."""

    def __init__(self, folder, name):
        self.folder, self.name = folder, name

    def path(self):
        """What the command line is given."""

    def file(self):
        """The file of the rows."""
        return self.path()

    def read(self):
        return [json.loads(line) for line in self.file().read_text(encoding="utf-8").splitlines()]

    def write(self, rows):
        self.file().write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


class Plain(Rows):
    def __init__(self, folder, name):
        super().__init__(folder, name)
        self.write([{"id": f"q{i}", "score": s, "prompt": f"Is it {i}?"} for i, s in enumerate(MADE[name])])

    def path(self):
        return self.folder / f"{self.name}.jsonl"


class Annotations(Rows):
    def __init__(self, folder, name):
        super().__init__(folder, name)
        rows = [
            {
                "instruction": f"What is {i}?",
                "output_1": "A number.",
                "output_2": f"It is {i}, says {name}.",
                "generator_1": "reference",
                "generator_2": name,
                "annotator": "judge",
                "preference": 1.0 + score,
            }
            for i, score in enumerate(MADE[name])
        ]
        self.write(rows)

    def path(self):
        return self.folder / f"{self.name}.json"

    def read(self):
        return json.loads(self.path().read_text(encoding="utf-8"))

    def write(self, rows):
        self.path().write_text(json.dumps(rows), encoding="utf-8")


class LmEval(Rows):
    """The rows are those of one of its tasks."""

    task = "storycloze_2016"

    def __init__(self, folder, name):
        super().__init__(folder, name)
        shutil.copytree(FIXTURES / "lm_eval" / name, folder / name)

    def path(self):
        return self.folder / self.name

    def file(self):
        return next(self.path().glob(f"*/samples_{self.task}_*.jsonl"))

    def results(self):
        return next(self.path().glob("*/results_*.json"))


class InspectJson(Rows):
    def __init__(self, folder, name):
        super().__init__(folder, name)
        shutil.copy(FIXTURES / "inspect" / f"{name}_json.json", self.path())

    def path(self):
        return self.folder / f"{self.name}.json"

    def read(self):
        return json.loads(self.path().read_text(encoding="utf-8"))["samples"]

    def write(self, rows):
        log = json.loads(self.path().read_text(encoding="utf-8"))
        self.path().write_text(json.dumps({**log, "samples": rows}), encoding="utf-8")


KINDS = {"jsonl": Plain, "alpaca_eval": Annotations, "lm_eval": LmEval, "inspect": InspectJson}


def as_lm_eval_045(result):
    """The layout of lm-eval 0.4.5 made of a newer one: samples do not name their filter and metrics."""
    table = json.loads(result.results().read_text(encoding="utf-8"))
    for key in ("lm_eval_version",):
        table.pop(key, None)
    result.results().write_text(json.dumps(table), encoding="utf-8")
    for path in result.path().glob("*/samples_*.jsonl"):
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        for row in rows:
            del row["filter"], row["metrics"]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
