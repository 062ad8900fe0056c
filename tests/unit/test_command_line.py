"""The words of a command line: switches, losses that replace a file's, misspellings, versions, help."""

from __future__ import annotations

import errno
import os
import subprocess
import sys

import pytest

from sparsepo_plugin import __version__, cli, config, train_dpo
from sparsepo_plugin.adapters.openrlhf import flags
from sparsepo_plugin.errors import UserError, guarded

SWITCHES = [
    *("eval.at_start", "eval.at_end", "ckpt.load_enable", "ckpt.save_hf", "model.dropout", "ref.offload"),
    *("data.apply_chat_template", "data.length_batching", "ds.packing_samples", "muon.nesterov"),
]


def value(arguments, name):
    for part in name.split("."):
        arguments = getattr(arguments, part)
    return arguments


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("spelling", ["--{0} {1}", "--{0}={1}"])
def test_a_switch_takes_true_and_false(name, spelling):
    for word, expected in (("true", True), ("false", False), ("False", False), ("TRUE", True)):
        argv = spelling.format(name, word).split()
        assert value(flags.parse(argv).arguments, name) is expected


def test_every_switch_can_be_taken_back():
    parser = flags._Parser([])
    from sparsepo_plugin.adapters.openrlhf import own_flags

    own_flags.add(parser)
    switches = [name for name, action in parser._option_string_actions.items() if action.nargs == 0]
    once = {name for name in switches if name not in ("-h", "--help", "--version")}
    assert {flags._taken_back(name) for name in once} == once


def test_forms_that_take_back_and_other_words():
    assert not flags.parse(["--no-eval.at_start", "true"]).arguments.eval.at_start
    assert flags.parse(["--no-eval.at_start", "false"]).arguments.eval.at_start
    assert not flags.parse(["--muon.no_nesterov", "true"]).arguments.muon.nesterov
    assert flags.parse(["--muon.no_nesterov", "false"]).arguments.muon.nesterov
    # A value that reads "false" stays one.
    assert config.spelt_out(["--data.prompt_key", "false"], {"--resume": None}) == [
        "--data.prompt_key",
        "false",
    ]
    with pytest.raises(UserError, match="unknown flag 'maybe'"):
        flags.parse(["--resume", "maybe"])


def test_resume_is_a_flag_of_every_launcher():
    assert flags.parse(["--resume"]).arguments.ckpt.load_enable
    assert not flags.parse([]).arguments.ckpt.load_enable


@pytest.fixture
def configured(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "loss: sparsepo\nsparsepo: {masks: independent, record: 5}\nmodel.beta: 0.2\ndpo.anchor: null\n"
    )
    return path


@pytest.mark.parametrize("words", [["--loss", "dpo"], ["--loss=dpo"]])
def test_a_loss_on_the_command_line_sets_the_files_options_of_another_aside(configured, words):
    parsed = flags.parse(["--config", str(configured), *words, "--dpo.anchor", "0.1"])
    assert parsed.loss.name == "dpo"
    assert parsed.options.anchor == 0.1
    assert parsed.arguments.model.beta == 0.2
    assert parsed.notes == (f"--loss dpo: set aside of {configured}: sparsepo.masks, sparsepo.record",)
    assert not hasattr(parsed.arguments, "sparsepo")


def test_the_same_loss_keeps_its_section(configured):
    parsed = flags.parse(["--config", str(configured), "--loss", "sparsepo", "--sparsepo.record", "6"])
    assert (parsed.options.masks, parsed.options.record, parsed.notes) == ("independent", 6, ())


def test_options_of_another_loss_on_the_command_line_stay_an_error(configured):
    with pytest.raises(UserError, match=r"--sparsepo\.masks given with --loss dpo"):
        flags.parse(["--config", str(configured), "--loss", "dpo", "--sparsepo.masks", "common"])
    configured.write_text("loss: dpo\nsparsepo: {masks: common}\n")  # the file contradicts itself
    with pytest.raises(UserError, match=r"--sparsepo\.masks given with --loss dpo"):
        flags.parse(["--config", str(configured)])


