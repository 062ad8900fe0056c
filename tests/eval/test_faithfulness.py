"""The faithfulness suite on the command line: run, gate, report, resume, bad input."""

import json
import random
import shutil

import pytest

from eval_harness.cli.app import main
from eval_harness.faithfulness.text.sentences import split_sentences
from eval_harness.faithfulness.text.words import says_nothing
from eval_harness.run.folder import read_items, read_result

from . import scorer_models as tiny
from .summary_server import Summariser

PRESET = """
version: 1
suite: faithfulness
prompt: "{document}\\n\\nTL;DR:"
temperatures: [0.7]
samples: 3
max_new_tokens: 16
scorers: %s
"""
GATES = """
version: 1
gates:
  names: {tasks: ["summaries_t*"], metric: "entity_overlap,none", margin: 0.05}
  nli: {tasks: ["summaries_t*"], metric: "summac_zs,unit", margin: 0.05}
"""


def one_line(capsys):
    text = capsys.readouterr().err.strip()
    assert "\n" not in text
    return text


def documents(folder, count, **more):
    rng = random.Random(0)
    rows = [{"id": f"d{i}", "document": " ".join(tiny.document(rng)), **more} for i in range(count)]
    path = folder / "documents.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def preset(folder, scorers="{entity-overlap: {}}", text=PRESET):
    path = folder / "mine.yaml"
    path.write_text(text % scorers)
    return path


@pytest.fixture
def run(tmp_path, monkeypatch):
    """run(preset, documents, out, *args) -> exit code; on CPU, with a cache of the test's own."""
    monkeypatch.setenv("EVAL_HARNESS_CACHE", str(tmp_path / "cache"))

    def call(which, docs, out, *args, command="run"):
        suite = f"faithfulness:{which}"
        fixed = [
            "--suites",
            suite,
            "--documents",
            docs,
            "--out",
            out,
            "--device",
            "cpu",
            "--dtype",
            "float32",
        ]
        return main([command, *map(str, (*fixed, *args))])

    return call


@pytest.fixture(scope="module")
def nli(tmp_path_factory):
    return tiny.make_fact_nli(tmp_path_factory.mktemp("nli"))


@pytest.mark.slow
def test_swapped_facts_regress_and_the_same_model_is_kept(nli, run, tmp_path, capsys):
    docs = documents(tmp_path, 60)
    which = preset(tmp_path, "{entity-overlap: {}, summac-zs: {}, self-bleu: {}}")
    (tmp_path / "gates.yaml").write_text(GATES)
    common = ["--endpoint", "chat", "--model-id", "summariser", "--scorer-option", f"summac-zs.model={nli}"]
    with Summariser() as good, Summariser(swap=0.5) as bad:
        assert run(which, docs, tmp_path / "bad", *common, "--model", bad.url, "--baseline", good.url) == 0
        assert run(which, docs, tmp_path / "same", *common, "--model", good.url, "--baseline", good.url) == 0
    assert main(["gate", str(tmp_path / "bad"), "--gates", str(tmp_path / "gates.yaml")]) == 1
    found = json.loads((tmp_path / "bad" / "report" / "report.json").read_text())
    assert {gate["name"]: gate["verdict"] for gate in found["gates"]} == {
        "names": "REGRESSED",
        "nli": "REGRESSED",
    }
    assert all(gate["paired"]["clusters"] == 60 and gate["paired"]["n"] == 180 for gate in found["gates"])

    # The worst examples: the candidate's swapped sentence beside the document's, in the reports too.
    lost = next(flip for flip in found["flips"] if flip["gate"] == "nli" and flip["change"] == "lost")
    source, claim, score = lost["candidate_evidence"][0]
    assert claim.split()[:-1] == source.split()[:-1]
    assert claim != source
    assert score < -0.5
    assert claim in "".join(lost["candidate_outputs"])
    assert source in lost["prompt"]
    for name in ("report.html", "report.md"):
        text = (tmp_path / "bad" / "report" / name).read_text()
        assert claim in text
        assert f"document: {source}" in text

    capsys.readouterr()
    assert main(["gate", str(tmp_path / "same"), "--gates", str(tmp_path / "gates.yaml")]) == 0
    assert "the same model" in capsys.readouterr().out
    items = read_items(tmp_path / "same")
    assert read_result(tmp_path / "same").score("summaries_t0.7", "summac_zs,none").value > 0.7
    assert all(value == 1.0 for item in items for value in item.metrics["entity_overlap,none"])


