"""Weights by character spans: whichever tokenizer reads the text, a token gets what its characters have."""

from __future__ import annotations

import json
import math

import pytest
import torch
from datasets import Dataset, load_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from sparsepo_plugin.adapters.pairs.prepare import check_weights, prepare
from sparsepo_plugin.adapters.pairs.texts import RowOptions
from sparsepo_plugin.adapters.pairs.turns import UnusableRowError
from sparsepo_plugin.adapters.pairs.weights import Span, read_spans, token_numbers
from sparsepo_plugin.errors import UserError
from sparsepo_plugin.forward.window import numbers_in, response_window

CORPUS = [
    "the quick brown fox jumps over the lazy dog", "a good answer is short and right", "I don't know, sorry!",
    "naïve café crème brûlée", "数字と文字",
    "👍🏽 thumbs up 👩‍👩‍👧 family", "x = 3 * (y + 2)", "e\u0301 and n\u0303",
]  # fmt: skip
SPECIAL = ["<s>", "</s>", "<pad>", "<unk>", "<|user|>", "<|assistant|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def byte_level() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return tokenizer


def with_prefix_space() -> Tokenizer:
    """As Llama 2: a space before the text, spaces as ▁, unknown characters as bytes."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")  # else merges run over words
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{n:02X}>" for n in range(256)]
    tokenizer.train_from_iterator(
        CORPUS[:4], trainers.BpeTrainer(vocab_size=480, special_tokens=[*SPECIAL, *bytes_])
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def unigram() -> Tokenizer:
    """As T5 and Gemma's ancestors: NFKC, Metaspace, unknown characters as one token."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(
        CORPUS, trainers.UnigramTrainer(vocab_size=160, special_tokens=SPECIAL, unk_token="<unk>")
    )
    return tokenizer


KINDS = {"byte level": byte_level, "prefix space": with_prefix_space, "unigram": unigram}
_MADE: dict[str, PreTrainedTokenizerFast] = {}


def tokenizer_of(kind: str) -> PreTrainedTokenizerFast:
    if kind not in _MADE:
        _MADE[kind] = PreTrainedTokenizerFast(
            tokenizer_object=KINDS[kind](), bos_token="<s>", eos_token="</s>", pad_token="<pad>",
            unk_token="<unk>", chat_template=TEMPLATE,
            additional_special_tokens=["<|user|>", "<|assistant|>"],
        )  # fmt: skip
    return _MADE[kind]


words = st.sampled_from(
    [
        "good",
        "bad",
        " ",
        "  ",
        "\n",
        "café",
        "e\u0301",
        "n\u0303o",
        "👍🏽",
        "👩‍👩‍👧",
        "数字",
        "don't",
        "x=3",
        "…",
        "the",
        "-",
        "ﬁ",
    ]
)
texts = st.lists(words, min_size=1, max_size=12).map("".join).filter(lambda text: text.strip())


def spans_of(data: st.DataObject, text: str) -> list[Span]:
    """Disjoint spans over some of a text's characters."""
    cuts = sorted(data.draw(st.sets(st.integers(0, len(text)), min_size=2, max_size=6)))
    numbers = data.draw(st.lists(st.sampled_from([0.0, 0.25, 1.0, 2.5, -1.0]), min_size=5, max_size=5))
    kept = [(a, b, n) for a, b, n in zip(cuts, cuts[1:], numbers) if data.draw(st.booleans())]
    return [Span(*span) for span in kept]


def prepared(kind: str, rows: list[dict], **options) -> list[dict]:
    """Rows as ``prepare`` makes them, without its cache."""
    from sparsepo_plugin.adapters.pairs.prepare import Preparation

    batch = {name: [row.get(name) for row in rows] for name in rows[0]}
    options = RowOptions(max_len=options.pop("max_len", 400), prompt_key="prompt", **options)
    made = Preparation(tokenizer_of(kind), options, weighted=True)(batch, list(range(len(rows))))
    return [{name: values[n] for name, values in made.items()} for n in range(len(rows))]


def rule(text: str, spans: list[Span], start: int, end: int) -> float:
    """The stated rule, a character at a time."""
    characters = list(range(start, end))
    while characters and text[characters[0]].isspace() and not text[start:end].isspace():
        characters.pop(0)
    while characters and text[characters[-1]].isspace() and not text[start:end].isspace():
        characters.pop()
    numbers = [span.number for c in characters for span in spans if span.start <= c < span.end]
    return sum(numbers) / len(numbers) if numbers and 2 * len(numbers) >= len(characters) else math.nan


