"""Flags reach the backends' constructors; several processes and missing pieces are refused in time."""

import pytest

from eval_harness.errors import UserError
from eval_harness.models import checks, engines, resumable
from eval_harness.models.reference import resolve
from eval_harness.models.settings import Settings

from . import tiny


class Recorder:
    """Stands for lm-eval's class where only the arguments matter."""

    def __init__(self, **kwargs):
        self.kwargs = kwargs


def test_vllm_gets_parallel_flags_adapter_and_executor(model_a, tmp_path, monkeypatch):
    monkeypatch.setattr(engines, "vllm_class", lambda: Recorder)
    adapter = tiny.make_adapter(tmp_path / "lora", str(model_a))
    settings = Settings(
        backend="vllm",
        tensor_parallel=2,
        data_parallel=3,
        executor="ray",
        limit_context=512,
        dtype="bfloat16",
        engine={"gpu_memory_utilization": 0.5},
    )
    kwargs = engines.load_engine(resolve(str(adapter)), settings).kwargs
    expected = {
        "pretrained": str(model_a),
        "lora_local_path": str(adapter),
        "tensor_parallel_size": 2,
        "data_parallel_size": 3,
        "distributed_executor_backend": "ray",
        "max_model_len": 512,
        "dtype": "bfloat16",
        "gpu_memory_utilization": 0.5,
        "seed": 1234,
    }
    assert expected.items() <= kwargs.items()


def test_lm_evals_vllm_class_knows_every_argument_we_pass():
    """The contract with upstream, read from its source: vllm itself need not be installed."""
    import ast
    from pathlib import Path

    import lm_eval

    tree = ast.parse((Path(lm_eval.__file__).parent / "models" / "vllm_causallms.py").read_text())
    init = next(n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name == "__init__")
    names = {a.arg for a in init.args.args + init.args.kwonlyargs}
    passed = {"pretrained", "tokenizer", "dtype", "batch_size", "max_model_len", "tensor_parallel_size"}
    assert passed | {"data_parallel_size", "seed", "lora_local_path"} <= names
    assert init.args.kwarg is not None


def test_hf_spreads_layers_over_gpus_on_request(model_a, monkeypatch):
    import lm_eval.models.huggingface as upstream

    class Model(Recorder):
        @property
        def model(self):
            import torch

            return torch.nn.Linear(1, 1)

    monkeypatch.setattr(upstream, "HFLM", Model)
    for wanted in (1, 2):
        engine = engines.load_engine(resolve(str(model_a)), Settings(tensor_parallel=wanted))
        assert engine.kwargs["parallelize"] is (wanted > 1)


@pytest.mark.parametrize(
    "settings", [Settings(backend="vllm", data_parallel=2), Settings(backend="vllm", executor="ray")]
)
def test_replicas_and_machines_need_ray(monkeypatch, settings):
    monkeypatch.setattr(checks.importlib.util, "find_spec", lambda name: None if name == "ray" else object())
    with pytest.raises(UserError, match="pip install ray"):
        checks.check_backend(settings)


def test_automatic_batch_size_under_accelerate_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="--batch-size"):
        checks.check_backend(Settings(batch_size="auto"))
    checks.check_backend(Settings(batch_size="8"))


def test_device_and_pieces():
    assert engines.resolve_device("cuda:1") == "cuda:1"
    assert engines.resolve_device("auto") in ("cuda", "cpu")
    assert engines.piece_size(resolve("http://h/v1"), Settings()) == 0


@pytest.mark.parametrize(("backend", "longest"), [("hf", 101), ("vllm", 99)])
def test_the_longest_scored_request_that_fits(model_a, backend, longest):
    """hf scores context + 1 tokens, vllm context - 1: one token more is refused, none less."""
    from types import SimpleNamespace

    from eval_harness.models.checks import check_context

    encode = lambda text: SimpleNamespace(input_ids=list(text))  # noqa: E731 - a token a character
    tokenizer = type("Tokenizer", (), {"__call__": staticmethod(encode)})()
    settings = Settings(backend=backend, limit_context=100)

    def check(length):
        request = SimpleNamespace(request_type="loglikelihood", args=("x" * (length - 1), "y"), doc_id=0)
        return check_context(
            {"t": SimpleNamespace(instances=[request])}, resolve(str(model_a)), settings, tokenizer
        )

    assert check(longest) == {}
    with pytest.raises(UserError, match="at most 100"):
        check(longest + 1)


