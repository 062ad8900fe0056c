import os
from pathlib import Path

import pytest

from eval_harness.models import engines

from . import tiny

REPO = Path(__file__).resolve().parents[2]
BBH = "leaderboard_bbh_boolean_expressions"
CHOICE_ITEMS = 400  # per generated task


@pytest.fixture(autouse=True, scope="session")
def quiet_and_local(tmp_path_factory):
    """No hub, one thread, and datasets' cache in a temporary folder."""
    pytest.importorskip("lm_eval", reason="the eval extra is not installed: pip install -e '.[eval]'")
    import datasets
    import torch

    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="session")
def model_a(tmp_path_factory):
    return tiny.make_model(tmp_path_factory.mktemp("models") / "a", seed=0, template=True)


@pytest.fixture(scope="session")
def model_b(tmp_path_factory):
    return tiny.make_model(tmp_path_factory.mktemp("models") / "b", seed=1, template=True)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    return tiny.make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def shared():
    """The shared sample data: SPARSEPO_SHARED, else ../shared beside the repository."""
    folder = Path(os.environ.get("SPARSEPO_SHARED", REPO.parent / "shared")) / "data" / "eval"
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder} (set SPARSEPO_SHARED)")
    return folder


@pytest.fixture(scope="session")
def choice_tasks(tmp_path_factory):
    """data.yaml, tasks.yaml and gates.yaml, with the items of two shipped tasks."""
    folder = tmp_path_factory.mktemp("choices")
    from sparsepo_plugin.demo.choices import write_choice_tasks

    write_choice_tasks(folder, CHOICE_ITEMS, seed=2)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A tiny model that has learned the toy language.

    Trained until chance has no say: other seeds reach 0.97 of both tasks, after half the steps only 0.80.
    """
    from sparsepo_plugin.demo import language, supervised, tiny

    folder = tmp_path_factory.mktemp("trained")
    tokenizer = tiny.build_tokenizer(language.vocabulary())
    model = tiny.build_model(tokenizer, seed=0)
    pairs = language.generate_pairs(300, seed=1)
    texts = [pair.prompt + side for pair in pairs for side in (pair.chosen, pair.rejected)]
    supervised.supervised_start(
        model,
        tokenizer,
        texts,
        steps=300,
        batch_size=32,
        learning_rate=1e-2,
        seed=0,
        max_length=64,
        progress=False,
    )
    tiny.save_tiny(folder / "model", model, tokenizer)
    return folder / "model"


@pytest.fixture
def cli(tmp_path, data):
    """Run the command line in this process: cli("--model", ...) with a fresh cache; returns the exit code."""
    from eval_harness.cli.app import main

    def call(*args, command="run", cache=tmp_path / "cache", mapping=data, out=tmp_path / "out"):
        fixed = ["--data", mapping, "--cache", cache, "--out", out, "--device", "cpu", "--punkt-standin"]
        return main([command, *map(str, fixed), *map(str, args)])

    return call


@pytest.fixture
def no_model(monkeypatch):
    """Any attempt to load a model fails the test."""

    def refuse(*_):
        raise AssertionError("a model was loaded")

    return lambda: monkeypatch.setattr(engines, "load_engine", refuse)
