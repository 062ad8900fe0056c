"""Tiny models and tokenizer behave as plain Hugging Face ones; the supervised start learns the language."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from sparsepo_plugin.demo.language import generate_pairs, vocabulary
from sparsepo_plugin.demo.supervised import supervised_start
from sparsepo_plugin.demo.tiny import FAMILIES, build_model, build_tokenizer, save_tiny


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(vocabulary())


def test_words_and_tokens_are_one_to_one(tokenizer: PreTrainedTokenizerFast) -> None:
    words = vocabulary()
    ids = tokenizer(" ".join(words))["input_ids"]
    assert ids == list(range(3, 3 + len(words)))
    assert tokenizer.convert_ids_to_tokens(ids) == words
    assert len(tokenizer) == len(words) + 3


def test_text_survives_encoding_and_decoding(tokenizer: PreTrainedTokenizerFast) -> None:
    for pair in generate_pairs(20, seed=0):
        text = pair.prompt + pair.chosen
        ids = tokenizer(text)["input_ids"]
        assert ids == tokenizer(pair.prompt)["input_ids"] + tokenizer(pair.chosen)["input_ids"]
        assert len(ids) == len(pair.prompt.split()) + len(pair.chosen_planted)
        assert tokenizer.decode(ids) == text
        for joint in ("", " "):
            assert tokenizer(text + joint + "<eos>")["input_ids"] == [*ids, tokenizer.eos_token_id]
        assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert tokenizer("unheard")["input_ids"] == [tokenizer.unk_token_id]


@pytest.mark.parametrize("words", [["a", "a"], ["a b"], [""], ["<pad>"]])
def test_unusable_words_are_refused(words: list[str]) -> None:
    with pytest.raises(ValueError, match="build_tokenizer: got the word"):
        build_tokenizer(words)


@pytest.mark.parametrize("model_type", sorted(FAMILIES))
def test_every_family_trains_saves_and_reloads_equal(
    model_type: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    model = build_model(tokenizer, hidden_size=32, model_type=model_type)
    assert model.config.model_type == model_type
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert sum(parameter.numel() for parameter in model.parameters()) < 100_000
    batch = tokenizer(["review one stage scene : the cook", "the cook"], padding=True, return_tensors="pt")
    model.train()
    logits = model(**batch).logits
    assert torch.equal(logits, model(**batch).logits), "dropout is on"
    logits.logsumexp(-1).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        save_tiny(tmp_path, model, tokenizer)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    words = AutoTokenizer.from_pretrained(tmp_path)
    misread = words("the cook")["input_ids"] != tokenizer("the cook")["input_ids"]
    assert misread == any("PreTrainedTokenizerFast" in str(warning.message) for warning in caught)
    if misread:
        assert model_type == "qwen2", "only qwen2 is known to be misread"
        words = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    reread = words(["review one stage scene : the cook", "the cook"], padding=True, return_tensors="pt")
    assert torch.equal(reread["input_ids"], batch["input_ids"])
    assert (words.pad_token_id, words.eos_token_id) == (tokenizer.pad_token_id, tokenizer.eos_token_id)
    for config in (again.config, again.generation_config):
        assert (config.pad_token_id, config.eos_token_id) == (words.pad_token_id, words.eos_token_id)
        assert config.bos_token_id is None
    assert torch.equal(again.train()(**reread).logits, logits)


def test_model_seed_fixes_weights_and_spares_the_global_state(tokenizer: PreTrainedTokenizerFast) -> None:
    state = torch.get_rng_state()
    first, same, other = (build_model(tokenizer, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    pairs = list(zip(first.state_dict().values(), same.state_dict().values(), strict=True))
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(first.lm_head.weight, other.lm_head.weight)


def test_model_choices_are_checked(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match=r"got model_type 'lama'.*'llama'"):
        build_model(tokenizer, model_type="lama")
    with pytest.raises(ValueError, match="hidden_size 20 and 3 heads"):
        build_model(tokenizer, hidden_size=20, heads=3)


def _corpus(count: int) -> tuple[list[str], list[str]]:
    pairs = generate_pairs(count, seed=0)
    texts = [pair.prompt + side for pair in pairs for side in (pair.chosen, pair.rejected)]
    return texts, [pair.prompt for pair in pairs for _ in range(2)]


def test_supervised_start_lowers_the_loss_and_repeats(tokenizer: PreTrainedTokenizerFast) -> None:
    texts, prompts = _corpus(60)
    runs = []
    for _ in range(2):
        model = build_model(tokenizer, hidden_size=32).eval()
        runs.append(
            supervised_start(
                model, tokenizer, texts, steps=60, batch_size=16, learning_rate=1e-2, seed=0, max_length=64,
                prompts=prompts, progress=False,
            )
        )  # fmt: skip
        assert not model.training
    assert runs[0] == pytest.approx(runs[1])
    assert len(runs[0]) == 60
    # ln 194 = 5.27 at the start; the class of the next word alone is worth more than one nat.
    assert runs[0][0] == pytest.approx(5.27, abs=0.2)
    assert sum(runs[0][-5:]) / 5 < 3.8


def test_supervised_loss_is_the_model_own_loss_on_trained_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    texts, prompts = _corpus(1)
    for heads in (None, prompts):
        model = build_model(tokenizer, hidden_size=32)
        expected = []
        for text, prompt in zip(texts, prompts, strict=True):
            ids = tokenizer(text + " <eos>", return_tensors="pt")["input_ids"]
            log_probs = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
            expected.append(log_probs[len(prompt.split()) - 1 :] if heads else log_probs)
        (loss,) = supervised_start(
            model, tokenizer, texts, steps=1, batch_size=2, learning_rate=0.1, seed=0, max_length=64,
            prompts=heads, progress=False,
        )  # fmt: skip
        assert loss == pytest.approx(-torch.cat(expected).mean().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("texts", "prompts", "max_length", "message"),
    [
        ([], None, 8, "got 0 texts"),
        (["the cook"], ["the", "a"], 8, "2 prompts for 1 texts"),
        (["the cook"], ["a"], 8, "text 0 is 'the cook' with prompt 'a'"),
        (["the cook is"], ["the cook"], 2, "raise max_length"),
    ],
)
def test_unusable_texts_are_refused(
    tokenizer: PreTrainedTokenizerFast,
    texts: list[str],
    prompts: list[str] | None,
    max_length: int,
    message: str,
) -> None:
    model = build_model(tokenizer, hidden_size=32)
    with pytest.raises(ValueError, match=message):
        supervised_start(
            model, tokenizer, texts, steps=1, batch_size=1, learning_rate=0.1, seed=0, max_length=max_length,
            prompts=prompts, progress=False,
        )  # fmt: skip
