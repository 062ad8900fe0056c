"""Real tasks on real data (where the shared sample data is at hand): equal to bare lm-eval, difference 0.

Bare lm-eval reads the original files through definitions written here by hand, so the harness's data
preparation is checked too, not only its numbers. Files whose layout is not the hub's (ARC, MuSR) are read as
the harness prepared them.
"""

import pytest

from eval_harness.run.folder import read_items, read_result

from .conftest import REPO
from .test_run import assert_equal_to_bare, bare

pytestmark = pytest.mark.slow

BBH = [
    "boolean_expressions",
    "causal_judgement",
    "date_understanding",
    "navigate",
    "tracking_shuffled_objects_three_objects",
]
MMLU = ["abstract_algebra", "anatomy", "high_school_geography"]
NEW = "max_gen_toks=24"


@pytest.fixture
def mapping(shared, tmp_path):
    text = (REPO / "tests" / "eval" / "shared_data.yaml").read_text(encoding="utf-8")
    (tmp_path / "data.yaml").write_text(text.replace("@ROOT@", str(shared)))
    return tmp_path / "data.yaml"


def by_hand(folder, task, shipped, shots, files):
    """A definition as a user of bare lm-eval would write it, over the one the harness wrote."""
    from pathlib import Path

    import lm_eval

    path = Path(lm_eval.__file__).parent / "tasks" / shipped
    files = ", ".join(f'{split}: "{file}"' for split, file in files.items())
    (folder / f"{task}.yaml").write_text(
        f"include: {path}\ntask: {task}\nnum_fewshot: {shots}\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {{{files}}}}}\n"
    )


def compare(run, model):
    raw = bare(model, run, {"max_gen_toks": 24})
    assert_equal_to_bare(run, raw)
    return read_result(run)


def test_quick_preset(cli, model_a, shared, mapping, tmp_path):
    tasks = [
        "gsm8k",
        "arc_challenge",
        "hellaswag",
        "ifeval",
        *(f"mmlu_{s}" for s in MMLU),
        *(f"leaderboard_bbh_{s}" for s in BBH),
    ]
    args = ["--model", model_a, "--suites", "reasoning:quick", "--tasks", ",".join(tasks), "--limit", "8"]
    assert cli(*args, "--dtype", "float32", "--generation", NEW, mapping=mapping) == 0
    run = tmp_path / "out"
    for task in BBH:
        name = f"leaderboard_bbh_{task}"
        by_hand(
            run / "tasks",
            name,
            f"leaderboard/bbh_mc/{task}.yaml",
            3,
            {"test": shared / f"bbh/{task}.jsonl.gz"},
        )
    by_hand(
        run / "tasks",
        "gsm8k",
        "gsm8k/gsm8k.yaml",
        5,
        {"train": shared / "gsm8k_train.jsonl.gz", "test": shared / "gsm8k_test.jsonl.gz"},
    )
    held = shared / "hellaswag_val.jsonl.gz"
    by_hand(run / "tasks", "hellaswag", "hellaswag/hellaswag.yaml", 0, {"train": held, "validation": held})
    by_hand(
        run / "tasks",
        "leaderboard_ifeval",
        "leaderboard/ifeval/ifeval.yaml",
        0,
        {"train": shared / "ifeval.jsonl.gz"},
    )
    result = compare(run, model_a)
    assert {s.task for s in result.scores if not s.is_group} >= {"gsm8k", "arc_challenge", "hellaswag"}
    assert {s.task for s in result.scores if s.is_group} >= {"mmlu", "bbh", "ifeval"}
    assert result.counts["items"] == 8 * 9 + 5 * len(MMLU)  # the preset caps MMLU at 5 a subject


def test_leaderboard_preset(cli, model_a, shared, mapping, tmp_path):
    args = [
        "--model",
        model_a,
        "--tasks",
        "math_hard,mmlu_pro,musr,ifeval,leaderboard_bbh_snarks",
        "--limit",
        "4",
    ]
    assert cli(*args, "--dtype", "float32", "--generation", NEW, mapping=mapping) == 0
    result = compare(tmp_path / "out", model_a)
    assert result.counts["items"] == 7 * 4 + 4 + (3 + 4 + 3) + 4 + 4
    musr = [i for i in read_items(tmp_path / "out") if i.task == "leaderboard_musr_object_placements"]
    assert len({i.cluster for i in musr}) == 1  # four questions about one story


def test_prompts_of_the_real_data_have_no_machine_path(cli, model_a, shared, mapping, tmp_path):
    args = ["--model", model_a, "--suites", "reasoning:quick", "--tasks", "arc_challenge", "--limit", "4"]
    assert cli(*args, "--dtype", "float32", mapping=mapping) == 0
    for file in ("result.json", "items.jsonl"):
        text = (tmp_path / "out" / file).read_text()
        assert str(shared) not in text
        assert str(tmp_path) not in text
