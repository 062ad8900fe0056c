"""Flags reach the backends' constructors; several processes and missing pieces are refused in time."""

import pytest

from eval_harness.errors import UserError
from eval_harness.models import checks, engines
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
