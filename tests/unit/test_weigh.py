"""``sparsepo weigh``: numbers of tokens, where they are written, and that nothing is lost on the way."""

from __future__ import annotations

import json
import math

import pytest
import torch
from filelock import FileLock
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForSequenceClassification

from sparsepo_plugin import cli
from sparsepo_plugin.adapters.pairs.prepare import Preparation
from sparsepo_plugin.adapters.pairs.texts import RowOptions
from sparsepo_plugin.demo import language, tiny
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.weigh import pairs_file, scores
from sparsepo_plugin.weigh.halves import half_of
from sparsepo_plugin.weigh.placed import spans
from sparsepo_plugin.weigh.run import weigh
from sparsepo_plugin.weigh.settings import Settings


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three models that differ, and 10 pairs."""
    root = tmp_path_factory.mktemp("weigh")
    tokenizer = tiny.build_tokenizer(language.vocabulary())
    for seed in range(3):
        save = tiny.build_model(tokenizer, hidden_size=32, heads=2, seed=seed)
        tiny.save_tiny(root / f"m{seed}", save, tokenizer)
    language.write_jsonl(language.generate_pairs(10, 0), root / "pairs.jsonl")
    return root


def settings(files, out, **given):
    models = tuple(str(files / name) for name in given.pop("models", ["m0"]))
    against = given.pop(
        "against", str(files / "m2") if given.get("score", "log-ratio") == "log-ratio" else None
    )
    given = {"score": "log-ratio", "batch_size": 3, **given}
    return Settings(data=files / "pairs.jsonl", out=out, models=models, against=against, **given)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def by_token(files, rows):
    """What a training reads of the written columns."""
    tokenizer = AutoTokenizer.from_pretrained(files / "m0")
    batch = {name: [row.get(name) for row in rows] for name in rows[0]}
    return Preparation(tokenizer, RowOptions(max_len=999, prompt_key="prompt"), weighted=True)(
        batch, list(range(len(rows)))
    )


@torch.no_grad()
def logps(folder, ids):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    table = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1], -1)
    return table.gather(-1, torch.tensor(ids[1:])[:, None])[:, 0], table


def test_a_training_reads_the_log_ratio_that_the_models_give_each_token(files, tmp_path):
    weigh(settings(files, tmp_path / "out.jsonl"))
    rows = lines(tmp_path / "out.jsonl")
    source = lines(files / "pairs.jsonl")
    assert [{k: v for k, v in row.items() if "weights" not in k} for row in rows] == source
    made = by_token(files, rows)
    for side in ("chosen", "rejected"):
        for n in range(len(rows)):
            ids, start = made[side][n], made[f"{side}_start"][n]
            ratio = logps(files / "m0", ids)[0] - logps(files / "m2", ids)[0]
            got = made[f"{side}_weights"][n]
            assert math.isnan(got[-1])  # the end token stands for no character
            assert got[:-1] == pytest.approx(ratio[start - 1 :][:-1].tolist(), abs=2e-5)


def test_of_two_models_each_scores_the_half_that_it_has_not_seen(files, tmp_path):
    for name, models in (("both", ["m0", "m1"]), ("first", ["m0"]), ("second", ["m1"])):
        weigh(settings(files, tmp_path / f"{name}.jsonl", models=models))
    both, first, second = (lines(tmp_path / f"{name}.jsonl") for name in ("both", "first", "second"))
    halves = [half_of(row, "prompt") for row in both]
    assert set(halves) == {0, 1}
    for n, half in enumerate(halves):
        seen, unseen = (first, second) if half == 0 else (second, first)
        for got, want in zip(both[n]["chosen_weights"], unseen[n]["chosen_weights"]):
            assert got == pytest.approx(want, abs=2e-5)
        assert both[n]["chosen_weights"] != seen[n]["chosen_weights"]


def test_halves_keep_pairs_of_one_prompt_together_and_lose_none(files, tmp_path, capsys):
    argv = ["weigh", "--data", str(files / "pairs.jsonl"), "--halves", str(tmp_path / "halves")]
    assert cli.main(argv) == 0
    first, second = (lines(tmp_path / "halves" / name) for name in ("first.jsonl", "second.jsonl"))
    assert not {row["prompt"] for row in first} & {row["prompt"] for row in second}
    key = json.dumps
    assert sorted(map(key, first + second)) == sorted(map(key, lines(files / "pairs.jsonl")))
    one = tmp_path / "one.jsonl"
    one.write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c"}) + "\n")
    assert cli.main(["weigh", "--data", str(one), "--halves", str(tmp_path / "h")]) == 2
    assert "got one prompt only" in capsys.readouterr().err


def test_entropy_is_that_of_the_model_where_it_predicts_the_token(files, tmp_path):
    weigh(settings(files, tmp_path / "out.jsonl", score="entropy"))
    rows = lines(tmp_path / "out.jsonl")
    made = by_token(files, rows)
    ids, start = made["chosen"][0], made["chosen_start"][0]
    table = logps(files / "m0", ids)[1]
    want = -(table.exp() * table).sum(-1)[start - 1 :]
    assert made["chosen_weights"][0][:-1] == pytest.approx(want[:-1].tolist(), abs=2e-5)


def test_reward_is_what_a_token_adds_to_the_heads_value(files, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(files / "m0")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_labels=1,
        num_attention_heads=2, num_key_value_heads=1, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = LlamaForSequenceClassification(config)
    model.save_pretrained(tmp_path / "reward")
    tokenizer.save_pretrained(tmp_path / "reward")
    given = {"data": files / "pairs.jsonl", "score": "reward"}
    weigh(Settings(out=tmp_path / "out.jsonl", models=(str(tmp_path / "reward"),), **given))
    made = by_token(files, lines(tmp_path / "out.jsonl"))
    ids, start = made["rejected"][1], made["rejected_start"][1]
    with torch.no_grad():
        values = model.score(model.model(torch.tensor([ids])).last_hidden_state)[0, :, 0]
    want = (values[start:] - values[start - 1 : -1])[:-1].tolist()
    assert made["rejected_weights"][1][:-1] == pytest.approx(want, abs=2e-5)
    two = LlamaForSequenceClassification(LlamaConfig(**{**config.to_dict(), "num_labels": 2}))
    two.save_pretrained(tmp_path / "two")
    tokenizer.save_pretrained(tmp_path / "two")
    with pytest.raises(UserError, match="expected a reward model with a head `score` of one output"):
        weigh(Settings(out=tmp_path / "o.jsonl", models=(str(tmp_path / "two"),), **given))


def test_words_are_whole_words_whatever_their_case(tmp_path, capsys):
    (tmp_path / "words.txt").write_text("good\nnot good\t-1\n\nC++\t2\nnaïve\t0.5\n", encoding="utf-8")
    row = {
        "prompt": [{"role": "user", "content": "good?"}],
        "chosen": [{"role": "assistant", "content": "Good, goodness NOT good C++ naïve"}],
        "rejected": "very good",
    }  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text(json.dumps(row) + "\n")
    argv = ["weigh", "--data", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    argv += ["--score", "words", "--words", str(tmp_path / "words.txt")]
    assert cli.main(argv) == 0
    (found,) = lines(tmp_path / "out.jsonl")
    text = row["chosen"][0]["content"]
    got = [(text[a:b], number) for a, b, number in found["chosen_weights"]]
    assert got == [("Good", 1), ("NOT good", -1), ("C++", 2), ("naïve", 0.5)]
    assert found["rejected_weights"] == [[5, 9, 1.0]]
    assert "chosen: 4 spans" in capsys.readouterr().out


def test_tokens_that_share_a_character_share_a_span():
    # An emoji of three byte tokens, then a word; None is an end token.
    assert spans([3.0, 0.0, 6.0, 1.0, 9.0], [(0, 1), (0, 1), (0, 1), (2, 6), None]) == [
        [0, 1, 3.0],
        [2, 6, 1.0],
    ]
    assert spans([1.0, 2.0], [(0, 3), (2, 5)]) == [[0, 5, 1.5]]


def test_a_stopped_run_goes_on_and_gives_the_same_file(files, tmp_path, monkeypatch, capsys):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    weigh(settings(files, whole))
    plain, seen = scores.LogRatio.__call__, []

    def dying(self, batch):
        seen.append(len(batch.ids))
        if len(seen) == 3:
            raise KeyboardInterrupt
        return plain(self, batch)

    monkeypatch.setattr(scores.LogRatio, "__call__", dying)
    with pytest.raises(KeyboardInterrupt):
        weigh(settings(files, out))
    assert not out.exists()
    part = tmp_path / ".out.jsonl.part"
    with part.open("a") as file:
        file.write('{"prompt": "half a li')  # a line that was being written
    seen[:] = [0] * 9  # from here on it does not die
    weigh(settings(files, out))
    assert sum(seen[9:]) == 2 * (10 - 6)
    assert "6 pairs were finished before" in capsys.readouterr().out
    assert out.read_text() == whole.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "whole.jsonl"]


def test_what_another_setting_left_is_not_gone_on_with(files, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    part = tmp_path / ".out.jsonl.part"
    part.write_text("of another run\n" + json.dumps({"prompt": "x"}) + "\n")
    weigh(settings(files, out))
    assert "finished before" not in capsys.readouterr().out
    assert len(lines(out)) == 10


def test_a_second_run_on_the_same_file_is_refused(files, tmp_path):
    with FileLock(tmp_path / ".out.jsonl.part.lock"), pytest.raises(UserError, match="another run writes it"):
        weigh(settings(files, tmp_path / "out.jsonl"))


def test_the_page_shows_the_first_pairs(files, tmp_path, capsys):
    weigh(settings(files, tmp_path / "out.jsonl", page=tmp_path / "page.html", show=4))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<!DOCTYPE html>" in page[:200] or "<html" in page[:400]
    out = capsys.readouterr().out
    assert "4 pairs after step 0" in out
    assert "chosen: " in out


BAD = [
    ({"models": []}, "--score log-ratio: got no --model"),
    ({"against": None}, "--score log-ratio: got no --against"),
    ({"score": "words"}, "--score words: got no --words"),
    ({"score": "entropy", "against": "m2"}, "--against: --score entropy does not read it"),
    ({"models": ["m0", "m1", "m2"]}, "--model: got 3, expected one, or two"),
    ({"batch_size": 0}, "--batch_size: got 0, expected a number >= 1"),
    ({"models": ["nothing-there"]}, "nothing-there"),
    ({"prompt_key": "prompt", "chosen_key": "better"}, "row 0, no column 'better', got prompt"),
]


@pytest.mark.parametrize(("given", "words"), BAD)
def test_bad_flags_are_one_line(given, words, files, tmp_path):
    given = {"models": ["m0"], **given}
    if given.get("score") == "words":
        given["models"] = []
    with pytest.raises(UserError) as caught:
        weigh(settings(files, tmp_path / "out.jsonl", **given))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "got no pairs"),
        (b"{not json\n", "line 1 is no JSON object"),
        (b'{"prompt": "a"}\n[1]\n', "line 2 is no JSON object"),
        (b"\xff\xfe", "it is not UTF-8"),
        (b'{"prompt": "a", "chosen": 3, "rejected": "c"}\n', "row 0, column 'chosen': got int"),
    ],
)
def test_damaged_data_are_one_line(content, words, files, tmp_path, capsys):
    (tmp_path / "pairs.jsonl").write_bytes(content)
    argv = ["weigh", "--data", str(tmp_path / "pairs.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    argv += ["--model", str(files / "m0"), "--against", str(files / "m1")]
    assert cli.main(argv) == 2
    assert words in capsys.readouterr().err


def test_an_output_is_not_replaced_unasked(files, tmp_path, capsys):
    (tmp_path / "out.jsonl").write_text("mine")
    argv = ["weigh", "--data", str(files / "pairs.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    argv += ["--model", str(files / "m0"), "--against", str(files / "m1")]
    assert cli.main(argv) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "out.jsonl").read_text() == "mine"
    assert cli.main([*argv, "--overwrite"]) == 0
    assert len(lines(tmp_path / "out.jsonl")) == 10


def test_rows_with_a_byte_order_mark_and_line_separators_in_texts(tmp_path):
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "a", "chosen": "one\u2028two\x85three", "rejected": "b"}
    path.write_bytes((json.dumps(row, ensure_ascii=False) + "\r\n").encode("utf-8-sig"))
    assert pairs_file.read(path) == [row]
