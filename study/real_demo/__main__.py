"""`python -m study.real_demo --data DIR`: the whole way on real weights, behind `make demo-real`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from pathlib import Path

from sparsepo_plugin.errors import UserError, guarded
from sparsepo_plugin.files import write_text
from study.real_demo import inputs
from study.real_demo.page import write_page
from study.real_demo.sizes import SIZES, Sizes
from study.real_demo.stages import Stages, key_of

STAGES = 5


def main() -> None:
    """Run what is missing, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m study.real_demo", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with preference/, eval/, text/")
    parser.add_argument("--out", type=Path, default=Path("runs/demo-real"))
    parser.add_argument("--size", choices=sorted(SIZES), default="full")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="of torch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", type=Path, help="another start than the one of make real")
    parser.add_argument("--encoder", type=Path, help="another encoder of the reward head")
    raise SystemExit(guarded(lambda: run(parser.parse_args())))


def run(arguments: argparse.Namespace) -> None:
    """All stages."""
    from study.real_model import folders

    os.environ["HF_HUB_OFFLINE"] = "1"
    if not arguments.data.is_dir():
        raise UserError(f"{arguments.data}: no such folder; name the data's with DATA=... (make) or --data")
    model = arguments.model or folders.find(folders.SMOLLM2)
    encoder = arguments.encoder or folders.find(folders.MINILM)
    sizes, out = SIZES[arguments.size], arguments.out
    _inputs(arguments, model, sizes)
    files = sorted((out / "inputs").iterdir()) + sorted(inputs.HERE.glob("*.yaml"))
    settings = {"sizes": dataclasses.asdict(sizes), "seed": arguments.seed}
    settings |= {"model": str(model.resolve()), "encoder": str(encoder.resolve())}
    stages = Stages(out, key_of(settings, files), STAGES, arguments.threads)
    stages.run("reward head on MiniLM", lambda: _judge(encoder, out, arguments))
    stages.run("agreement of the reward head with people", lambda: stages.tool(_agreement(out)))
    stages.run("training", lambda: stages.tool(_training(model, out, sizes, arguments.seed)))
    stages.run("evaluation of policy and start", lambda: _evaluate(stages, model, out, sizes, arguments.seed))
    stages.run("verdicts and pictures", lambda: _verdicts(stages, out))
    reports = {suite: out / "eval" / name / "report" for suite, (name, *_) in GATES.items()}
    page = write_page(out, sizes, stages.done, reports)
    print(f"page: {page}", flush=True)


def _inputs(arguments: argparse.Namespace, model: Path, sizes: Sizes) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    inputs.write_inputs(
        arguments.data, arguments.out / "inputs", sizes,
        lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids), arguments.seed,
    )  # fmt: skip


def _judge(encoder: Path, out: Path, arguments: argparse.Namespace) -> None:
    import torch

    from study import data
    from study.reward_head import RewardHead, train_on_pairs

    torch.set_num_threads(arguments.threads)
    pairs, valid = (data.pairs(out / "inputs", name) for name in ("judge", "judge_valid"))
    head = RewardHead(encoder)
    found = train_on_pairs(head, pairs, valid, arguments.seed)
    head.save(out / "judge")
    write_text(out / "judge.json", json.dumps(found, indent=1) + "\n")


def _judge_options(out: Path) -> list[object]:
    from study.reward_head import LENGTH

    options = {"model": out / "judge", "max_length": LENGTH, "batch_size": 32, "dtype": "float32"}
    return ["--judge", "reward", *(word for k, v in options.items() for word in ("--judge-set", f"{k}={v}"))]


def _agreement(out: Path) -> list[object]:
    where = ["--data", out / "inputs" / "people.jsonl", "--out", out / "agreement.json"]
    return ["eval-harness", "agreement", *_judge_options(out), *where, "--cache", out / "cache"]


def _training(model: Path, out: Path, sizes: Sizes, seed: int) -> list[object]:
    options = {
        "loss": "sparsepo", "sparsepo.anchor": 0.0, "sparsepo.record": sizes.shown,
        "model.model_name_or_path": model, "model.beta": sizes.beta,
        "data.dataset": out / "inputs" / "train.jsonl",
        "eval.dataset": out / "inputs" / "watched.jsonl", "data.prompt_key": "prompt",
        "data.chosen_key": "chosen", "data.rejected_key": "rejected",
        "data.max_len": min(sizes.prompt + sizes.response + 8, 2048), "train.batch_size": sizes.batch,
        "train.micro_batch_size": sizes.micro, "train.max_epochs": 1, "train.seed": seed,
        "adam.lr": sizes.rate, "lr_warmup_ratio": 0.1, "ds.zero_stage": 0, "ds.param_dtype": "fp32",
        "ckpt.output_dir": out / "policy", "logger.logging_steps": 1,
    }  # fmt: skip
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return ["sparsepo", "train", *words, "--data.length_batching", "--eval.at_start", "--overwrite"]


def _evaluate(stages: Stages, model: Path, out: Path, sizes: Sizes, seed: int) -> None:
    """Policy and start: what is asked as text, then what is asked through the chat template."""
    suites = (
        f"reasoning:{out / 'inputs' / 'tasks.yaml'}", f"win_rate:{inputs.HERE / 'dialogue.yaml'}",
        f"faithfulness:{inputs.HERE / 'posts.yaml'}",
    )  # fmt: skip
    shared = [
        "eval-harness", "run", "--model", out / "policy", "--baseline", model, "--overwrite", "--offline",
        "--data", out / "inputs" / "data.yaml", "--cache", out / "cache", "--device", "cpu", "--seed", seed,
        "--dtype", "float32", "--batch-size", 8,
    ]  # fmt: skip
    texts = ["--prompts", out / "inputs" / "prompts.jsonl", "--documents", out / "inputs" / "documents.jsonl"]
    words = ["--suites", ",".join(suites), *texts, *_judge_options(out)]
    stages.tool([*shared, *words, "--out", out / "eval" / "texts"])
    # NLTK's splitter data cannot be had offline; both models are counted with the same stand-in.
    chat = ["--chat-template", "--punkt-standin", "--generation", f"max_gen_toks={sizes.followed}"]
    words = ["--suites", f"reasoning:{out / 'inputs' / 'instructions.yaml'}", *chat]
    stages.tool([*shared, *words, "--out", out / "eval" / "chat"])


# Suite -> its run, its baseline's, and the gates that decide: a file of ours or a shipped name.
GATES = {
    "reasoning": ("texts/reasoning-tasks", "texts/baseline/reasoning-tasks", "gates-tasks.yaml"),
    "instructions": ("chat", "chat/baseline", "gates-instructions.yaml"),
    "win rate": ("texts/win_rate-dialogue", "texts/baseline/win_rate-dialogue", "win_rate"),
    "faithfulness": ("texts/faithfulness-posts", "texts/baseline/faithfulness-posts", "gates-posts.yaml"),
}


def _verdicts(stages: Stages, out: Path) -> None:
    for ours, theirs, gates in GATES.values():
        known = inputs.HERE / gates if gates.endswith(".yaml") else gates
        words = [out / "eval" / ours, "--baseline", out / "eval" / theirs, "--gates", known]
        # A verdict never fails the demo, an error (exit code 2) does.
        stages.tool(["eval-harness", "gate", *words], fine=(0, 1, 3))
    stages.tool(["sparsepo", "view", out / "policy", "-o", out / "tokens.html"])
    stages.tool(["sparsepo", "plot", out / "policy", "-o", out / "plots"])


if __name__ == "__main__":
    main()
