"""Rows of every kind of data: ids and masks are the template's own, responses are whole, cuts are counted."""

from __future__ import annotations

import json

import pytest
from chat_templates import CHATML, FORGETS, GEMMA_3, LLAMA_3, QWEN_3, TEMPLATES, THINKS_FIRST, tokenizer
from datasets import Dataset

from sparsepo_plugin.adapters.pairs.prepare import prepare
from sparsepo_plugin.adapters.pairs.texts import RowOptions
from sparsepo_plugin.errors import UserError

ASK, FOUR, FIVE = "What is two plus two?", "The answer is four.", "It is five, of course!"
CONVERSATIONS = {
    "one turn": [("user", ASK)],
    "three turns": [("user", "Hello there"), ("assistant", "Hello there"), ("user", ASK)],
    "a system turn": [("system", "You are brief."), ("user", ASK)],
}


def turns(*spoken):
    return [{"role": role, "content": content} for role, content in spoken]


def made(rows, template=None, end="<|im_end|>", **options):
    """Prepare rows; the prepared pairs, the account and the tokenizer."""
    words = tokenizer(template, end)
    options = {"max_len": 200, "prompt_key": "prompt", "chat_template": template is not None, **options}
    return *prepare(Dataset.from_list(rows), words, RowOptions(**options)), words


def responses(pair, words):
    return tuple(words.decode(pair[side][pair[f"{side}_start"] :]) for side in ("chosen", "rejected"))


def own(words, conversation, **arguments):
    """Ids and last response by transformers' own marks."""
    found = words.apply_chat_template(
        conversation, return_assistant_tokens_mask=True, return_dict=True, **arguments
    )
    ids, mask = found["input_ids"], found["assistant_masks"]
    start = len(mask)
    while start and mask[start - 1]:
        start -= 1
    return ids, start