BASE = {"backend": "hf", "dtype": "float32", "generation": {}, "chat_template": False}


def two_runs(tmp_path, first, second, ref="hf"):
    """Finished runs that differ in their engine's options alone, as results keep them."""
    from eval_harness.gate.compare import FinishedRun
    from eval_harness.models.engine_options import recorded
    from eval_harness.models.reference import ModelRef
    from eval_harness.run.folder import read_items, read_result

    from .runs import make_run

    made = []
    for name, engine in (("candidate", first), ("baseline", second)):
        settings = {**BASE, **recorded(Settings(engine=engine), ModelRef(ref))}
        folder = make_run(tmp_path / name, {"alpha": [1, 0, 1]}, label=name, settings=settings)
        made.append(FinishedRun(name, read_result(folder), read_items(folder)))
    return made


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("add_bos_token", (True, None)),
        ("enable_thinking", (False, None)),
        ("chat_template_args", ({"a": 1}, {"a": 2})),
        ("think_end_token", ("</think>", None)),
        ("prefix_token_id", (3, None)),
        ("truncation", (True, None)),
        ("max_gen_toks", (128, 256)),
        ("use_fast_tokenizer", (False, True)),
    ],
)
def test_runs_whose_options_shape_other_prompts_are_not_compared(tmp_path, option, values):
    from eval_harness.gate.compare import pair_runs

    first, second = ({} if value is None else {option: value} for value in values)
    with pytest.raises(UserError, match=f"differ in {option}"):
        pair_runs(*two_runs(tmp_path, first, second))
    assert pair_runs(*two_runs(tmp_path, first, dict(first)))


@pytest.mark.parametrize(
    "option", ["softmax_dtype", "mixed_precision_dtype", "attn_implementation", "rope_x"]
)
def test_options_that_may_move_a_score_are_noted(tmp_path, option):
    from eval_harness.gate.compare import differences, pair_runs

    ours, theirs = two_runs(tmp_path, {option: "float32"}, {})
    assert pair_runs(ours, theirs)
    assert f"{option} differs: float32 and None" in differences(ours.result, theirs.result)


def test_how_an_endpoint_is_reached_makes_no_difference(tmp_path):
    from eval_harness.gate.compare import differences, pair_runs

    ours, theirs = two_runs(tmp_path, {"timeout": 7, "max_retries": 1, "retries": 2}, {}, "endpoint")
    assert pair_runs(ours, theirs)
    assert not [note for note in differences(ours.result, theirs.result) if "differs" in note]


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ("peft", "--base"),
        ("delta", "--model"),
        ("subfolder", "--model"),
        ("revision", "--model"),
        ("gguf_file", "--model"),
        ("lora_local_path", "--base"),
        ("pretrained", "--model"),
        ("tokenizer", "--tokenizer"),
        ("header", "OPENAI_API_KEY"),
        ("auth_token", "OPENAI_API_KEY"),
    ],
)
def test_options_that_identity_would_not_show_are_refused(cli, model_a, no_model, capfd, option, remedy):
    no_model()
    assert cli("--model", model_a, "--engine", f"{option}=sk-canary") == 2
    error = capfd.readouterr().err
    assert option in error
    assert remedy in error
    assert "canary" not in error


def test_what_vllm_writes_from_nan_logits_is_refused():
    from types import SimpleNamespace

    def outputs(total):
        return [SimpleNamespace(outputs=[SimpleNamespace(cumulative_logprob=total)])]

    resumable.check_outputs(outputs(-3.5) + outputs(None))
    with pytest.raises(UserError, match="not finite"):
        resumable.check_outputs(outputs(float("nan")))


def test_a_replaced_function_is_put_back():
    import math

    before = math.sqrt
    with resumable.replaced(math, "sqrt", abs):
        assert math.sqrt(-4) == 4
    with pytest.raises(TypeError), resumable.replaced(math, "sqrt", abs):
        math.sqrt("x")
    assert math.sqrt is before