def same(got: list[float], want: list[float]) -> None:
    assert got == pytest.approx(want, nan_ok=True, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(texts, st.data())
def test_a_token_gets_the_mean_of_its_characters_by_the_rule(kind, text, data):
    spans, tokenizer = spans_of(data, text), tokenizer_of(kind)
    offsets = tokenizer(text, return_offsets_mapping=True, add_special_tokens=False)["offset_mapping"]
    numbers = token_numbers(text, spans, offsets)
    same(numbers, [rule(text, spans, *offset) for offset in offsets])


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(texts, st.sampled_from([0.0, 0.5, 3.0]))
def test_one_span_over_a_response_gives_every_token_of_its_text_the_number(kind, chat, text, number):
    row = {
        "prompt": "the quick", "chosen": text, "rejected": f"{text} no",
        "chosen_weights": [[0, len(text), number]], "rejected_weights": None,
    }  # fmt: skip
    (made,) = prepared(kind, [row], chat_template=chat)
    if made["kind"]:
        return  # such as texts that a tokenizer makes equal
    tokenizer = tokenizer_of(kind)
    ids, numbers = made["chosen"][made["chosen_start"] :], made["chosen_weights"]
    assert len(numbers) == len(ids)
    for token, got in zip(ids, numbers):
        word = tokenizer.decode([token])
        if token in tokenizer.all_special_ids and token != tokenizer.unk_token_id:
            assert math.isnan(got), word
        elif word.strip() and not (chat and token == tokenizer.unk_token_id):  # of a template's line end
            assert got == number, word
    assert len(made["rejected_weights"]) == len(made["rejected"]) - made["rejected_start"]
    assert all(map(math.isnan, made["rejected_weights"]))


@pytest.mark.parametrize("chat", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_words_keep_their_weights_under_every_tokenizer_and_template(kind, chat):
    response, word = " a good answer 👍🏽, café", "good"
    start = response.index(word)
    row = {
        "prompt": "is good", "chosen": response, "rejected": "no",
        "chosen_weights": [[start, start + len(word), 0.0], [response.index("café"), len(response), 2.0]],
        "rejected_weights": [],
    }  # fmt: skip
    (made,) = prepared(kind, [row], chat_template=chat)
    tokenizer = tokenizer_of(kind)
    pieces = [tokenizer.decode([t]).strip() for t in made["chosen"][made["chosen_start"] :]]
    zero = "".join(piece for piece, n in zip(pieces, made["chosen_weights"]) if n == 0)
    assert zero == word
    two = sum(n == 2 for n in made["chosen_weights"])
    rest = [n for n in made["chosen_weights"] if n not in (0, 2)]
    assert two >= 1
    assert all(map(math.isnan, rest))


def test_a_response_that_repeats_the_prompt_or_is_cut_keeps_its_weights_in_place():
    prompt, answer = "the lazy dog", " is good"
    start = len(prompt) + answer.index("good")
    row = {
        "prompt": prompt, "chosen": prompt + answer, "rejected": f"{prompt} is bad",
        "chosen_weights": [[start, start + 4, 0.5]], "rejected_weights": None,
    }  # fmt: skip
    for chat in (False, True):
        (made,) = prepared("byte level", [row], chat_template=chat)
        assert made["repeated"]
        tokenizer = tokenizer_of("byte level")
        pieces = [tokenizer.decode([t]) for t in made["chosen"][made["chosen_start"] :]]
        assert "".join(p for p, n in zip(pieces, made["chosen_weights"]) if n == 0.5).strip() == "good"
        (cut,) = prepared("byte level", [row], chat_template=chat, max_len=len(made["chosen"]) - 2)
        kept = len(cut["chosen"]) - cut["chosen_start"]
        same(cut["chosen_weights"], made["chosen_weights"][:kept])


def test_a_conversation_counts_from_the_first_character_of_its_last_turn():
    turns = [{"role": "user", "content": "good?"}, {"role": "assistant", "content": "  very good"}]
    other = [turns[0], {"role": "assistant", "content": "bad"}]
    row = {
        "prompt": [], "chosen": turns, "rejected": other, "chosen_weights": [[7, 11, 3.0]],
        "rejected_weights": [[0, 3, 4.0]],
    }  # fmt: skip
    (made,) = prepared("unigram", [row], chat_template=True)
    tokenizer = tokenizer_of("unigram")
    for side, number, word in (("chosen", 3.0, "good"), ("rejected", 4.0, "bad")):
        pieces = [tokenizer.decode([t]) for t in made[side][made[f"{side}_start"] :]]
        got = "".join(p for p, n in zip(pieces, made[f"{side}_weights"]) if n == number)
        assert got.replace(" ", "") == word


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("[[0, 1, 2]]", "got str, expected a list of"),
        ({"start": 0}, "got dict, expected a list of"),
        ([[0, 1]], "got [0, 1], expected"),
        ([[0, 1, None]], "got [0, 1, None], expected"),
        ([[0, 1, math.nan]], "expected a list of [start, end, number], finite"),
        ([[0, 1, True]], "expected a list of"),
        (["abc"], "got abc, expected"),
        ([[0.5, 1, 1]], "got span 0.5 to 1, expected whole numbers"),
        ([[3, 3, 1]], "got span 3 to 3"),
        ([[-1, 3, 1]], "got span -1 to 3"),
        ([[0, 9, 1]], "got span 0 to 9, expected whole numbers with 0 <= start < end <= 8, the characters"),
        ([[4, 6, 1], [0, 5, 1]], "got spans 0 to 5 and 4 to 6, which overlap"),
    ],
)
def test_a_malformed_column_is_refused_in_words(value, words):
    with pytest.raises(UnusableRowError, match=r"^column 'chosen_weights': ") as caught:
        read_spans(value, "chosen_weights", 8)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_template_that_rewrites_the_response_is_refused():
    tokenizer = tokenizer_of("byte level")
    plain, tokenizer.chat_template = (
        tokenizer.chat_template,
        TEMPLATE.replace("m.content", "m.content | upper"),
    )
    try:
        row = {
            "prompt": "a",
            "chosen": "good",
            "rejected": "bad",
            "chosen_weights": [[0, 4, 1]],
            "rejected_weights": None,
        }
        (made,) = prepared("byte level", [row], chat_template=True)
        assert made["reason"].startswith("chosen: the chat template does not write the response as it is")
        row["chosen_weights"] = None
        assert not prepared("byte level", [row], chat_template=True)[0]["kind"]
    finally:
        tokenizer.chat_template = plain


