"""The batches of TRL's trainer: ids and completion masks are the chat template's own, and it is said."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from datasets import Dataset
from transformers import AutoModelForCausalLM

from sparsepo_plugin.demo.tiny import build_model, save_tiny
from sparsepo_plugin.errors import UserError

ASK, FOUR, FIVE = "What is two plus two?", "The answer is four.", "It is five, of course!"


def templates():
    """The module of templates beside the tests of rows."""
    path = Path(__file__).parents[1] / "pairs" / "chat_templates.py"
    spec = importlib.util.spec_from_file_location("chat_templates", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def turn(role, content):
    return [{"role": role, "content": content}]


@pytest.fixture
def trainer(tiny, tmp_path):
    """A trainer on given rows, with a tokenizer that has a template."""

    def make(rows, template=None, **args):
        words = templates().tokenizer(template)
        save_tiny(tmp_path / "model", build_model(words, hidden_size=16, heads=2, layers=1), words)
        given = {
            "model": AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="float32"),
            "train_dataset": Dataset.from_list(rows),
            "processing_class": words,
        }
        return tiny.trainer(tmp_path / "out", "dpo", given=given, **args), words

    return make


def batch(made):
    """Ids, and ids of the completion, of every row of the first batch; chosen rows first."""
    found = next(iter(made.get_train_dataloader()))
    rows = zip(found["input_ids"], found["attention_mask"], found["completion_mask"])
    return [(ids[seen.bool()].tolist(), ids[answer.bool()].tolist()) for ids, seen, answer in rows]


@pytest.mark.parametrize("name", ["CHATML", "THINKS_FIRST", "LLAMA_3"])
def test_conversations(trainer, capsys, name):
    template = getattr(templates(), name)
    row = {
        "prompt": turn("user", ASK),
        "chosen": turn("assistant", FOUR),
        "rejected": turn("assistant", FIVE),
    }
    made, words = trainer([row] * 4, template)
    out = capsys.readouterr().out
    assert "train data: 4 pairs read, 4 kept" in out
    assert "example, row 0; tokens between bars" in out
    whole = {
        said: words.apply_chat_template(row["prompt"] + turn("assistant", said))["input_ids"]
        for said in (FOUR, FIVE)
    }
    end = "<|eot_id|>" if name == "LLAMA_3" else "<|im_end|>\n"
    for number, (ids, answer) in enumerate(batch(made)):
        said = FOUR if number < 4 else FIVE
        assert ids == whole[said]
        assert words.decode(answer) == said + end


def test_every_form_of_a_conversation(trainer):
    sharegpt = {
        "prompt": [{"from": "human", "value": ASK}],
        "chosen": [{"from": "gpt", "value": FOUR}],
        "rejected": [{"from": "gpt", "value": FIVE}],
    }
    mixed = {"prompt": ASK, "chosen": turn("assistant", FOUR), "rejected": turn("assistant", FIVE)}
    for row in (sharegpt, mixed):
        made, words = trainer([row] * 4, templates().CHATML)
        whole = words.apply_chat_template(turn("user", ASK) + turn("assistant", FOUR))["input_ids"]
        assert batch(made)[0][0] == whole


def test_plain_text_that_merges_with_its_prompt_and_a_cut_response(trainer, capsys):
    rows = [{"prompt": "The answer is f", "chosen": "our.", "rejected": "our blue."}] * 3
    rows += [{"prompt": "yes", "chosen": f" {FOUR * 20}", "rejected": " no"}]
    made, words = trainer(rows, max_length=32)
    assert "warning: 1 of 4 pairs are cut at 32 tokens" in capsys.readouterr().out
    found = {words.decode(answer) for _, answer in batch(made)}
    assert {" four.<|im_end|>", " four blue.<|im_end|>"} <= found
    cut = next(ids for ids, _ in batch(made) if len(ids) == 32)
    assert words.eos_token_id not in cut


def test_a_text_that_begins_with_the_first_token_is_not_given_it_again(trainer):
    """Axolotl's prompts are rendered before they come here."""
    made, words = trainer([{"prompt": f"<s>{ASK}", "chosen": f" {FOUR}", "rejected": f" {FIVE}"}] * 4)
    assert all(ids.count(words.bos_token_id) == 1 for ids, _ in batch(made))


def test_rows_that_cannot_be_trained_on_are_refused(trainer):
    good = {"prompt": ASK, "chosen": f" {FOUR}", "rejected": f" {FIVE}"}
    with pytest.raises(UserError, match=r"train data: row 1, column 'chosen': got NoneType, expected text"):
        trainer([good, {**good, "chosen": None}])
    with pytest.raises(UserError, match=r"max_length 8 leaves room for prompts below 6; raise it"):
        trainer([{**good, "prompt": ASK * 9}], max_length=8)


def test_streamed_data_are_upstreams_own_rows():
    from sparsepo_plugin.adapters.trl.rows import prepare_rows

    data = Dataset.from_list([{"prompt": ASK, "chosen": "a", "rejected": "b"}])
    assert prepare_rows(data.to_iterable_dataset(), templates().tokenizer(), None, "train") is None
