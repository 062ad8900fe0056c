"""The whole-program benchmark: pairs as long as real ones, ratios within a round."""

import json

import pytest

from benchmarks import whole_program
from benchmarks.step.workloads import Workload, triples


def test_pairs_have_the_lengths_of_the_workload(tmp_path):
    from transformers import AutoTokenizer

    words = whole_program.write_model(tmp_path / "model", tiny=True)
    whole_program.write_pairs(tmp_path / "pairs.jsonl", "hh", words, 40)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    known = set(triples(Workload("hh")))
    for line in (tmp_path / "pairs.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt, chosen, rejected = (
            len(tokenizer(row[key], add_special_tokens=False).input_ids)
            for key in ("prompt", "chosen", "rejected")
        )
        # The trainer ends each response with a token more.
        assert any((prompt, chosen, rejected) == (p, max(1, c - 1), max(1, r - 1)) for p, c, r in known)


def test_ratios_are_of_the_base_within_a_round(monkeypatch, capsys):
    seconds = {"openrlhf dpo": 100.0, "sparsepo": 40.0}

    def run(row, inputs, model, dtype, steps, arguments):
        share = 0.1 if steps == 1 else 1.0
        return whole_program.Cost(seconds[row] * share, seconds[row] * share / 2)

    monkeypatch.setattr(whole_program, "run", run)
    words = ["--tiny", "--workloads", "hh", "--dtypes", "bf16", "--rows", "sparsepo", "--rounds", "3"]
    monkeypatch.setattr("sys.argv", ["whole_program", *words])
    whole_program.main()
    lines = capsys.readouterr().out.splitlines()
    ours = next(line.split() for line in lines if line.startswith("sparsepo"))
    assert float(ours[1]) == pytest.approx(40.0)
    assert [cell for cell in ours if cell == "0.40"] == ["0.40"] * 3
    base = next(line for line in lines if line.startswith("openrlhf dpo"))
    assert "1.00 [1.00 .. 1.00]" in base