def test_a_run_is_whole_and_resumes(model_a, model_b, run, tmp_path, capsys, monkeypatch):
    """hf models, two temperatures, items and scores that fit; nothing is asked or scored twice."""
    from eval_harness.faithfulness.networks.pairs import PairClassifier

    docs = documents(tmp_path, 5, reference="Anna sold bread in Rome.")
    nli = tiny.make_nli(tmp_path / "nli")
    text = PRESET.replace("[0.7]", "[0, 0.7]")
    which = preset(tmp_path, f"{{rouge: {{}}, self-bleu: {{}}, summac-zs: {{model: {nli}}}}}", text)
    args = ["--model", model_a, "--baseline", model_b]
    assert run(which, docs, tmp_path / "out", *args) == 0
    done = capsys.readouterr()
    assert "scoring with summac-zs:" in done.err
    result, items = read_result(tmp_path / "out"), read_items(tmp_path / "out")
    assert result.counts["items"] == len(items) == 10
    assert result.counts["requests"] == 5 + 15
    assert result.settings["generation"]["temperatures"] == [0.0, 0.7]
    assert {s.task for s in result.scores} == {"summaries_t0", "summaries_t0.7"}
    for score in result.scores:
        entries = [i.metrics[score.metric] for i in items if i.task == score.task]
        flat = [v for e in entries for v in (e if isinstance(e, list) else [e])]
        assert score.value == pytest.approx(sum(flat) / len(flat), abs=1e-12)
        assert len(flat) == (5 if "self_bleu" in score.metric else 15)
        assert score.low <= score.value <= score.high
    assert "self_bleu,none" in done.out  # what only describes is printed too
    assert len(set(items[0].outputs)) == 1  # temperature 0
    assert {s.metric for s in result.scores if s.main} == {
        *(f"rouge{n},none" for n in ("1", "2", "L", "Lsum")),
        "summac_zs,unit",
    }
    for item in items:  # what shares no word with its document is the worst, however neutral
        for text, raw, unit in zip(
            item.outputs, item.metrics["summac_zs,none"], item.metrics["summac_zs,unit"]
        ):
            silent = says_nothing(text, item.prompt.removesuffix("\n\nTL;DR:"))
            assert unit == (0.0 if silent else pytest.approx((raw + 1) / 2))
    assert items[0].target == "Anna sold bread in Rome."
    assert str(tmp_path) not in (tmp_path / "out" / "items.jsonl").read_text()
    assert main(["compare", str(tmp_path / "out"), str(tmp_path / "out" / "baseline")]) == 0

    # As if killed after scoring, before the result was written: texts and scores are on disk.
    shutil.rmtree(tmp_path / "cache" / "runs")
    monkeypatch.setattr(PairClassifier, "_forward", lambda *_: pytest.fail("scored again"))
    assert run(which, docs, tmp_path / "again", *args) == 0
    assert read_items(tmp_path / "again") == items
    assert read_result(tmp_path / "again").counts["computed"] == 0


def test_empty_summaries_are_scored_and_counted(run, tmp_path, capsys):
    docs, which = (
        documents(tmp_path, 4),
        preset(tmp_path, "{entity-overlap: {}, number-overlap: {}, rouge: {against: document}}"),
    )
    with Summariser() as server:
        server.summary = lambda body: " \n"
        args = ["--endpoint", "chat", "--model-id", "mute", "--model", server.url]
        assert run(which, docs, tmp_path / "out", *args) == 0
    result = read_result(tmp_path / "out")
    assert all(score.value == 0.0 for score in result.scores)
    assert "12 of 12 summaries are empty" in capsys.readouterr().out


def test_runs_that_were_scored_otherwise_are_not_compared(run, tmp_path, capsys):
    docs, which = documents(tmp_path, 4), preset(tmp_path, "{rouge: {against: document}}")
    with Summariser() as server:
        args = ["--endpoint", "chat", "--model-id", "m", "--model", server.url]
        for name, more in (
            ("a", []),
            ("b", ["--scorer-option", "stem=false"]),
            ("c", ["--generation", "top_p=0.9"]),
        ):
            assert run(which, docs, tmp_path / name, *args, *more) == 0
    capsys.readouterr()
    for other, text in (("b", "version and shots"), ("c", "generation")):
        assert main(["compare", str(tmp_path / "a"), str(tmp_path / other)]) == 2
        assert text in one_line(capsys)


