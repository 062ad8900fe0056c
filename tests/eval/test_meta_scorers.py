"""Agreement with human labels: against scipy and by hand; `meta --scorer`."""

import csv
import json
import random

import numpy as np
import pytest
from scipy import stats

from eval_harness.cli.app import main
from eval_harness.stats.label_agreement import agreement

from .conftest import REPO


def one_line(capsys):
    text = capsys.readouterr().err.strip()
    assert "\n" not in text
    return text


def rows_of(seed, n=60):
    rng = np.random.default_rng(seed)
    scores = np.round(rng.normal(size=n), 1)  # with ties
    graded = np.round(scores + rng.normal(size=n), 0)
    labels = (graded > 0).astype(int)
    clusters = rng.integers(0, n // 4, n)
    return scores, labels, graded, clusters


@pytest.mark.parametrize("seed", range(4))
def test_values_against_scipy_and_by_hand(seed):
    scores, labels, graded, clusters = rows_of(seed)
    found = agreement(scores, labels, graded, clusters, 0.1, draws=200)
    good, bad = scores[labels == 1], scores[labels == 0]
    assert found.auc.value == pytest.approx(
        stats.mannwhitneyu(good, bad).statistic / (len(good) * len(bad)), abs=1e-12
    )
    assert found.spearman.value == pytest.approx(stats.spearmanr(scores, graded).statistic, abs=1e-12)

    def balanced(threshold):
        return ((good >= threshold).mean() + (bad < threshold).mean()) / 2

    assert found.fixed.value == pytest.approx(balanced(0.1), abs=1e-12)
    assert found.best.value == pytest.approx(max(balanced(t) for t in scores), abs=1e-12)
    assert balanced(found.at) == pytest.approx(found.best.value, abs=1e-12)
    for interval in (found.fixed, found.best, found.auc, found.spearman):
        assert interval.low <= interval.value <= interval.high
        assert interval.low < interval.high


def test_a_draw_equals_the_statistics_of_the_drawn_rows():
    """The weighted formulas of a bootstrap draw against the rows written out."""
    from eval_harness.stats import label_agreement as module

    scores, labels, graded, _ = rows_of(9)
    counts = np.random.default_rng(1).integers(0, 4, len(scores))
    weights = counts[None, :].astype(float)
    s, y, g = (np.repeat(column, counts) for column in (scores, labels, graded))
    assert module._auc(scores, labels, weights)[0] == pytest.approx(
        stats.mannwhitneyu(s[y == 1], s[y == 0]).statistic / ((y == 1).sum() * (y == 0).sum()), abs=1e-12
    )
    assert module._spearman(scores, graded, weights)[0] == pytest.approx(
        stats.spearmanr(s, g).statistic, abs=1e-12
    )
    best = max(((s[y == 1] >= t).mean() + (s[y == 0] < t).mean()) / 2 for t in s)
    assert module._best_balanced(scores, labels, weights)[0][0] == pytest.approx(best, abs=1e-12)


def test_intervals_are_of_documents_not_of_rows():
    """Each document eight times over: the interval is that of the documents, about sqrt(8) times wider."""
    scores, labels, graded, _ = rows_of(3, n=80)
    eight = [np.repeat(column, 8) for column in (scores, labels, graded)]
    documents = np.repeat(np.arange(80), 8)
    clustered = agreement(*eight, documents, None).auc
    single = agreement(scores, labels, graded, range(80), None).auc
    naive = agreement(*eight, range(640), None).auc
    assert clustered.high - clustered.low == pytest.approx(single.high - single.low, rel=0.1)
    assert clustered.high - clustered.low > 2 * (naive.high - naive.low)


def test_intervals_cover():
    """95 % intervals of an AUC whose true value is known hold it in about 95 % of samples."""
    rng, held = np.random.default_rng(0), 0
    truth = stats.norm.cdf(1 / np.sqrt(2))
    for seed in range(200):
        labels = np.arange(120) % 2
        scores = rng.normal(size=120) + labels
        found = agreement(scores, labels, labels, range(120), None, seed=seed, draws=200).auc
        held += found.low <= truth <= found.high
    assert 0.90 <= held / 200 <= 0.99


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def judged(n=40, seed=0):
    """Summaries that name the right or the wrong person; the label says which."""
    rng, rows = random.Random(seed), []
    for i in range(n):
        who, wrong = rng.sample(["Anna Lee", "Boris Ray", "Clara May"], 2)
        true = i % 2
        rows.append(
            {
                "id": i,
                "document": f"On day {i // 4} the prize went to {who} in Rome.",
                "summary": f"They say {who if true else wrong} won.",
                "label": true,
                "source": "ab"[i % 3 == 0],
            }
        )
    return rows


def test_meta_prints_a_table_and_writes_csv(tmp_path, capsys):
    data = write(tmp_path / "judged.jsonl", judged())
    assert (
        main(
            [
                "meta",
                "--scorer",
                "entity-overlap,rouge",
                "--data",
                data,
                "--by-source",
                "--scorer-option",
                "rouge.against=document",
                "--draws",
                "200",
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 3 * (1 + 4)
    assert lines[1].split()[:2] == ["judged", "entity_overlap"]
    assert "1.000 [1.000, 1.000]" in lines[1]
    out = tmp_path / "table.csv"
    assert (
        main(["meta", "--scorer", "novel-ngrams", "--data", data, "--format", "csv", "--out", str(out)]) == 0
    )
    table = list(csv.DictReader(out.open()))
    assert [row["metric"] for row in table] == [f"novel_{n}grams" for n in (1, 2, 3, 4)]
    assert float(table[0]["auc"]) > 0.9  # fewer new words are better: the sign is turned
    assert table[0]["fixed"] == ""
    assert main(["meta", "--scorer", "entity-overlap", "--data", data, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["found"]["auc"]["value"] == 1.0
    assert main(["meta", "--scorer", "entity-overlap", "--data", data, "--format", "markdown"]) == 0
    assert capsys.readouterr().out.startswith("| data | metric |")


def test_meta_with_a_model(tmp_path, capsys):
    from . import scorer_models as tiny

    nli = tiny.make_nli(tmp_path / "nli")
    data = write(tmp_path / "judged.jsonl", judged(8))
    args = ["meta", "--data", data, "--scorer", "summac-zs", "--draws", "100", "--device", "cpu"]
    assert main([*args, "--scorer-option", f"model={nli}"]) == 0
    done = capsys.readouterr()
    assert "summac_zs" in done.out
    assert "model=nli" in done.out
    assert (
        "summac-zs on judged.jsonl: 8 sentence pairs through" in done.err
    )  # said before the model is loaded
    assert main(args) == 2
    assert "hf download tals/albert-xlarge-vitaminc-mnli" in one_line(capsys)


def test_meta_still_prints_a_models_identity(model_a, capsys):
    assert main(["meta", str(model_a)]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "hf"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"label": 2}, "row 1; got: label 2"),
        ({"label": 1}, "labels of one class only"),
        ({"summary": None}, "summary is NoneType"),
        ({"document": " "}, "document is empty"),
        ({"score": "high"}, "score 'high'"),
        ("[1]", "row 1: int instead of an object"),
        ("{", "unreadable data"),
        ("", "empty data file"),
        (None, "no such data file"),
    ],
)
def test_bad_data_is_one_line_and_exit_code_2(change, text, tmp_path, capsys):
    path = tmp_path / "data.jsonl"
    if isinstance(change, dict):
        write(path, [{**row, **change} for row in judged(4)])
    elif change is not None:
        path.write_text(change)
    assert main(["meta", "--scorer", "entity-overlap", "--data", str(path)]) == 2
    assert text in one_line(capsys)


@pytest.mark.parametrize(
    ("args", "text"),
    [
        ([], "neither a model nor --scorer"),
        (["--scorer", "rouge"], "0 data files"),
        (["--scorer", "rogue", "--data", "x"], "did you mean rouge"),
        (["--scorer", "rouge", "--scorer-option", "edna.model=x", "--data", "x"], "one of the scorers rouge"),
        (["--scorer", "rouge", "--scorer-option", "stem", "--data", "x"], "KEY=VALUE"),
        (["--scorer", "edna", "--scorer-option", "labels=1", "--data", "x"], "a text"),
        (["--scorer", "self-bleu", "--data", "@"], "at least 2"),
        (["--scorer", "rouge", "--data", "@"], "needs a reference"),
    ],
)
def test_bad_calls(args, text, tmp_path, capsys):
    data = write(tmp_path / "data.jsonl", judged(4))
    assert main(["meta", *(data if arg == "@" else arg for arg in args)]) == 2
    assert text in one_line(capsys)


def test_the_published_table_is_what_the_command_prints(shared, tmp_path):
    """One of its data sets again, where the shared data is at hand; BERTScore, which needs weights, not."""
    with (REPO / "docs" / "faithfulness-meta.csv").open() as handle:
        rows = [row for row in csv.DictReader(handle) if row["data"] == "rank19"]
    published = [row for row in rows if not row["metric"].startswith("bertscore")]
    out = tmp_path / "again.csv"
    options = ["--scorer-option", "rouge.against=document", "--scorer-option", "rouge.measure=precision"]
    args = [
        "meta",
        "--scorer",
        "entity-overlap,number-overlap,novel-ngrams,rouge,content",
        *options,
        "--format",
        "csv",
    ]
    data = str(shared.parent / "faithfulness" / "rank19.jsonl.gz")
    assert main([*args, "--data", data, "--out", str(out)]) == 0
    with out.open() as handle:
        assert list(csv.DictReader(handle)) == published
    assert len(published) == 11
