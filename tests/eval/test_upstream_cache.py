"""lm-eval's cache serves one model's answers to another; ours does not. (Upstream issues 2715, 4063.)"""

from eval_harness.run.folder import read_items

from .conftest import BBH


def upstream(model, folder, cache):
    import lm_eval
    from lm_eval.tasks import TaskManager

    raw = lm_eval.simple_evaluate(
        model="hf",
        model_args={"pretrained": str(model), "dtype": "float32"},
        tasks=[BBH],
        batch_size=8,
        device="cpu",
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        use_cache=cache,
    )
    return [[list(r[0]) for r in s["resps"]] for s in raw["samples"][BBH]]


def test_two_models_one_cache_path(cli, model_a, model_b, tmp_path):
    assert cli("--model", model_a, "--tasks", BBH, "--dtype", "float32") == 0
    assert cli("--model", model_b, "--tasks", BBH, "--dtype", "float32", out=tmp_path / "b") == 0
    tasks, cache = tmp_path / "out" / "tasks", str(tmp_path / "upstream" / "lm")
    alone_a, alone_b = upstream(model_a, tasks, None), upstream(model_b, tasks, None)
    assert alone_a != alone_b
    assert upstream(model_a, tasks, cache) == alone_a
    # The bug: with the path shared, model b "answers" exactly what model a did.
    assert upstream(model_b, tasks, cache) == alone_a
    # Ours: one cache folder, each model its own answers.
    assert [i.outputs for i in read_items(tmp_path / "out")] == alone_a
    assert [i.outputs for i in read_items(tmp_path / "b")] == alone_b
