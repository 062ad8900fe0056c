"""The harness against bare lm-eval: same model, same data, difference of every score and ratio of wall times.

Both run as fresh processes, alternately, with the data sets' cache filled beforehand; the harness starts each
round with an empty answer store, and its time includes preflight, the hash of the model, the store and the
run folder. Prints one JSON row (wall and processor seconds, medians over the rounds) and fails when a score
differs or, on a run of a minute or more, the median ratio of wall times exceeds 1.05. Without --model and
--data a tiny model and generated data are made.

    python benchmarks/eval_overhead.py --rounds 3
"""

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BARE = """
import json, sys
import lm_eval
from pathlib import Path
from lm_eval.tasks import TaskManager
job = json.loads(Path(sys.argv[1]).read_text())
raw = lm_eval.simple_evaluate(
    model="hf", model_args={"pretrained": job["model"], "dtype": job["dtype"]}, tasks=job["tasks"],
    task_manager=TaskManager(include_path=job["folder"], include_defaults=False), samples=job["samples"],
    batch_size=job["batch"], device="cpu", gen_kwargs=job["generation"], bootstrap_iters=1000,
    log_samples=True,
)
keep = {"results": raw["results"], "samples": raw["samples"]}
Path(sys.argv[2]).write_text(json.dumps(keep, default=str))
"""


def ours(args, model, data, out, cache, command="run"):
    """Run the harness in its own process; return seconds."""
    command = [
        sys.executable,
        "-m",
        "eval_harness",
        command,
        "--model",
        model,
        "--suites",
        args.suites,
        "--data",
        data,
        "--out",
        out,
        "--cache",
        cache,
        "--punkt-standin",
        "--device",
        "cpu",
        "--dtype",
        "float32",
        "--batch-size",
        str(args.batch),
    ]
    command += ["--tasks", args.tasks] if args.tasks else []
    command += ["--limit", str(args.limit)] if args.limit else []
    command += ["--generation", f"max_gen_toks={args.new_tokens}"]
    return timed([str(part) for part in command])


def timed(command, extra=None):
    """Run a command; return its wall and processor seconds. Its output is shown where it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TOKENIZERS_PARALLELISM": "false", **(extra or {})}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def bare_job(args, model, out):
    """The job of a bare lm-eval run on the definitions that the harness's run left in its folder."""
    items = [json.loads(line) for line in (out / "items.jsonl").open(encoding="utf-8")]
    samples = {}
    for item in items:
        samples.setdefault(item["task"], []).append(item["doc_id"])
    return {
        "model": str(model),
        "dtype": "float32",
        "tasks": list(samples),
        "samples": samples,
        "batch": args.batch,
        "folder": str(out / "tasks"),
        "generation": {"max_gen_toks": args.new_tokens},
    }


def differences(out, bare):
    """Largest absolute difference of task scores, and number of items whose metrics or answers differ."""
    result = json.loads((out / "result.json").read_text(encoding="utf-8"))
    scores = [s for s in result["scores"] if not s["is_group"]]
    worst = max(abs(s["value"] - bare["results"][s["task"]][s["metric"]]) for s in scores)
    theirs = {}
    for task, samples in bare["samples"].items():
        for sample in samples:
            entry = theirs.setdefault((task, sample["doc_id"]), {"metrics": {}})
            entry["outputs"] = [r[0] for r in sample["resps"]]
            entry["prompt_hash"] = sample["prompt_hash"]
            entry["metrics"].update({f"{m},{sample['filter']}": sample[m] for m in sample["metrics"]})
    items = [json.loads(line) for line in (out / "items.jsonl").open(encoding="utf-8")]
    different = [
        i
        for i in items
        if {k: i[k] for k in ("metrics", "outputs", "prompt_hash")} != theirs[i["task"], i["doc_id"]]
    ]
    return worst, len(different), len(items), len(scores)


def main():
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model")
    parser.add_argument("--data", help="data mapping")
    parser.add_argument("--suites", default="reasoning:quick")
    parser.add_argument(
        "--tasks",
        default="gsm8k,arc_challenge,leaderboard_bbh_boolean_expressions,leaderboard_bbh_navigate,ifeval",
    )
    parser.add_argument("--limit", type=int)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=1)
    args = parser.parse_args()
    times = {"ours": [], "bare": []}
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        model, data = args.model, args.data
        if not (model and data):
            sys.path.insert(0, str(ROOT / "tests"))
            from eval import tiny  # a package beside this folder: tests/eval

            model = model or tiny.make_model(work / "model", hidden=192, heads=4, layers=4)
            data = data or tiny.make_data(work / "data", n=400)
        cache = work / "cache"
        ours(args, model, data, work / "unused", cache, command="validate")
        for number in range(args.rounds):
            out = work / f"out{number}"
            shutil.rmtree(cache / "runs", ignore_errors=True)
            for file in cache.glob("answers.sqlite*"):
                file.unlink()
            times["ours"].append(ours(args, model, data, out, cache))
            job, bare = work / "job.json", work / "bare.json"
            job.write_text(json.dumps(bare_job(args, model, out)))
            # Where NLTK has no punkt of its own, bare lm-eval gets the stand-in that the harness wrote.
            nltk_data = {"NLTK_DATA": str(cache / "nltk_standin")}
            times["bare"].append(timed([sys.executable, "-c", BARE, str(job), str(bare)], nltk_data))
            worst, different, items, scores = differences(out, json.loads(bare.read_text(encoding="utf-8")))
            print(
                f"round {number}: harness {times['ours'][-1][0]:.1f} s, bare {times['bare'][-1][0]:.1f} s, "
                f"largest difference of {scores} scores {worst}, items different {different} of {items}",
                flush=True,
            )
    seconds = {name: [statistics.median(part) for part in zip(*found)] for name, found in times.items()}
    ratio, processor = (seconds["ours"][i] / seconds["bare"][i] for i in (0, 1))
    print(
        json.dumps(
            {
                "benchmark": "eval_overhead",
                "ratio": round(ratio, 4),
                "processor_ratio": round(processor, 4),
                "harness_s": round(seconds["ours"][0], 2),
                "bare_s": round(seconds["bare"][0], 2),
                "rounds": args.rounds,
                "items": items,
                "scores": scores,
                "max_abs_difference": worst,
                "items_different": different,
                "device": "cpu",
                "machine": platform.machine(),
                "cpus": os.cpu_count(),
            }
        )
    )
    return int(worst != 0 or different != 0 or (seconds["bare"][0] >= 60 and ratio > 1.05))


if __name__ == "__main__":
    sys.exit(main())
