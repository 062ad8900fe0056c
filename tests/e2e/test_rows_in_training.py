"""The rows that the real trainers train on are the prepared ones: ids and response masks, batch by batch."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from training import FP32, run_many

from sparsepo_plugin.demo.tiny import build_model, save_tiny

pytestmark = pytest.mark.slow

ROWS = [
    # The template opens a thought in the generation prompt only; one response merges with its prompt.
    {
        "prompt": "What is two plus two?",
        "chosen": "The answer is four.",
        "rejected": "It is five, of course!",
    },
    {"prompt": "Name a colour;", "chosen": "blue. " * 30, "rejected": "Never mind"},
    {"prompt": "Hello there", "chosen": "yes", "rejected": "yes yes"},
    {"prompt": "Hello there", "chosen": "You are brief.", "rejected": ""},
    {"prompt": "Name a colour;", "chosen": "blue", "rejected": "blue"},
]
PLAIN = [
    {"prompt": "The answer is f", "chosen": "our.", "rejected": "!"},
    {"prompt": "Name a colour;", "chosen": " blue. " * 30, "rejected": " Never mind"},
]
MAX_LEN = 64


def templates():
    """The module of templates beside the tests of rows."""
    path = Path(__file__).parents[1] / "pairs" / "chat_templates.py"
    spec = importlib.util.spec_from_file_location("chat_templates", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """Runs that record the tokens of every pair they evaluate, which are those they train on."""
    folder = tmp_path_factory.mktemp("rows")
    made = templates()
    words = made.tokenizer(made.THINKS_FIRST)
    save_tiny(folder / "model", build_model(words, hidden_size=16, heads=2, layers=1), words)
    common = [
        *("--model.model_name_or_path", str(folder / "model"), "--data.max_len", str(MAX_LEN), *FP32),
        *("--train.batch_size", "2", "--train.micro_batch_size", "2", "--ds.attn_implementation", "eager"),
    ]  # fmt: skip
    runs = {}
    for name, rows in (("chat", ROWS), ("plain", PLAIN)):
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        data = [
            "--data.dataset",
            str(path),
            "--eval.dataset",
            str(path),
            "--loss",
            "dpo",
            "--dpo.record",
            "9",
        ]
        data += ["--data.apply_chat_template"] if name == "chat" else []
        runs[name] = [*common, *data]
        runs[f"{name} whole rows"] = [*common, *data, "--perf.prefix", "off"]
        runs[f"{name} packed"] = [*common, *data, "--ds.packing_samples"]
        runs[f"{name} one at a time"] = [*common, *data, "--train.micro_batch_size", "1"]
    return words, run_many(folder, runs)


def tokens(run):
    return [json.loads(line) for line in (run.folder / "tokens.jsonl").read_text().splitlines()]


def expected(words, row, side, *, chat):
    """Prompt ids and response ids, by tokenizer calls alone."""
    if chat:
        turns = [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row[side]}]
        # Up to "<|im_start|>assistant\n": the "<think>" after it is not in the conversation.
        start = words.apply_chat_template(turns[:1], tokenize=False) + "<|im_start|>assistant\n"
        whole = words.apply_chat_template(turns, tokenize=False)
        ids = words(whole, add_special_tokens=False)["input_ids"]
        first = len(words(start, add_special_tokens=False)["input_ids"])
        assert whole.startswith(start)
    else:
        ids = [*words(row["prompt"] + row[side])["input_ids"], words.eos_token_id]
        alone = words(row["prompt"])["input_ids"]
        first = next(n for n, (a, b) in enumerate(zip([*alone, None], ids)) if a != b)
    return ids[:first], ids[first:MAX_LEN]


@pytest.mark.parametrize("variant", ["", " whole rows", " packed", " one at a time"])
@pytest.mark.parametrize("name", ["chat", "plain"])
def test_the_trainers_batches_are_the_prepared_rows(recorded, name, variant):
    words, runs = recorded
    run = runs[name + variant]
    assert run.code == 0, run.err[-2000:]
    rows = ROWS[:4] if name == "chat" else PLAIN
    found = tokens(run)
    assert len(found) == 2 * len(rows)
    for line in found:
        row = rows[line["pair"]]
        prompt, response = expected(words, row, line["side"], chat=name == "chat")
        assert line["token_ids"] == response
        assert line["prompt"] == words.decode(prompt)


def test_a_response_that_merges_with_its_prompt_begins_with_the_merged_token(recorded):
    words, runs = recorded
    chosen, rejected = tokens(runs["plain"])[:2]
    assert words.decode(chosen["token_ids"]) == " four.<|im_end|>"
    assert words.decode(rejected["token_ids"]) == "!<|im_end|>"
    assert (chosen["prompt"], rejected["prompt"]) == ("The answer is", "The answer is f")


def test_the_run_says_what_became_of_the_rows(recorded):
    _, runs = recorded
    out = runs["chat"].out
    assert "data: 5 pairs read, 4 kept, 1 dropped (1 with equal responses)" in out
    assert f"warning: 1 of 4 pairs are cut at {MAX_LEN} tokens" in out
    assert "1 of 4 pairs have an empty response" in out
    assert "4 of 4 pairs hold plain text, made one user turn and one assistant turn" in out
    assert "prompts are taken from the column 'prompt'" in out
    assert runs["chat"].losses()[0] == pytest.approx(runs["chat whole rows"].losses()[0], abs=1e-6)


def test_upstreams_end_tokens_are_upstreams_rows_exactly(tmp_path):
    """--data.upstream_end_tokens: the ids of upstream's own data set, a cut response's end token included."""
    from datasets import Dataset

    from sparsepo_plugin.adapters.openrlhf.standin import import_openrlhf
    from sparsepo_plugin.adapters.pairs.prepare import prepare
    from sparsepo_plugin.adapters.pairs.texts import RowOptions

    import_openrlhf()
    from types import SimpleNamespace

    from openrlhf.datasets import RewardDataset

    made = templates()
    for template in (None, made.CHATML):
        words = made.tokenizer(template)
        speak = (
            (lambda role, text: [{"role": role, "content": text}]) if template else (lambda role, text: text)
        )
        rows = [
            {key: speak("user" if key == "prompt" else "assistant", text) for key, text in row.items()}
            for row in ROWS[:3]
        ]
        data = Dataset.from_list(rows)
        keys = {"prompt_key": "prompt", "chosen_key": "chosen", "rejected_key": "rejected"}
        options = SimpleNamespace(**keys, apply_chat_template=bool(template), tokenizer_chat_template=None)
        strategy = SimpleNamespace(args=SimpleNamespace(data=options))
        theirs = RewardDataset(data, words, MAX_LEN, strategy, is_dpo=True, num_processors=1)
        wanted = {"prompt_key": "prompt", "chat_template": bool(template), "upstream_end_tokens": True}
        ours = prepare(data, words, RowOptions(max_len=MAX_LEN, **wanted)).pairs
        for number, row in enumerate(ours):
            chosen, _, rejected, _, length = theirs[number]
            assert (row["chosen"], row["rejected"]) == (chosen[0].tolist(), rejected[0].tolist())
            assert row["chosen_start"] == row["rejected_start"] == length
        assert ours[1]["chosen"][-1] == words.eos_token_id
        assert len(ours[1]["chosen"]) == MAX_LEN


def test_a_pair_knows_its_row_in_the_data_and_its_size():
    from types import SimpleNamespace

    from datasets import Dataset

    from sparsepo_plugin.adapters.openrlhf import flags
    from sparsepo_plugin.adapters.openrlhf.dataset import IndexedPreferenceDataset

    rows = [{**PLAIN[0], "chosen": "!"}, *PLAIN]  # the first has equal responses
    parsed = flags.parse(["--data.prompt_key", "prompt", "--data.max_len", "64", "--data.length_batching"])
    said: list[str] = []
    strategy = SimpleNamespace(args=parsed.arguments, print=said.append)
    data = IndexedPreferenceDataset(Dataset.from_list(rows), templates().tokenizer(), 64, strategy)
    assert said[0] == "data: 3 pairs read, 2 kept, 1 dropped (1 with equal responses)"
    assert [data.row_number(index) for index in range(len(data))] == [1, 2]
    chosen, seen, _, _, lengths = data.collate_fn([data[0], data[1]])
    assert chosen.shape == seen.shape == (2, 64)
    assert [length.index for length in lengths] == [0, 1]
    assert lengths * 2 == [*lengths, lengths[0] + 1, lengths[1]]
    # Prompt once, both responses.
    assert data.sizes == [int(seen[n].sum()) + len(data.pairs[n]["rejected"]) - lengths[n] for n in (0, 1)]