@pytest.mark.parametrize("spoken", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_and_masks_are_the_templates_own(name, spoken):
    if name == "no system role" and spoken[0][0] == "system":
        pytest.skip("refused: test_a_turn_that_the_template_refuses")
    template, end = TEMPLATES[name]
    row = {
        "prompt": turns(*spoken),
        "chosen": turns(("assistant", FOUR)),
        "rejected": turns(("assistant", FIVE)),
    }
    pairs, account, words = made([row], template, end)
    assert account.kept == 1
    for side in ("chosen", "rejected"):
        ids, start = own(words, row["prompt"] + row[side])
        assert pairs[0][side] == ids
        assert pairs[0][f"{side}_start"] == start
        assert 0 < start < len(ids)


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("answer", [FOUR, f"<think>\nlet me see\n</think>\n\n{FOUR}"])
def test_qwen_3_with_and_without_thinking(thinking, answer):
    row = {"prompt": ASK, "chosen": answer, "rejected": FIVE}
    pairs, _, words = made([row], QWEN_3, template_arguments={"enable_thinking": thinking})
    thought = "\nlet me see\n" if "see" in answer else "\n\n"
    for side, said in (("chosen", FOUR), ("rejected", FIVE)):
        conversation = turns(("user", ASK), ("assistant", row[side]))
        ids = words.apply_chat_template(conversation, enable_thinking=thinking)["input_ids"]
        assert pairs[0][side] == ids
        wanted = f"<think>{thought if side == 'chosen' else chr(10) * 2}</think>\n\n{said}<|im_end|>\n"
        if not thinking:  # the prompt has an empty thought; a response that thinks begins inside of it
            wanted = wanted.removeprefix("<think>\n\n</think>\n\n").removeprefix("<think>\n")
        assert responses(pairs[0], words)[side == "rejected"].endswith(wanted)
        assert len(responses(pairs[0], words)[side == "rejected"]) - len(wanted) < 3


def test_what_only_the_generation_prompt_has_costs_no_character_of_the_response():
    """Upstream's cut at the number of the prompt's characters left "er is four."."""
    row = {"prompt": ASK, "chosen": FOUR, "rejected": FIVE}
    pairs, _, words = made([row], THINKS_FIRST)
    assert responses(pairs[0], words) == (f"{FOUR}<|im_end|>\n", f"{FIVE}<|im_end|>\n")


def test_a_prompt_written_otherwise_where_a_response_follows_is_refused():
    row = {
        "prompt": turns(("user", "Hello there"), ("assistant", "yes"), ("user", ASK)),
        "chosen": FOUR,
        "rejected": FIVE,
    }
    _, account, _ = made([row], FORGETS)
    assert account.kept == 0
    assert account.unusable == [
        (0, "chosen cannot be cut out of the conversation: the chat template writes the prompt differently "
            "where a response follows")
    ]  # fmt: skip


# ---------------------------------------------------------------- forms of data

SHAREGPT = {
    "prompt": [{"from": "system", "value": "You are brief."}, {"from": "human", "value": ASK}],
    "chosen": {"from": "gpt", "value": FOUR},
    "rejected": {"from": "gpt", "value": FIVE},
}
PARTS = {
    "prompt": [
        {"role": "user", "content": [{"type": "text", "text": "What is "}, {"type": "text", "text": ASK[8:]}]}
    ],
    "chosen": [{"role": "assistant", "content": [{"type": "text", "text": FOUR}]}],
    "rejected": [{"role": "assistant", "content": [{"type": "text", "text": FIVE}]}],
}
SAID = {"chosen": turns(("assistant", FOUR)), "rejected": turns(("assistant", FIVE))}
FORMS = {
    "strings": {"prompt": ASK, "chosen": FOUR, "rejected": FIVE},
    "a string and turns": {"prompt": ASK, **SAID},
    "turns and strings": {"prompt": turns(("user", ASK)), "chosen": FOUR, "rejected": FIVE},
    "a turn without its list": {"prompt": ASK, **{side: said[0] for side, said in SAID.items()}},
    "parts": PARTS,
    "the prompt repeated in turns": {
        "prompt": ASK,
        "chosen": turns(("user", ASK), ("assistant", FOUR)),
        "rejected": turns(("user", ASK), ("assistant", FIVE)),
    },
    "the prompt repeated in text": {"prompt": ASK, "chosen": f"{ASK} {FOUR}", "rejected": f"{ASK} {FIVE}"},
    "no prompt": {
        "prompt": [],
        "chosen": turns(("user", ASK), ("assistant", FOUR)),
        "rejected": turns(("user", ASK), ("assistant", FIVE)),
    },
}  # fmt: skip


@pytest.mark.parametrize("row", FORMS.values(), ids=FORMS)
def test_every_form_of_a_pair_gives_the_same_row(row):
    pairs, account, words = made([row], CHATML)
    assert account.unusable == []
    expected = {
        side: own(words, turns(("user", ASK), ("assistant", said)))
        for side, said in (("chosen", FOUR), ("rejected", FIVE))
    }
    for side, (ids, start) in expected.items():
        assert (pairs[0][side], pairs[0][f"{side}_start"]) == (ids, start)
    assert account.repeated == ("repeated" in str([k for k, v in FORMS.items() if v is row]))


def test_sharegpt_roles_and_keys():
    pairs, _, words = made([SHAREGPT], LLAMA_3, "<|eot_id|>")
    ids, start = own(words, turns(("system", "You are brief."), ("user", ASK), ("assistant", FOUR)))
    assert (pairs[0]["chosen"], pairs[0]["chosen_start"]) == (ids, start)


def test_without_a_prompt_column_common_turns_are_the_prompt():
    row = {
        "chosen": turns(("user", "Hello there"), ("assistant", "yes"), ("user", ASK), ("assistant", FOUR)),
        "rejected": turns(("user", "Hello there"), ("assistant", "yes"), ("user", ASK), ("assistant", FIVE)),
    }
    pairs, _, words = made([row], CHATML, prompt_key=None)
    assert responses(pairs[0], words) == (f"{FOUR}<|im_end|>\n", f"{FIVE}<|im_end|>\n")


def test_keys_of_other_turns_that_arrow_fills_with_nulls_are_dropped():
    """A template that asks "name is defined" saw None in every turn but one."""
    template = CHATML.replace("m.content +", "(m.name.upper() if m.name is defined else '') + m.content +")
    named = [{"role": "user", "content": ASK, "name": "ada"}]
    rows = [
        {"prompt": named, "chosen": FOUR, "rejected": FIVE},
        {"prompt": turns(("user", ASK)), "chosen": FOUR, "rejected": FIVE},
    ]
    pairs, account, words = made(rows, template)
    assert account.kept == 2
    assert f"ADA{ASK}" in words.decode(pairs[0]["chosen"])
    assert f"\n{ASK}" in words.decode(pairs[1]["chosen"])


def test_tools_and_arguments_of_a_row_reach_the_template():
    template = CHATML.replace(
        "{% for m", "{{ (tools | length if tools else 0) ~ ' tools ' ~ mood }}{% for m", 1
    )
    row = {**FORMS["strings"], "tools": json.dumps([{"name": "f"}]), "chat_template_kwargs": {"mood": "blue"}}
    pairs, _, words = made([row], template)
    assert words.decode(pairs[0]["chosen"]).startswith("1 tools blue<|im_start|>")


ODD = {
    "a null": ({"chosen": None}, "column 'chosen': got NoneType, expected text or turns"),
    "a number": ({"prompt": 3}, "column 'prompt': got int, expected text or turns"),
    "a null content": (
        {"chosen": [{"role": "assistant", "content": None}]},
        "column 'chosen', turn 0: got none as content, expected text",
    ),
    "a picture": (
        {"prompt": [{"role": "user", "content": [{"type": "image", "text": None}]}]},
        "column 'prompt', turn 0: got parts of type image, expected text",
    ),
    "no role": (
        {"chosen": [{"content": FOUR}]},
        "column 'chosen', turn 0: got content, expected a role and a content",
    ),
    "turns as text": (
        {"chosen": str(turns(("assistant", FOUR)))},
        "column 'chosen': got a list of turns written out as text, expected text, or turns as JSON lines or "
        "Parquet keep them",
    ),
    "a user's turn in the response": (
        {"chosen": turns(("assistant", FOUR), ("user", "Never mind"), ("assistant", "yes"))},
        "chosen: got assistant, user and assistant after the turns of the prompt, expected one turn of the "
        "assistant",
    ),
    "another question": (
        {s: turns(("user", "Name a colour"), ("assistant", s)) for s in ("chosen", "rejected")},
        "chosen and rejected begin with a user turn that differs from the prompt's",
    ),
    "a prompt that ends in the assistant's turn": (
        {"prompt": turns(("user", ASK), ("assistant", "yes"))},
        "the prompt ends in a turn of the assistant, expected the turn that is answered",
    ),
    "tools that are no JSON": (
        {"tools": "{bad"},
        "column 'tools': got text that is not JSON (Expecting property name enclosed in double quotes: "
        "line 1 column 2 (char 1))",
    ),
    "arguments without names": (
        {"chat_template_kwargs": "x"},
        "column 'chat_template_kwargs': got str, expected names with values",
    ),
    "no turn at all": (
        {"rejected": []},
        "rejected: got none after the turns of the prompt, expected one turn of the assistant",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), ODD.values(), ids=ODD)
def test_a_row_that_cannot_be_cut_is_dropped_with_its_number_and_reason(change, reason):
    # One row of another form than the others cannot be in one table; a row alone can.
    _, account, _ = made([{**FORMS["strings"], **change}], CHATML)
    assert account.unusable == [(0, reason)]
    assert account.kept == 0


def test_a_turn_that_the_template_refuses():
    template, end = TEMPLATES["no system role"]
    rows = [{"prompt": turns(("user", ASK)), "chosen": FOUR, "rejected": FIVE} for _ in range(3)]
    rows[1]["prompt"] = turns(("system", "You are brief."), ("user", ASK))
    _, account, _ = made(rows, template, end)
    assert account.unusable == [(1, "the chat template refuses the conversation: System role not supported")]
    template, end = TEMPLATES["raises"]
    _, account, _ = made([{"prompt": ASK, "chosen": FOUR, "rejected": "again"}], template, end)
    assert account.unusable == [(0, "the chat template refuses the conversation: no talk of again")]
    rows = [{"prompt": turns(("user", ASK), ("user", ASK)), "chosen": FOUR, "rejected": FIVE}]
    _, account, _ = made(rows, GEMMA_3, "<eos>")
    assert "roles must alternate" in account.unusable[0][1]


# ---------------------------------------------------------------- plain text


def test_a_response_begins_where_the_tokens_part_on_each_side_for_itself():
    """The prompt's last token and a response's first may be one: upstream counted that one as prompt."""
    words = tokenizer()
    row = {"prompt": "The answer is f", "chosen": "our.", "rejected": "!"}
    assert len(words("The answer is f")["input_ids"]) > len(words("The answer is")["input_ids"])
    pairs, _, _ = made([row])
    assert responses(pairs[0], words) == (" four.<|im_end|>", "!<|im_end|>")
    assert pairs[0]["chosen_start"] == pairs[0]["rejected_start"] - 1


def test_plain_text_ends_in_one_end_token_and_no_space():
    pairs, _, words = made([{"prompt": ASK, "chosen": f" {FOUR}\n\n", "rejected": f" {FIVE}<|im_end|>"}])
    assert words.decode(pairs[0]["chosen"]) == f"{ASK} {FOUR}<|im_end|>"
    assert words.decode(pairs[0]["rejected"]) == f"{ASK} {FIVE}<|im_end|>"


def test_a_template_that_ends_in_no_special_token_gets_the_end_token():
    template = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    pairs, _, words = made([FORMS["strings"]], template)
    assert words.decode(pairs[0]["chosen"]) == f"user: {ASK}\nassistant: {FOUR}<|im_end|>"
    assert responses(pairs[0], words)[0] == f" {FOUR}<|im_end|>"


def test_an_input_template_and_a_prompt_repeated_in_text():
    rows = [{"prompt": "yes", "chosen": f"yes {FOUR}", "rejected": f"yes {FIVE}"}]
    pairs, account, words = made(rows, input_template="Human: {}\n\nAssistant:")
    assert account.repeated == 1
    assert words.decode(pairs[0]["chosen"]) == f"Human: yes\n\nAssistant: {FOUR}<|im_end|>"


def test_plain_rows_that_hold_turns_say_what_they_need():
    _, account, _ = made([{"prompt": "yes", "chosen": turns(("assistant", FOUR)), "rejected": [{"a": 1}]}])
    assert account.unusable[0][1].endswith(
        "got list, expected text (conversations need a chat template: --data.apply_chat_template in OpenRLHF)"
    )


# ---------------------------------------------------------------- what is counted


def test_a_cut_response_is_counted_and_has_no_end_token():
    rows = [{"prompt": "yes", "chosen": f" {FOUR * 9}", "rejected": f" {FIVE}"}]
    pairs, account, words = made(rows, max_len=30)
    assert account.cut == 1
    assert account.longest == len(pairs[0]["chosen"]) == 30
    assert pairs[0]["chosen"][-1] != words.eos_token_id
    assert pairs[0]["chosen"] == words(f"yes {FOUR * 9}")["input_ids"][:30]
    assert pairs[0]["rejected"][-1] == words.eos_token_id
    line = next(line for line in account.lines("it") if "cut" in line)
    assert line.startswith("warning: 1 of 1 pairs are cut at 30 tokens")


def test_one_token_decides_whether_a_row_is_cut():
    words = tokenizer()
    rows = [{"prompt": "yes", "chosen": f" {FOUR}", "rejected": " no"}]
    length = len(words(f"yes {FOUR}")["input_ids"]) + 1
    pairs, account, _ = made(rows, max_len=length)
    assert (account.cut, pairs[0]["chosen"][-1]) == (0, words.eos_token_id)
    pairs, account, _ = made(rows, max_len=length - 1)
    assert (account.cut, pairs[0]["chosen"][-1]) == (1, words(".")["input_ids"][0])


def test_equal_empty_and_roomless_rows_are_counted_and_said():
    rows = [
        {"prompt": "yes", "chosen": " four", "rejected": " five"},
        {"prompt": "yes", "chosen": " four", "rejected": " four"},
        {"prompt": "yes", "chosen": f" {FOUR * 9} four", "rejected": f" {FOUR * 9} five"},
        {"prompt": ASK * 9, "chosen": " four", "rejected": " five"},
        {"prompt": "yes", "chosen": " four", "rejected": "\n"},
    ]
    pairs, account, _ = made(rows, max_len=30)
    assert (account.read, account.kept, account.equal, account.equal_when_cut) == (5, 2, 1, 1)
    assert (account.no_room, account.empty) == (1, 1)
    assert pairs["row"][:] == [0, 4]
    first, *others = account.lines("it")
    assert first == (
        "it: 5 pairs read, 2 kept, 3 dropped (1 without room for a response in max_len 30, "
        "1 with equal responses, 1 with responses equal after cutting)"
    )
    assert others == ["1 of 2 pairs have an empty response"]


def test_numbers_of_tokens_add_up():
    rows = [
        {"prompt": "yes", "chosen": " four", "rejected": " five five"},
        {"prompt": "no", "chosen": "a", "rejected": "b"},
    ]
    pairs, account, _ = made(rows)
    assert account.tokens == sum(len(p["chosen"]) + len(p["rejected"]) for p in pairs)
    prompts = sum(p["chosen_start"] + p["rejected_start"] for p in pairs)
    assert account.response_tokens == account.tokens - prompts
    assert account.largest_id == max(max(p["chosen"] + p["rejected"]) for p in pairs)


def test_a_second_preparation_reads_the_first_ones_rows(monkeypatch):
    from sparsepo_plugin.adapters.pairs import prepare as module

    data = Dataset.from_list([{"prompt": "yes", "chosen": " four", "rejected": f" {n}"} for n in range(5)])
    options = RowOptions(max_len=64, prompt_key="prompt")
    first = prepare(data, tokenizer(), options)
    monkeypatch.setattr(module.Preparation, "__call__", None)
    again = prepare(data, tokenizer(), options)
    assert again.pairs[:] == first.pairs[:]
    with pytest.raises(TypeError):  # another length is another preparation
        prepare(data, tokenizer(), RowOptions(max_len=63, prompt_key="prompt"))


def test_damaged_prepared_rows_are_made_again_and_a_full_cache_is_one_line(monkeypatch, tmp_path):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    data = Dataset.from_list([{"prompt": "yes", "chosen": " four", "rejected": f" {n}"} for n in range(5)])
    options = RowOptions(max_len=64, prompt_key="prompt")
    first = prepare(data, tokenizer(), options).pairs[:]
    (path,) = (tmp_path / "cache/sparsepo").glob("*.arrow")
    path.write_bytes(path.read_bytes()[:-200])
    assert prepare(data, tokenizer(), options).pairs[:] == first
    path.write_bytes(b"nothing of the kind")
    assert prepare(data, tokenizer(), options).pairs[:] == first
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    with pytest.raises(UserError, match=r"prepared rows cannot be kept there .*HF_DATASETS_CACHE"):
        prepare(data, tokenizer(), options)
