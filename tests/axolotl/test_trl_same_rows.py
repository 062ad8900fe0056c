"""Token ids and response masks are TRL's own, row by row, for the templates of four families."""

from __future__ import annotations

import itertools
import json

import pytest
from datasets import Dataset
from test_trl_rows import ASK, FIVE, FOUR, templates, turn
from transformers import AutoModelForCausalLM
from trl import DPOTrainer

from sparsepo_plugin.demo.tiny import build_model, save_tiny

FAMILIES = ("llama 3", "qwen 3", "gemma 3", "mistral")
MANY = [*turn("user", ASK), *turn("assistant", FOUR), *turn("user", "Name a colour; again.")]
TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"left": 2, "right": 2}}}
CALLED = [
    {"role": "user", "content": ASK, "tool_calls": None},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "4", "tool_calls": None},
]


def sides(before, chosen=FOUR, rejected=FIVE):
    """Both responses behind turns that the row holds in front of each."""
    return {"chosen": before + turn("assistant", chosen), "rejected": before + turn("assistant", rejected)}


FORMS = {
    "prompt": [{"prompt": turn("user", ASK), **sides([])}],
    "implicit prompt": [sides(turn("user", ASK))],
    "several turns": [{"prompt": MANY, **sides([])}, {"prompt": turn("user", ASK), **sides([])}],
    "several turns, implicit": [sides(MANY)],
    "system": [{"prompt": turn("system", "You are brief.") + turn("user", ASK), **sides([])}],
    "arguments of the template": [
        {"prompt": turn("user", ASK), **sides([]), "chat_template_kwargs": {"enable_thinking": False}}
    ],
    "tools": [{"prompt": CALLED, **sides([]), "tools": json.dumps([TOOL])}],
    "a thought": [{"prompt": turn("user", ASK), **sides([], f"<think>\nsee\n</think>\n\n{FOUR}")}],
    "text": [{"prompt": ASK, "chosen": f" {FOUR}", "rejected": f" {FIVE}"}],
    "text, implicit": [{"chosen": f"{ASK} {FOUR}", "rejected": f"{ASK} {FIVE}"}],
    "text with its end": [{"prompt": ASK, "chosen": f" {FOUR}END", "rejected": f" {FIVE}"}],
}
WAYS = ("whole", "cut", "pad is end")


def with_tools(template):
    """The template with the tools and all calls in front."""
    return (
        "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages if m.tool_calls %}"
        "{{ m.tool_calls | tojson }}{% endfor %}" + template
    )


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("family", "form"), itertools.product(FAMILIES, FORMS))
def test_batches_are_upstreams(tiny, tmp_path, family, form, way):
    if form == "tools" and family in ("gemma 3", "mistral"):
        pytest.skip("its template takes no tool turns")
    template, end = templates().TEMPLATES[family]
    words = templates().tokenizer(with_tools(template) if form == "tools" else template, end)
    if way == "pad is end":
        words.pad_token = words.eos_token
    save_tiny(tmp_path / "model", build_model(words, hidden_size=16, heads=2, layers=1), words)
    rows = [
        {name: value.replace("END", end) if isinstance(value, str) else value for name, value in row.items()}
        for row in FORMS[form]
    ]
    data = Dataset.from_list(rows)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype="float32")
    given = {"model": model, "train_dataset": data, "processing_class": words}
    made = tiny.trainer(tmp_path / "out", "dpo", given=given, max_length=512)
    if way == "cut":
        longest = max(
            len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))
            for row in made.train_dataset
        )
        made = tiny.trainer(tmp_path / "cut", "dpo", given=given, max_length=longest - 2)
    theirs = DPOTrainer._prepare_dataset(made, data, words, made.args, "train")
    assert len(theirs) == len(made.train_dataset) == len(rows)
    columns = ("prompt_ids", "chosen_ids", "rejected_ids")
    for pair in zip(made.train_dataset, theirs, strict=True):
        ours, upstreams = (made.data_collator([{name: row[name] for name in columns}]) for row in pair)
        for name in ("input_ids", "attention_mask", "completion_mask"):
            assert ours[name].tolist() == upstreams[name].tolist(), name
