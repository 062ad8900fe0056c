"""Peak memory of a process that trains SparsePO under TRL, by how the policy is spread over processes.

``python -m benchmarks.sharded_memory`` starts two processes on a CPU for every way (DDP, ZeRO-2, ZeRO-3) and
prints in MiB what a process held before the model was loaded, its peak over all, loading included, and its
peak over the second and third step.

DeepSpeed's buffers and limits are for models of billions of weights: with them a model of this size is kept
whole at ZeRO-3 too. Here they are scaled with the model: buffers of a matrix, no weights kept for later.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WAYS = ("ddp", "zero2", "zero3")
WORDS = 2000
_BUCKETS = ("reduce_bucket_size", "allgather_bucket_size", "stage3_prefetch_bucket_size")
_KEPT = dict.fromkeys(
    ("stage3_param_persistence_threshold", "stage3_max_live_parameters", "stage3_max_reuse_distance"), 0
)


def peak() -> float:
    """Peak resident memory of this process so far, MiB."""
    line = next(row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def forget_peak() -> None:
    """Let the peak begin anew at what is resident now."""
    Path("/proc/self/clear_refs").write_text("5")


def write_model(folder: Path, hidden: int, layers: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<eos>": 1, **{f"w{number}": number + 2 for number in range(WORDS)}}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    words = PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>")
    words.save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=hidden, intermediate_size=4 * hidden, num_attention_heads=8,
        num_hidden_layers=layers, num_key_value_heads=8, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        tie_word_embeddings=False,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


def train(way: str, folder: Path) -> None:
    """Three steps in this process; prints its peak."""
    import deepspeed
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

    from sparsepo_plugin.adapters.trl import SparsePOConfig, SparsePOTrainer

    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    zero = None
    if way != "ddp":
        sizes = ("train_micro_batch_size_per_gpu", "train_batch_size", "gradient_accumulation_steps")
        zero = {
            **dict.fromkeys(sizes, "auto"),
            "zero_optimization": {"stage": int(way[-1]), **dict.fromkeys(_BUCKETS, 10**6), **_KEPT},
            "zero_force_ds_cpu_optimizer": False,
        }
    args = SparsePOConfig(
        output_dir=str(folder / way), preference_loss="sparsepo", loss_options={"anchor": 0.0}, use_cpu=True,
        bf16=False, max_steps=3, per_device_train_batch_size=1, report_to="none", save_strategy="no",
        disable_tqdm=True, deepspeed=zero,
    )  # fmt: skip
    whole = []

    class AfterTheFirst(TrainerCallback):
        """Ends the peak that loading and the first step made."""

        def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
            if state.global_step == 1:
                whole.append(peak())
                forget_peak()

    before = peak()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    words = [f"w{number}" for number in range(40)]
    row = {"prompt": " ".join(words[:9]), "chosen": " " + " ".join(words[9:20]), "rejected": " w30 w31"}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    data = Dataset.from_list([row] * 8)
    given = {"processing_class": tokenizer, "callbacks": [AfterTheFirst()]}
    trainer = SparsePOTrainer(model, args=args, train_dataset=data, **given)
    trainer.train()
    if os.environ["RANK"] == "0":
        print(f"RESULT {before:.0f} {max(*whole, peak()):.0f} {peak():.0f}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--way", choices=WAYS)
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.way:
        train(args.way, args.folder)
        return 0
    with tempfile.TemporaryDirectory() as name:
        write_model(Path(name), args.hidden, args.layers)
        for way in WAYS:
            launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
            command = [*launcher, "-m", "benchmarks.sharded_memory", "--way", way, "--folder", name]
            # Freed memory goes back to the system, so that it does not count as held.
            environment = {
                **os.environ, "DS_ACCELERATOR": "cpu", "DS_SKIP_CUDA_CHECK": "1", "OMP_NUM_THREADS": "1",
                "MALLOC_MMAP_THRESHOLD_": "65536",
            }  # fmt: skip
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            found = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
            if not found:
                print(done.stderr[-3000:], file=sys.stderr)
                return 2
            _, before, most, steps = found[0].split()
            print(f"{way}: {before} MiB before the model, peak {most}, in later steps {steps}", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
