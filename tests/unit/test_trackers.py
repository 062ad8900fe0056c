"""Trackers get what metrics.jsonl gets; one that fails is left out, and training goes on."""

from __future__ import annotations

import importlib.util
import json
import sys
from types import ModuleType, SimpleNamespace
from unittest.mock import MagicMock

import pytest

from sparsepo_plugin.adapters.openrlhf import flags, hub, preflight, reporting
from sparsepo_plugin.errors import RunFailedError, UserError
from sparsepo_plugin.run_folder.log import RunLog
from sparsepo_plugin.run_folder.trackers import NAMES, Run, Trackers

STEPS = [
    (1, "train", {"loss": 0.7, "lr": 1}),
    (1, "eval", {"loss": 0.6}),
    (2, "train", {"loss": float("nan")}),
]


@pytest.fixture
def run(tmp_path):
    return Run("project", "name", {"model.beta": 0.1, "nothing": None}, tmp_path / "board")


@pytest.fixture
def stub(monkeypatch):
    """Put a recording module in the place of a tracker's package."""

    def put(name):
        module = MagicMock(spec=ModuleType(name))
        for function in [
            "init",
            "log",
            "define_metric",
            "finish",
            "set_experiment",
            "start_run",
            "log_params",
            "log_metrics",
            "end_run",
        ]:
            setattr(module, function, MagicMock(name=function))
        monkeypatch.setitem(sys.modules, name, module)
        return module

    return put


def report(name, run, every=1):
    trackers = Trackers([name], run, every)
    for step in STEPS:
        trackers.log(*step)
    trackers.close()


def test_wandb_is_given_every_number_with_its_step(stub, run):
    wandb = stub("wandb")
    report("wandb", run)
    wandb.init.assert_called_once_with(project="project", name="name", config=run.configuration)
    assert [call.args[0] for call in wandb.log.call_args_list] == [
        {"train/loss": 0.7, "train/lr": 1.0, "global_step": 1},
        {"eval/loss": 0.6, "global_step": 1},
        {"global_step": 2},
    ]
    wandb.finish.assert_called_once_with()


def test_trackio_is_given_every_number_with_its_step(stub, run):
    trackio = stub("trackio")
    report("trackio", run)
    trackio.init.assert_called_once_with(project="project", name="name", config=run.configuration)
    assert trackio.log.call_args_list[1].args == ({"eval/loss": 0.6},)
    assert [call.kwargs for call in trackio.log.call_args_list] == [{"step": 1}, {"step": 1}, {"step": 2}]
    trackio.finish.assert_called_once_with()


def test_mlflow_is_given_every_number_with_its_step(stub, run):
    mlflow = stub("mlflow")
    report("mlflow", run)
    mlflow.set_experiment.assert_called_once_with("project")
    mlflow.start_run.assert_called_once_with(run_name="name")
    mlflow.log_params.assert_called_once_with({"model.beta": 0.1})
    mlflow.log_metrics.assert_any_call({"train/loss": 0.7, "train/lr": 1.0}, step=1)
    mlflow.end_run.assert_called_once_with()