def test_validate_says_what_it_takes_and_loads_nothing(model_a, run, tmp_path, capsys, monkeypatch):
    from eval_harness.faithfulness.networks import loading as models
    from eval_harness.models.generation import run as generation

    for module, name in ((generation, "_load"), (models, "load")):
        monkeypatch.setattr(module, name, lambda *_: pytest.fail("a model was loaded"))
    nli = tiny.make_nli(tmp_path / "nli")
    docs, which = (
        documents(tmp_path, 6),
        preset(tmp_path, f"{{summac-zs: {{model: {nli}}}, novel-ngrams: {{}}}}"),
    )
    assert run(which, docs, tmp_path / "out", "--model", model_a, command="validate") == 0
    line = capsys.readouterr().out
    # Three samples of three sentences against every distinct sentence of the documents.
    assert "6 documents, temperatures 0.7, 3 samples each, 18 summaries" in line
    held = {s for row in docs.read_text().splitlines() for s in split_sentences(json.loads(row)["document"])}
    assert f"summac-zs {9 * len(held)} sentence pairs through" in line
    assert run(which, docs, tmp_path / "out", command="validate") == 0
    assert "scorers summac-zs, novel-ngrams (no model to summarise was named)" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("rows", "scorers", "more", "text"),
    [
        ([{"document": " \n"}], "{entity-overlap: {}}", [], "row 1: the document is empty"),
        ([{"text": "x"}], "{entity-overlap: {}}", [], "got: fields text; expected: a field `document`"),
        ([{"document": "x"}], "{rouge: {}}", [], "needs a reference"),
        (
            [{"document": "x"}],
            "{self-bleu: {}}",
            ["--generation", "samples=1"],
            "got: 1 for documents.jsonl, row 1",
        ),
        ([{"document": "x"}], "{edna: {}}", ["--generation", "samples=1"], "at least 2"),
        ([{"document": "x"}], "{summac-zs: {}}", [], "hf download tals/albert-xlarge-vitaminc-mnli"),
        ([{"document": "x"}], "{summac-zs: {model: @odd}}", [], "not those of an NLI model"),
        ([{"document": "x"}], "{summac-zap: {}}", [], "did you mean summac-zs"),
        ([{"document": "x"}], "{rouge: {}}", ["--scorers", "entity"], "unknown scorer"),
        ([{"document": "x"}], "{entity-overlap: {}}", ["--generation", "sample=2"], "did you mean samples"),
        ([{"document": "x"}], "{entity-overlap: {}}", ["--batch-tokens", "0"], "--batch-tokens"),
        ([{"document": "x"}], "[rouge]", [], "a mapping of scorer names"),
        ([{"document": "x"}], "{entity-overlap: {}, number-overlap: 3}", [], "a mapping of options"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    rows, scorers, more, text, model_a, run, tmp_path, capsys, monkeypatch
):
    from eval_harness.models.generation import run as generation

    monkeypatch.setattr(generation, "_load", lambda *_: pytest.fail("a model was loaded"))
    odd = tiny.make_nli(tmp_path / "odd", labels=("good", "bad", "ugly"))
    docs = tmp_path / "documents.jsonl"
    docs.write_text("".join(json.dumps(row) + "\n" for row in rows))
    which = preset(tmp_path, scorers.replace("@odd", str(odd)))
    capsys.readouterr()
    assert run(which, docs, tmp_path / "out", "--model", model_a, *more) == 2
    assert text in one_line(capsys)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("{document}", "text", "a text with {document} once"),
        ("version: 1", "version: 0", "integer of at least 1"),
        ("samples: 3", "samples: 0", "integers of at least 1"),
        ("samples: 3", "samples: many", "a number"),
        ("[0.7]", "[hot]", "list of texts or numbers"),
        ("max_new_tokens", "new_tokens", "unknown key"),
        ("version: 1", "version: 1\nlimit: 0", "null or a positive integer"),
    ],
)
def test_bad_presets(old, new, text, run, tmp_path, capsys):
    which = preset(tmp_path, text=PRESET.replace(old, new))
    assert run(which, documents(tmp_path, 1), tmp_path / "out", command="validate") == 2
    assert text in one_line(capsys)


@pytest.mark.parametrize("name", ["summaries", "summaries-nli", "summaries-paper"])
def test_shipped_presets_parse_and_name_scorers(name):
    import eval_harness.faithfulness.scorers  # noqa: F401 - registers them
    from eval_harness.faithfulness.examples import Device
    from eval_harness.faithfulness.registry import build_scorer
    from eval_harness.run.runner import load_suite_preset

    found = load_suite_preset("faithfulness", name)
    for wanted in found.scorers:
        build_scorer(wanted, Device())
    if name == "summaries-paper":
        assert found.sampling.temperatures == (0.0, 0.25, 0.5, 0.75, 1.0)
        assert (found.sampling.samples, found.sampling.top_p, found.limit) == (5, 0.5, 100)


def test_tasks_and_limits_are_selected(run, tmp_path, capsys, model_a):
    docs = documents(tmp_path, 6)
    args = ["--model", model_a, "--generation", "max_new_tokens=8", "--limit", "2"]
    assert run("summaries", docs, tmp_path / "out", *args, "--tasks", "summaries_t0") == 0
    assert {(i.task, i.doc_id) for i in read_items(tmp_path / "out")} == {
        ("summaries_t0", 0),
        ("summaries_t0", 1),
    }
    assert run("summaries", docs, tmp_path / "no", *args, "--tasks", "summaries_t1") == 2
    assert "did you mean" in capsys.readouterr().err