MISTAKES = {
    "trian": "unknown command 'trian': did you mean train?",
    "gate runs/eval": "one of the other program, eval-harness gate",
    "view a --ouput x": "unknown flag '--ouput': did you mean --output or --out?",
    "export --chekpoint a": "unknown flag '--chekpoint': did you mean --checkpoint?",
    "export --out b": "arguments are required: --checkpoint; see sparsepo export --help",
    "ls --sitse m": "unknown flag '--sitse': did you mean --sites?",
    "ls dop": "unknown loss 'dop': did you mean dpop or dpo?",
    "ls dpo more": "ls: unrecognized arguments: more; see sparsepo --help",
    "train --modle.beta 2": "did you mean --model.beta",
    "train --no-eval.at_strat": "did you mean --no-eval.at_start",
    "train --processes x": "invalid int value: 'x'; see sparsepo train --help",
    "validate --processes 0": "--processes: got 0, expected a number >= 1",
    "plot --out": "expected at least one argument",
}


@pytest.mark.parametrize("line", MISTAKES)
def test_a_mistake_is_one_line_with_the_commands_own_words(line, capsys):
    assert cli.main(line.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert "error: " in said.err


@pytest.mark.parametrize("line", [line for line in MISTAKES if not line.startswith("plot")])
def test_what_a_mistake_says(line, capsys):
    cli.main(line.split())
    assert MISTAKES[line] in capsys.readouterr().err


def test_a_flag_of_the_command_under_another_launcher(capsys):
    assert train_dpo.main(["--processes", "2"]) == 2
    assert "it is one of the command sparsepo (--processes N" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line", ["", "train", "validate", "export", "ls", "view", "plot", "sweep", "demo", "train --loss dpo"]
)
def test_every_command_says_its_version(line, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main([*line.split(), "--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"sparsepo {__version__}\n"


def test_ls_lists_one_loss(capsys):
    assert cli.main(["ls", "tdpo2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("tdpo2: ")
    assert "--tdpo2.alpha float (default 0.5)" in said
    assert "sparsepo" not in said
    assert cli.main(["ls"]) == 0
    assert said.strip() in capsys.readouterr().out


def test_switches_of_the_other_commands(capsys):
    assert cli.main(["export", "--checkpoint", "gone", "--out", "x", "--merge", "false"]) == 2
    assert "--checkpoint gone" in capsys.readouterr().err


LISTS = [
    *(
        "sparsepo_plugin ls",
        "sparsepo_plugin ls dpo",
        "sparsepo_plugin --help",
        "sparsepo_plugin train --help",
    ),
    *("sparsepo_plugin --version", "eval_harness ls", "eval_harness ls --tasks", "eval_harness ls --judges"),
    *("eval_harness ls --scorers", "eval_harness --help", "eval_harness run --help"),
]


def listed(line, output):
    """A list whose standard output is a file or pipe; returns (exit code, what it complains of)."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        [sys.executable, "-m", *line.split()],
        stdout=output,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("line", LISTS)
def test_a_list_whose_reader_has_gone_ends_quietly(line):
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert listed(line, writing) == (141, "")
    finally:
        os.close(writing)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
@pytest.mark.parametrize(("line", "code"), [("sparsepo_plugin ls", 1), ("eval_harness ls", 2)])
def test_a_list_onto_a_full_disk_is_one_line(line, code):
    with open("/dev/full", "w") as full:
        got, said = listed(line, full)
    assert (got, said.count("\n")) == (code, 1)
    assert "No space left on device" in said


def test_a_broken_pipe_of_the_runs_own_is_not_taken_for_a_closed_output(capfd):
    def broken():
        raise BrokenPipeError(errno.EPIPE, "a worker's pipe")

    with pytest.raises(BrokenPipeError, match="a worker's pipe"):
        guarded(broken)
