"""Try a configuration: its loss, options and modes, on a tiny model and generated pairs."""

from __future__ import annotations

from pathlib import Path

from sparsepo_plugin import files
from sparsepo_plugin.demo import language, tiny

PAIRS = 24


def smoke_flags(folder: str) -> list[str]:
    """Write a tiny model and data; return flags that put them in the place of a configuration's own.

    Loss, options, beta, rates, LoRA rank, checkpointing and ZeRO stage stay as configured; the model,
    data, sizes and output do not.

    Args:
      folder: where model, data and output go.

    Raises:
      UserError: it cannot be written, or holds other files.
    """
    root = Path(folder)
    files.claim(root, ".sparsepo-smoke", f"--smoke {folder}")
    tokenizer = tiny.build_tokenizer(language.vocabulary())
    tiny.save_tiny(root / "model", tiny.build_model(tokenizer), tokenizer)
    language.write_jsonl(language.generate_pairs(PAIRS, seed=0), root / "pairs.jsonl", weighted=True)
    values = {
        "model.model_name_or_path": root / "model",
        "ref.model_name_or_path": root / "model",
        "data.dataset": root / "pairs.jsonl",
        "data.prompt_key": "prompt",
        "data.chosen_key": "chosen",
        "data.rejected_key": "rejected",
        "data.max_len": 128,
        "train.batch_size": 8,
        "train.micro_batch_size": 4,
        "train.max_epochs": 1,
        "ds.lora.target_modules": "all-linear",
        "ckpt.output_dir": root / "output",
        "ckpt.path": root / "output" / "deepspeed",
    }
    return [*(word for key, value in values.items() for word in (f"--{key}", str(value))), "--overwrite"]