@pytest.mark.parametrize("name", ["trackio", "mlflow"])
def test_the_real_package_takes_a_run(name, run, monkeypatch, tmp_path, capsys):
    pytest.importorskip(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    report(name, run)
    assert "warning" not in capsys.readouterr().out


def test_tensorboard_writes_its_files(run):
    if importlib.util.find_spec("tensorboard") is None:
        pytest.skip("tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    report("tensorboard", run)
    board = EventAccumulator(str(run.folder)).Reload()
    assert sorted(board.Tags()["scalars"]) == ["eval/loss", "train/loss", "train/lr"]
    assert [(event.step, event.value) for event in board.Scalars("train/loss")] == [(1, pytest.approx(0.7))]


def test_training_is_reported_at_its_steps_and_every_evaluation(stub, run):
    wandb = stub("wandb")
    report("wandb", run, every=2)
    assert [call.args[0]["global_step"] for call in wandb.log.call_args_list] == [1, 2]


@pytest.mark.parametrize("where", ["init", "log"])
def test_a_tracker_that_fails_is_left_out_with_a_warning(where, stub, run, tmp_path, capsys):
    getattr(stub("wandb"), where).side_effect = ConnectionError("no network\nat all")
    other = stub("trackio")
    log = RunLog(tmp_path, active=True, trackers=Trackers(["wandb", "trackio"], run))
    log.start("", {}, 1, step=0)
    for step in STEPS:
        log.metrics(*step)
    log.close()
    said = capsys.readouterr().out
    assert said == "warning: wandb is left out from now on: no network at all; metrics.jsonl has every step\n"
    assert other.log.call_count == 3
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_another_process_reports_nothing(stub, run, tmp_path):
    wandb = stub("wandb")
    log = RunLog(tmp_path, active=False, trackers=Trackers(["wandb"], run))
    log.metrics(*STEPS[0])
    log.close()
    assert not wandb.init.called


def parse(inputs, *argv):
    return flags.parse([*inputs.flags(), *argv])


def test_the_flag_takes_every_tracker_and_says_what_is_missing(inputs, monkeypatch):
    found = parse(inputs, "--loss", "dpo", "--logger.report_to", *NAMES).arguments
    assert found.logger.report_to == list(NAMES)
    absent = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: None))
    monkeypatch.setattr("sparsepo_plugin.run_folder.trackers.importlib", absent)
    with pytest.raises(UserError, match=r"report_to tensorboard: the package tensorboard is not installed"):
        reporting.check(found)
    with pytest.raises(UserError, match="got upstream's own loss, expected --loss NAME"):
        reporting.check(parse(inputs, "--logger.report_to", "wandb").arguments)
    with pytest.raises(UserError, match="report_to"):
        parse(inputs, "--loss", "dpo", "--logger.report_to", "neptune")


def test_the_key_of_an_account_is_told_to_no_tracker(inputs):
    arguments = parse(inputs, "--loss", "dpo", "--logger.wandb.key", "secret").arguments
    assert "secret" not in json.dumps(dict(reporting.build(arguments)._run.configuration))


# ---------------------------------------------------------------- the model hub


@pytest.fixture
def api(monkeypatch):
    made = MagicMock()
    monkeypatch.setattr(hub, "HfApi", lambda: made)
    return made


def test_the_policy_is_pushed_without_records_of_the_data(api, inputs, tmp_path, capsys):
    arguments = parse(
        inputs, "--hub.push", "org/policy", "--hub.private", "--ckpt.output_dir", str(tmp_path)
    ).arguments
    hub.push(arguments)
    api.create_repo.assert_called_once_with("org/policy", private=True, exist_ok=True)
    (call,) = api.upload_folder.call_args_list
    assert (call.kwargs["repo_id"], call.kwargs["folder_path"]) == ("org/policy", tmp_path)
    from huggingface_hub.utils import filter_repo_objects

    files = ["config.json", "model.safetensors", "sparsepo_masks.safetensors", "tokenizer.json"]
    others = ["metrics.jsonl", "tokens.jsonl", "steps/global_step2/config.json", "sparsepo_config.yaml"]
    kept = {name: call.kwargs[name] for name in ("allow_patterns", "ignore_patterns")}
    assert list(filter_repo_objects(files + others, **kept)) == files
    assert capsys.readouterr().out == f"pushed {tmp_path} to org/policy\n"


def test_without_the_flag_nothing_is_pushed(api, inputs):
    arguments = parse(inputs).arguments
    hub.check(arguments)
    hub.push(arguments)
    assert not api.mock_calls


def test_who_is_not_logged_in_is_told_before_the_training(api, inputs, tmp_path):
    api.whoami.side_effect = OSError("Token is required")
    given = ["--hub.push", "org/policy", "--ckpt.output_dir", str(tmp_path / "out"), "--loss", "dpo"]
    with pytest.raises(UserError, match=r"hub does not know who you are \(Token is required\); log in with"):
        preflight.check(parse(inputs, *given))
    with pytest.raises(UserError, match="expected ORGANISATION/NAME"):
        hub.check(parse(inputs, "--hub.push", "a/b/c").arguments)


def test_an_upload_that_fails_says_where_the_model_is(api, inputs, tmp_path):
    api.upload_folder.side_effect = ConnectionError("gone")
    arguments = parse(inputs, "--hub.push", "org/policy", "--ckpt.output_dir", str(tmp_path)).arguments
    with pytest.raises(RunFailedError, match=r"the upload failed \(gone\); the model is in .*, send it with"):
        hub.push(arguments)
