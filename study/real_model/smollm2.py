"""SmolLM2-135M-Instruct from a 4-bit GGUF file to a plain Hugging Face folder in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sparsepo_plugin.errors import UserError
from study.real_model.packages import SMOLLM2_GGUF

TITLE = "SmolLM2-135M-Instruct, 4-bit weights dequantised"


def convert(gguf_file: Path, folder: Path) -> None:
    """Write model and tokenizer.

    The weights are transformers' reading of the file. Its tokenizer needs mending (``tokenizer_of``).

    Raises:
      UserError: the package gguf is missing, or the file has a tokenizer of another kind.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UserError(
            f"{gguf_file.name}: the package gguf, which reads it, is missing; make install brings it"
        ) from error
    import torch
    from transformers import AutoModelForCausalLM

    fields = GGUFReader(gguf_file).fields
    tokenizer = tokenizer_of(gguf_file, fields)
    model = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.float32
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def tokenizer_of(gguf_file: Path, fields: dict[str, Any]) -> Any:
    """The file's tokenizer.

    transformers 5.15 reads the merges rightly and four other things wrongly: it takes the beginning token as
    end token (integrations/ggml.py, GGUFLlamaConverter.tokenizer), no pad token, no splitting of digits, and
    a decoder that turns U+2581 into a space. Which are right stands in the file; ``smollm`` there is the name
    of single digits followed by GPT-2's splitting.

    Args:
      gguf_file: the file.
      fields: its metadata, as gguf reads them.
    """
    from tokenizers import decoders, pre_tokenizers
    from transformers import AutoTokenizer

    def value(name: str) -> Any:
        return fields[name].contents() if name in fields else None

    kind = value("tokenizer.ggml.pre")
    if kind != "smollm":
        raise UserError(f"{gguf_file.name}: got a tokenizer that splits as {kind!r}, expected 'smollm'")
    tokenizer = AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
    digits, bytes_ = (
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False),
    )
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, bytes_])
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    for role, field in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"), ("unk", "unknown")):
        number = value(f"tokenizer.ggml.{field}_token_id")
        if number is not None:
            setattr(tokenizer, f"{role}_token", tokenizer.convert_ids_to_tokens(int(number)))
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.model_max_length = int(value("llama.context_length"))
    return tokenizer


def build(source: Path, folder: Path) -> dict[str, float | str]:
    """Convert, and check that the model reads and answers."""
    from study.real_model import sanity

    convert(source / SMOLLM2_GGUF, folder)
    return sanity.language_model(folder)