def test_rows_from_a_file_keep_numbers_of_mixed_types_and_missing_columns(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    both = [[0, 5, 1], [5, 9, 0.5]]
    rows = [
        {"prompt": "the", "chosen": " good dog", "rejected": " bad", "chosen_weights": both},
        {"prompt": "the", "chosen": " good fox", "rejected": " bad fox", "chosen_weights": []},
        {"prompt": "the", "chosen": " right", "rejected": " lazy"},
    ]  # fmt: skip
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_dataset("json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache"))
    options = RowOptions(max_len=64, prompt_key="prompt")
    found = prepare(data, tokenizer_of("byte level"), options)
    assert found.account.kept == 3
    numbers = [row["chosen_weights"] for row in found.pairs]
    assert {1.0, 0.5} <= set(numbers[0])
    assert all(map(math.isnan, [*numbers[1], *numbers[2]]))
    check_weights("it", found.pairs, "--loss tisdpo")
    with pytest.raises(UserError, match="without a number for any token"):
        check_weights("it", found.pairs.select([1, 2]), "--loss tisdpo")
    plain = prepare(data.remove_columns("chosen_weights"), tokenizer_of("byte level"), options)
    assert "chosen_weights" not in plain.pairs.column_names
    with pytest.raises(UserError, match="got no columns chosen_weights and rejected_weights"):
        check_weights("it", plain.pairs, "--loss tisdpo")


def test_a_tokenizer_that_knows_no_characters_is_refused():
    class Slow:
        is_fast = False

    data = Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c", "chosen_weights": []}])
    with pytest.raises(UserError, match="Slow: it does not say which characters"):
        prepare(data, Slow(), RowOptions(max_len=8, prompt_key="prompt"))


def test_numbers_stand_at_their_tokens_in_the_window():
    ids = torch.arange(20).view(2, 10)
    labels = torch.full_like(ids, -100)
    labels[0, 3:7], labels[1, 0:3] = ids[0, 3:7], ids[1, 0:3]
    window = response_window(ids, labels)
    # The second row has no prompt: nothing predicts its first token.
    numbers = numbers_in(window, [[1, 2, 3, 4], [7, 8, 9]])
    assert numbers[0].tolist() == [1, 2, 3, 4]
    assert numbers[1, :2].tolist() == [8, 9]
    assert numbers[1, 2:].isnan().all()
    fewer = numbers_in(window, [[3, 4], [9]])
    assert fewer[0].isnan().tolist() == [True, True, False, False]
    assert fewer[1].isnan().tolist() == [True, False, True, True]
