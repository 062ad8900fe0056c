"""Tiny random models of many families, and batches of odd pairs, for the tests of prefix sharing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from sparsepo_plugin.forward.statistics.reference import token_stats

VOCABULARY = 97
WINDOW = 6  # of sliding and chunked attention: shorter than the rows
_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
_GROUPED = {**_SIZES, "num_key_value_heads": 2}
_ROTARY = {**_GROUPED, "head_dim": 8}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_NO_DROPOUT = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
SUPPORTED: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _ROTARY),
    "qwen2": ("qwen2", _GROUPED),
    "qwen3": ("qwen3", _ROTARY),
    "qwen3-sliding": (
        "qwen3",
        {**_ROTARY, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1},
    ),
    "mistral-sliding": ("mistral", {**_ROTARY, "sliding_window": WINDOW}),
    # A cap as low as this shows whether it is applied.
    "gemma2": (
        "gemma2",
        {**_ROTARY, "sliding_window": WINDOW, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 1.0},
    ),
    "gemma3": ("gemma3_text", {**_ROTARY, "sliding_window": WINDOW, "query_pre_attn_scalar": 8}),
    # Learned positions; fewer of them than a shared row has columns.
    "gpt2": (
        "gpt2",
        {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 20, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
         "attn_pdrop": 0.0},
    ),
    "gpt_neox": ("gpt_neox", {**_SIZES, **_NO_DROPOUT}),
    "opt": (
        "opt",
        {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
         "max_position_embeddings": 64, "word_embed_proj_dim": 32, "dropout": 0.0},
    ),
    "phi3": ("phi3", {**_GROUPED, "sliding_window": WINDOW, "pad_token_id": 0}),
    "cohere2": ("cohere2", {**_ROTARY, "sliding_window": WINDOW}),
    "mixtral": ("mixtral", {**_ROTARY, **_EXPERTS}),
    "llama4-chunked": (
        "llama4_text",
        {**_ROTARY, "attention_chunk_size": WINDOW, "num_local_experts": 2, "intermediate_size_mlp": 64,
         "attn_temperature_tuning": False},
    ),
    # Attention sinks; eager alone on CPU.
    "gpt_oss": ("gpt_oss", {**_ROTARY, **_EXPERTS, "sliding_window": WINDOW}),
}  # fmt: skip
EAGER_ONLY = {"gpt_oss"}
REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, **_NO_DROPOUT}),
    "falcon-alibi": (
        "falcon",
        {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "alibi": True, **_NO_DROPOUT},
    ),
    "gpt_neo": (
        "gpt_neo",
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "max_position_embeddings": 64,
         "attention_types": [[["global", "local"], 1]], "window_size": WINDOW, "resid_dropout": 0.0,
         "embed_dropout": 0.0, "attention_dropout": 0.0},
    ),
    "mamba": ("mamba", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
    "recurrent_gemma": (
        "recurrent_gemma",
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
         "num_key_value_heads": 1, "lru_width": 32, "attention_window_size": 8},
    ),
    "lfm2": ("lfm2", {**_GROUPED, "layer_types": ["conv", "full_attention", "conv"]}),
}  # fmt: skip


def build(name: str, attention: str = "sdpa", dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A model in evaluation mode, with weights large enough for its attention to be far from uniform."""
    kind, sizes = {**SUPPORTED, **REFUSED}[name]
    config = AutoConfig.for_model(kind, **{"pad_token_id": 1, "vocab_size": VOCABULARY, **sizes})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, attn_implementation=attention, dtype=torch.float32
        )
        with torch.no_grad():
            for path, parameter in model.named_parameters():
                if path.endswith("sinks"):
                    parameter.normal_()
                elif parameter.ndim >= 2:
                    parameter.mul_(5)
    return model.to(dtype).eval()


# prompt, chosen, rejected; the letters stand for tokens. What is odd about each stands beside it.
ODD_PAIRS = {
    "plain": ("abcde", "fghijkl", "mnopqrstu"),
    "much longer": ("z", "b", "cdefghijklmn"),
    "responses begin alike": ("abcdefgh", "ijkl", "ijmnop"),
    "the same": ("abc", "defghijk", "defghijk"),
    "one begins the other": ("abcd", "ef", "efgh"),
    "no prompt": ("", "abcde", "fg"),
    "empty response": ("abcdef", "", "gh"),
}


def tokens(text: str) -> Tensor:
    return torch.tensor([3 + 3 * (ord(letter) - ord("a")) for letter in text], dtype=torch.long)


class Batch:
    """Padded pairs: ids and attention of chosen and rejected, and prompt lengths, as OpenRLHF has them."""

    def __init__(self, chosen: Sequence[Tensor], rejected: Sequence[Tensor], prompts: Sequence[int]) -> None:
        self.parts = (*pad(chosen), *pad(rejected), torch.tensor(prompts))

    def rows(self) -> tuple[Tensor, Tensor]:
        """Ids and attention of both halves in one batch, [2 * pairs, seq]."""
        width = max(self.parts[0].shape[1], self.parts[2].shape[1])
        wide = [nn.functional.pad(part, (0, width - part.shape[1])) for part in self.parts[:4]]
        return torch.cat([wide[0], wide[2]]), torch.cat([wide[1], wide[3]])


def pad(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    ids = nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=2)
    return ids, (torch.arange(ids.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]).long()


def odd_batch(names: Sequence[str] = tuple(ODD_PAIRS)) -> Batch:
    """The named pairs; then one whose prompt is tokenised in two ways, and one with nothing in common."""
    pairs = [ODD_PAIRS[name] for name in names]
    chosen = [tokens(prompt + response) for prompt, response, _ in pairs]
    rejected = [tokens(prompt + response) for prompt, _, response in pairs]
    chosen += [tokens("abcdeffg"), tokens("abcdefg")]
    rejected += [tokens("abcxyfghij"), tokens("zbcdefgh")]
    return Batch(chosen, rejected, [len(prompt) for prompt, _, _ in pairs] + [6, 3])


def separate(model: nn.Module, batch: Batch, **options: Any) -> Any:
    """Two rows per pair, as OpenRLHF's Actor runs them."""
    ids, attention = batch.rows()
    positions = (attention.cumsum(1) - 1).masked_fill(attention == 0, 1)
    return model(ids, attention_mask=attention, position_ids=positions, use_cache=False, **options)


def whole_labels(batch: Batch) -> Tensor:
    """Labels of whole rows as OpenRLHF's loss counts them: response tokens of every row."""
    ids, attention = batch.rows()
    prompts = batch.parts[4].repeat(2)[:, None]
    response = (attention == 1) & (torch.arange(ids.shape[1]) >= prompts)
    return ids.masked_fill(~response, -100)


def summed_logps(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-probability of every response, [2 * pairs]."""
    return token_stats(logits, None, labels, with_kl=False).policy_logps.sum(1)
