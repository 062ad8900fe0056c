"""What a run leaves beside its checkpoint, and the watch for masks that died."""

from __future__ import annotations

import itertools
import json

import pytest
import torch

from sparsepo_plugin.metrics import DeadMaskWatch
from sparsepo_plugin.run_folder import tokens
from sparsepo_plugin.run_folder.log import RunLog
from sparsepo_plugin.run_folder.token_rows import TokenRows
from sparsepo_plugin.types import Masks, TokenStats


class Words:
    """A tokenizer whose token n reads wn."""

    def decode(self, ids):
        return " ".join(f"w{number}" for number in ids)


def test_a_new_run_empties_the_metrics_and_a_resumed_one_goes_on_where_its_checkpoint_was(tmp_path):
    log = RunLog(tmp_path, active=True)
    log.start("a: 1\n", {"loss": "dpo"}, 2, step=0)
    for step in (1, 2, 3):
        log.metrics(step, "train", {"loss": float("nan"), "accuracy": 0.5})
    log.metrics(2, "eval", {"loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 4, "spl')  # a kill cut this line off
    log.start("a: 1\n", {"loss": "dpo"}, 2, step=2)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in lines] == [(1, "train"), (2, "train"), (2, "eval")]
    assert lines[0] == {"step": 1, "split": "train", "loss": None, "accuracy": 0.5}
    log.start("a: 2\n", {"loss": "dpo"}, 2, step=0)
    assert (tmp_path / "metrics.jsonl").read_text() == ""
    assert (tmp_path / "sparsepo_config.yaml").read_text() == "a: 2\n"
    assert json.loads((tmp_path / "sparsepo_run.json").read_text())["processes"] == 2


@pytest.mark.parametrize(("text", "fault"), [(None, "is not there"), ("{", "was cut or damaged")])
def test_metrics_that_a_resumed_run_lacks_are_said(text, fault, tmp_path, capsys):
    if text is not None:
        (tmp_path / "metrics.jsonl").write_text(text)
    RunLog(tmp_path, active=True).start("a: 1\n", {"loss": "dpo"}, 2, step=5)
    assert f"metrics.jsonl {fault}: 0 lines up to step 0 are kept" in capsys.readouterr().out


def test_a_new_run_forgets_the_record_of_an_older_one_and_a_resumed_one_goes_on(tmp_path):
    log = RunLog(tmp_path, active=True)
    files = [tmp_path / name for name in ("tokens.jsonl", "mask_histograms.jsonl")]
    for step in (5, 10):
        tokens.write(tmp_path, step, [])
    with open(files[1], "a") as file:
        file.write('{"step": 15, "edg')  # a kill cut this line off
    log.start("a: 1\n", {}, 1, step=5)
    assert [json.loads(line)["step"] for line in files[1].read_text().splitlines()] == [5]
    assert files[0].is_file()
    log.start("a: 1\n", {}, 1, step=0)
    assert not any(path.exists() for path in files)


def test_the_histogram_counts_zeros_values_in_bins_and_values_outside_them(tmp_path):
    masks = [0.0, 0.0, 1e-5, 0.001, 1.0, 1.2, 9.9, 10.0, 50.0]
    tokens.write(tmp_path, 3, [{"pair": 0, "side": "chosen", "reward_mask": masks, "kl_mask": None}])
    row = json.loads((tmp_path / "mask_histograms.jsonl").read_text())
    edges, counts = row["edges"], row["reward_mask"]["counts"]
    assert (row["step"], row["kl_mask"], row["reward_mask"]["zeros"]) == (3, None, 2)
    assert (edges[0], edges[8], edges[-1], len(edges)) == (0.001, 0.01, 10, 33)
    assert len(counts) == len(edges) + 1
    assert (counts[0], counts[1], counts[-2], counts[-1]) == (1, 1, 1, 2)
    assert counts[1 + edges.index(1.0)] == 2
    assert sum(counts) == 7


class Bytes:
    """A tokenizer whose tokens are bytes, some of which are characters only together."""

    def decode(self, ids):
        return bytes(ids).decode(errors="replace")


def test_bytes_that_are_characters_only_together_are_joined():
    text = "a\xe9\U0001f680b".encode() + b"\xff\xc3"
    ids = torch.tensor([[0, *text]])
    response = torch.ones(1, len(text), dtype=torch.bool)
    zeros = torch.zeros(1, len(text))
    record = TokenRows(1, Bytes())
    row = record._values(0, ids, TokenStats(zeros, zeros, None, response), Masks(zeros, None))
    assert row["joined"] == [(1, 3, "\xe9"), (3, 7, "\U0001f680")]
    assert row["spaced"] == []
    assert row["tokens"][0] == "a"
    assert row["tokens"][1] == row["tokens"][-1] == "\ufffd"


def test_only_the_first_process_writes(tmp_path):
    log = RunLog(tmp_path, active=False)
    log.start("a: 1\n", {}, 2, step=0)
    log.metrics(1, "train", {"loss": 1.0})
    assert not list(tmp_path.iterdir())


def test_the_watch_waits_for_an_unbroken_run_of_dead_steps_and_warns_once():
    watch = DeadMaskWatch(lambda option: f"loss_options.{option}", patience=3)
    dead, alive = {"reward_mask_sparsity": 1.0, "kl_mask_sparsity": 0.9}, {"reward_mask_sparsity": 0.99}
    said = [watch.look(m, step) for step, m in enumerate([dead, dead, alive, dead, dead, dead, dead])]
    assert [bool(text) for text in said] == [False] * 5 + [True, False]
    assert "the reward mask has been 0 on every response token for 3 steps (step 5)" in said[5]
    assert "with loss_options.init unit, a lower L1 penalty or loss_options.floor" in said[5]
    assert watch.look({}, 9) == ""


def test_the_record_keeps_response_tokens_of_the_wanted_pairs_and_writes_each_once(tmp_path):
    ids = torch.arange(24).reshape(4, 6)
    response = torch.tensor([[0, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0], [0, 0, 0, 1, 0]]).bool()
    value = torch.arange(20.0).reshape(4, 5)
    stats = TokenStats(value, value / 2, None, response)
    record = TokenRows(5, Words())
    record.add([4, 9], ids, stats, Masks(value + 1, None))
    record.add([4, 5], ids, stats, Masks(value + 1, None))
    rows = record.take()
    assert record.take() == []
    tokens.write(tmp_path, 7, rows)
    chosen, rejected = (json.loads(line) for line in (tmp_path / "tokens.jsonl").read_text().splitlines())
    assert chosen == {
        "schema_version": 1,
        "step": 7,
        "pair": 4,
        "side": "chosen",
        "prompt": "w0 w1",
        "tokens": ["w2", "w3"],
        "token_ids": [2, 3],
        "joined": [],
        "spaced": [0, 1],
        "reward_mask": [2.0, 3.0],
        "kl_mask": None,
        "log_ratio": [0.5, 1.0],
        "token_kl": None,
    }
    assert (rejected["side"], rejected["token_ids"], rejected["prompt"]) == ("rejected", [13, 14], "w12")


def test_earlier_records_are_kept_evenly_spread_and_go_with_a_resumed_run(tmp_path):
    row = {"pair": 0, "side": "chosen", "prompt": "a\u2028b", "tokens": [], "token_ids": []}
    row |= {"reward_mask": [], "kl_mask": None}
    for step in range(0, 31):
        tokens.write(tmp_path, step, [row, {**row, "side": "rejected"}])
    steps = [record.step for record in tokens.read_steps(tmp_path / "tokens.jsonl")]
    assert len(steps) == 10
    assert (steps[0], steps[-1]) == (0, 30)
    assert max(after - before for before, after in itertools.pairwise(steps)) <= 8
    assert tokens.read(tmp_path / "tokens.jsonl").step == 30
    RunLog(tmp_path, active=True).start("a: 1\n", {}, 1, step=10)
    tokens.write(tmp_path, 12, [row, {**row, "side": "rejected"}])
    resumed = [record.step for record in tokens.read_steps(tmp_path / "tokens.jsonl")]
    assert resumed == [*(step for step in steps if step <= 10), 12]
    RunLog(tmp_path, active=True).start("a: 1\n", {}, 1, step=0)
    assert not (tmp_path / "tokens_earlier.jsonl").exists()


def test_a_kill_between_the_two_files_of_a_record_loses_and_doubles_nothing(tmp_path, monkeypatch):
    rows = [
        {"pair": 0, "side": side, "prompt": "", "tokens": ["a"], "token_ids": [1], "reward_mask": [1.0]}
        for side in ("chosen", "rejected")
    ]
    rows = [{**row, "kl_mask": None} for row in rows]
    tokens.write(tmp_path, 5, rows)
    whole = tokens.write_text

    def killed(path, text):
        if path.name == "tokens.jsonl":
            raise KeyboardInterrupt
        whole(path, text)

    monkeypatch.setattr(tokens, "write_text", killed)
    with pytest.raises(KeyboardInterrupt):
        tokens.write(tmp_path, 10, rows)
    monkeypatch.setattr(tokens, "write_text", whole)
    assert [record.step for record in tokens.read_steps(tmp_path / "tokens.jsonl")] == [5]
    tokens.write(tmp_path, 10, rows)
    assert [record.step for record in tokens.read_steps(tmp_path / "tokens.jsonl")] == [5, 10]
