"""Judges against people: by hand, and on human labels where the shared sample data is at hand."""

import csv
import json

import pytest

from eval_harness.cli.app import main
from eval_harness.win_rate.agreement import read_pairs

from .judge_server import Judge

FILES = {"pandalm_human": 544, "llmbar": 298, "autoj_human": 663}


def rows_of(tmp_path, *args):
    out = tmp_path / "table.json"
    assert main(["agreement", *map(str, args), "--cache", str(tmp_path / "cache"), "--out", str(out)]) == 0
    return json.loads(out.read_text())


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_agreement_kappa_and_bias_by_hand(tmp_path):
    """40 pairs: 20 that the judge gets right, 10 wrong, 10 where it takes whatever stands first."""
    kinds = ["right"] * 20 + ["wrong"] * 10 + ["first"] * 10
    rows = [
        {"prompt": f"p{n}", "chosen": f"{kind} chosen {n}", "rejected": f"{kind} rejected {n}"}
        for n, kind in enumerate(kinds)
    ]

    def say(first, second):
        if "first" in first.split()[0]:
            return "A"
        wanted = "chosen" if first.startswith("right") else "rejected"
        return "A" if wanted in first else "B"

    with Judge(say) as server:
        options = ["--judge-set", f"url={server.url}", "--judge-set", "model=m"]
        length, judge = rows_of(
            tmp_path, "--data", write(tmp_path / "d.jsonl", rows), "--judge", "http", *options
        )
    assert (length["judge"], judge["judge"]) == ("longer text", "m")
    assert judge["agreement"] == pytest.approx((20 + 5) / 40)
    assert judge["ties"] == judge["position_bias"] == 0.25
    assert (judge["pairs"], judge["judged"], judge["unparsable"], judge["failed"]) == (40, 40, 0, 0)
    # Half of the labels agree; were people's and the judge's labels even, chance would give 0.375.
    assert judge["kappa"] == pytest.approx((0.5 - 0.375) / (1 - 0.375), abs=0.06)
    assert length["agreement"] == pytest.approx(0.0)  # every rejected text is longer
    assert length["kappa"] < -0.9
    assert length["position_bias"] is None


def test_unreadable_and_failed_answers_are_counted_apart(tmp_path, capsys):
    rows = [{"prompt": f"p{n}", "chosen": f"a {n}", "rejected": f"b {n}"} for n in range(10)]
    with Judge(lambda a, b: "hm" if a.endswith(("3", "4")) else "A" if a < b else "B") as server:
        options = ["--judge-set", f"url={server.url}", "--judge-set", "model=m", "--judge-set", "retries=0"]
        server.plan = lambda n: ("400",) if n in (0, 1) else ()
        args = ["--data", write(tmp_path / "d.jsonl", rows), "--judge", "http", *options]
        judge = rows_of(tmp_path, *args, "--judge-set", "concurrency=1")[1]
        assert (judge["judged"], judge["unparsable"], judge["failed"]) == (7, 4, 2)
        assert judge["agreement"] == 1.0
        again = rows_of(tmp_path, *args)[1]
        assert (again["judged"], again["unparsable"], again["failed"]) == (8, 4, 0)
    assert "no answer" in capsys.readouterr().out


@pytest.mark.parametrize("name", FILES)
def test_human_labels_with_length_as_the_baseline(shared, tmp_path, name):
    path = shared.parent / "preference" / f"{name}.jsonl.gz"
    (row,) = rows_of(tmp_path, "--data", path)
    pairs = read_pairs(path, None)
    assert row["pairs"] == row["judged"] == FILES[name] == len(pairs)
    by_hand = [
        0.5 if len(p.candidate) == len(p.baseline) else float(len(p.candidate) > len(p.baseline))
        for p in pairs
    ]
    assert row["agreement"] == pytest.approx(sum(by_hand) / len(by_hand))
    assert row["low"] < row["agreement"] < row["high"]
    # Two labels, both about even by the coin that places people's choice: kappa is near 2 agreement - 1.
    assert row["kappa"] == pytest.approx(2 * row["agreement"] - 1, abs=0.03)


def test_tables_and_bad_input(tmp_path, capsys):
    data = write(tmp_path / "d.jsonl", [{"prompt": "p", "chosen": "aa", "rejected": "b"}] * 3)
    for name in ("t.md", "t.csv"):
        assert (
            main(["agreement", "--data", str(data), "--cache", str(tmp_path), "--out", str(tmp_path / name)])
            == 0
        )
    assert (tmp_path / "t.md").read_text().splitlines()[1].startswith("| --- |")
    with (tmp_path / "t.csv").open() as lines:
        assert next(csv.DictReader(lines))["agreement"] == "1"
    capsys.readouterr()
    bad = write(tmp_path / "bad.jsonl", [{"prompt": "p", "chosen": "a"}])
    for args, message in (
        (["--data", bad], "row 1"),
        (["--data", tmp_path / "none.jsonl"], "no such data file"),
        (["--data", data, "--out", tmp_path / "t.xls"], "--out"),
        (["--data", data, "--limit", "0"], "--limit"),
        (["--data", data, "--judge", "nobody"], "unknown judge"),
    ):
        assert main(["agreement", *map(str, args), "--cache", str(tmp_path)]) == 2
        said = capsys.readouterr().err.strip()
        assert message in said
        assert "\n" not in said
