"""Runs in alpaca-eval's environment, where this project is not: request.json in, answer.json out."""

import importlib.metadata
import json
import sys
from pathlib import Path
from typing import Any


def configuration(request: dict[str, Any]) -> Path:
    """The package's own annotator, with another model's name and its template by absolute path."""
    import yaml
    from alpaca_eval import constants

    shipped = Path(constants.EVALUATORS_CONFIG_DIR)
    named = shipped / request["annotator"] / "configs.yaml"
    ((name, body),) = yaml.safe_load(named.read_text(encoding="utf-8")).items()
    body["prompt_template"] = str(shipped / body["prompt_template"])
    body["completions_kwargs"] |= {
        "model_name": request["model"],
        "price_per_token": 0,
        "requires_chatml": True,
    }
    written = Path(request["folder"]) / "configs.yaml"
    written.write_text(yaml.safe_dump({name: body}), encoding="utf-8")
    return written


PROMPTS = 805


def controlled(annotations: Any) -> float | str:
    """The package's length-controlled win rate, or why there is none.

    Its model takes the difficulty of an instruction from a table on the hub by the row's number: for other
    prompts than its own 805 in their order it would answer nonsense without a word.
    """
    if len(annotations) != PROMPTS:
        return f"not defined for {len(annotations)} prompts, only for AlpacaEval's {PROMPTS} in their order"
    from alpaca_eval import metrics
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        rate = metrics.get_length_controlled_winrate(annotations, save_weights_dir=None)
    except (OSError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        return f"unavailable offline ({type(error).__name__})"
    return float(rate["length_controlled_winrate"]) / 100


def main(path: str) -> None:
    """Judge and count."""
    from alpaca_eval import metrics
    from alpaca_eval.annotators import PairwiseAnnotator

    request = json.loads(Path(path).read_text(encoding="utf-8"))
    judge = PairwiseAnnotator(
        annotators_config=str(configuration(request)), caching_path=request["annotations"]
    )
    annotations = judge.annotate_head2head(
        outputs_1=request["baseline"], outputs_2=request["candidate"], chunksize=10
    )
    task = Path(request["task"])
    (task / "annotations.json").write_text(json.dumps(annotations, default=str), encoding="utf-8")
    plain = metrics.get_winrate(annotations)
    answer = {
        "version": importlib.metadata.version("alpaca_eval"),
        "win_rate": float(plain["win_rate"]) / 100,
        "standard_error": float(plain["standard_error"]) / 100,
        "n_total": int(plain["n_total"]),
        "length_controlled_win_rate": controlled(annotations),
        "annotations": str(task / "annotations.json"),
    }
    (task / "answer.json").write_text(json.dumps(answer), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
