"""Generated data in the layout of the demo's real files, and tiny models."""

import json
import random

import pytest

WORDS = ["the", "a", "good", "bad", "film", "cat", "dog", "house", "river", "runs", "sits", "stone"]


def words(source, count):
    return " ".join(source.choice(WORDS) for _ in range(count))


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def pairs(source, count, mark, end):
    return [
        {
            "prompt": f"{mark}{words(source, 6)} {place}?{end}",
            "chosen": f" {words(source, 5)}.",
            "rejected": f" {words(source, 7)}.",
        }
        for place in range(count)
    ]


@pytest.fixture(scope="session")
def made_data(tmp_path_factory):
    source, root = random.Random(0), tmp_path_factory.mktemp("data")
    for part in ("train", "test"):
        talks = pairs(source, 40, f"\n\nHuman: {part} ", "\n\nAssistant:")
        lines(root / f"preference/hh_helpful_{part}.jsonl", talks)
        lines(root / f"preference/tldr_odpo_{part}.jsonl", pairs(source, 8, part, "\n\nTL;DR:"))
    reviews = [{"text": words(source, 9), "label": ("pos", "neg")[i % 2]} for i in range(30)]
    lines(root / "text/rt_polarity.jsonl", reviews)
    for part in ("train", "valid"):
        films = [{"text": words(source, 30), "label": ("pos", "neg")[i % 2]} for i in range(30)]
        lines(root / f"text/imdb_{part}.jsonl", films)
    swag = [
        {
            "ind": i, "activity_label": "Walking", "ctx_a": words(source, 5), "ctx_b": words(source, 2),
            "ctx": words(source, 7), "endings": [words(source, 4) for _ in range(4)], "label": str(i % 4),
            "split": "val", "split_type": "indomain", "source_id": str(i),
        }
        for i in range(12)
    ]  # fmt: skip
    lines(root / "eval/hellaswag_val.jsonl", swag)
    arc = [
        {
            "id": str(i), "answerKey": "ABCD"[i % 4],
            "question": {
                "stem": words(source, 6) + "?",
                "choices": [{"label": letter, "text": words(source, 2)} for letter in "ABCD"],
            },
        }
        for i in range(12)
    ]  # fmt: skip
    lines(root / "eval/arc_challenge_test.jsonl", arc)
    rule = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{}]}
    lines(root / "eval/ifeval.jsonl", [{"key": i, "prompt": words(source, 8), **rule} for i in range(4)])
    return root


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """A causal model and an encoder, both random."""
    import torch
    from transformers import BertConfig, BertModel

    from study.language import Size, build_model, build_tokenizer

    folder, source = tmp_path_factory.mktemp("models"), random.Random(1)
    tokenizer = build_tokenizer([words(source, 20) for _ in range(50)], 400)
    build_model(tokenizer, Size(400, 32, 2, 1, positions=1024), 0).save_pretrained(folder / "model")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=256, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder / "encoder")
    tokenizer.save_pretrained(folder / "encoder")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    tokenizer.save_pretrained(folder / "model")
    return folder
