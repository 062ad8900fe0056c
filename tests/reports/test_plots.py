"""Figures of trainings: which runs are seeds of one configuration, what is drawn, what is refused."""

from __future__ import annotations

import json
import sys
import xml.etree.ElementTree as ElementTree

import made_runs
import pytest

from sparsepo_plugin import cli
from sparsepo_plugin.report.plots import frontier, groups, histograms, style, training

NAMES = (*training.FIGURES, histograms.NAME)


def plot(*names, out):
    return cli.main(["plot", *map(str, names), "-o", str(out)])


def refusal(capsys):
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture
def runs(tmp_path):
    """Two seeds of one configuration, and another one."""
    return [
        made_runs.write(tmp_path / "a0", seed=0),
        made_runs.write(tmp_path / "a1", seed=1),
        made_runs.write(tmp_path / "b0", seed=0, beta=0.5),
    ]


def test_every_figure_is_written_as_png_and_svg_with_names_units_and_legend(runs, tmp_path):
    assert plot(*runs, out=tmp_path / "plots") == 0
    assert sorted(path.name for path in (tmp_path / "plots").iterdir()) == sorted(
        f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")
    )
    for name, panels in training.FIGURES.items():
        png = (tmp_path / "plots" / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        svg = ElementTree.parse(tmp_path / "plots" / f"{name}.svg")
        text = " ".join("".join(node.itertext()) for node in svg.iter("{http://www.w3.org/2000/svg}text"))
        for words in ("training step", "beta 0.1 (2 seeds)", "beta 0.5", "held-out pairs", "of seeds"):
            assert words in text, (name, words)
        for panel in panels:
            assert panel.label in text
            assert "(" in panel.label or "share" in panel.label or "mean" in panel.label


def test_a_figure_is_replaced_and_is_the_same_bytes_again(runs, tmp_path):
    found = []
    for _ in range(2):
        made = training.draw("loss", training.FIGURES["loss"], groups.group(groups.read_runs([str(runs[2])])))
        found.append([path.read_bytes() for path in style.save(made, tmp_path / "plots", "loss")])
    assert found[0] == found[1]


def test_seeds_of_one_configuration_are_one_group_with_mean_and_range(runs):
    found = groups.group(groups.read_runs(list(map(str, runs))))
    assert [(members.label, len(members.runs)) for members in found] == [
        ("beta 0.1 (2 seeds)", 2),
        ("beta 0.5", 1),
    ]
    curve = found[0].curve("eval", "accuracy")
    assert curve.steps == [0, 5, 10, 15, 20]
    assert (curve.low[0], curve.mean[0], curve.high[0]) == pytest.approx((0.55, 0.6, 0.65))


def test_a_run_that_is_behind_shortens_the_band_and_a_repeated_step_counts_once(tmp_path):
    made_runs.write(tmp_path / "a0", seed=0, steps=20)
    made_runs.write(tmp_path / "a1", seed=1, steps=10)
    with open(tmp_path / "a1/metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 5, "split": "eval", "loss": 9.0}) + "\n")
    (found,) = groups.group(groups.read_runs([str(tmp_path / "a0"), str(tmp_path / "a1/metrics.jsonl")]))
    curve = found.curve("eval", "loss")
    assert curve.steps == [0, 5, 10]
    assert curve.high[1] == 9.0


def test_labels_say_what_differs_and_fall_back_to_folder_names(tmp_path):
    other = {"adam": {"lr": 1.0, "eps": 1.0}, "data": {"max_len": 1, "prompt_key": "p"}}
    a = made_runs.write(tmp_path / "one", sparsepo={"masks": "common"})
    b = made_runs.write(tmp_path / "two", loss="dpo", beta=0.5, dpo={"record": 3})
    c = made_runs.write(tmp_path / "three", **other)

    def labels(*names):
        return [members.label for members in groups.group(groups.read_runs(list(map(str, names))))]

    assert labels(a, b) == ["sparsepo, beta 0.1", "dpo, beta 0.5"]
    assert labels(a, c) == ["one", "three"]
    assert labels(a) == ["one"]


def test_a_run_without_configuration_stays_alone(tmp_path):
    for seed in (0, 1):
        made_runs.write(tmp_path / f"run{seed}", seed=seed)
        (tmp_path / f"run{seed}/sparsepo_config.yaml").unlink()
    found = groups.group(groups.read_runs([str(tmp_path / "run0"), str(tmp_path / "run1")]))
    assert [members.label for members in found] == ["run0", "run1"]


def test_the_histogram_adds_seeds_and_gives_shares(runs):
    found = groups.group(groups.read_runs(list(map(str, runs))))
    heat = histograms.heat(found[0], "reward_mask")
    assert heat.steps == [0, 5, 10, 15, 20]
    last = [row[-1] for row in heat.shares]
    assert last == pytest.approx([40 / 61, 2 / 61, 4 / 61, 6 / 61, 9 / 61])
    assert histograms.heat(found[0], "kl_mask") is None


def test_a_loss_without_masks_and_reference_gets_the_figures_it_has(tmp_path):
    run = tmp_path / "simpo"
    run.mkdir()
    line = {"step": 1, "split": "train", "loss": 0.7, "accuracy": 0.5, "margin": 0.0, "learning_rate": None}
    (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    assert plot(run, out=tmp_path / "plots") == 0
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == {"loss", "accuracy", "margin"}


def test_every_group_looks_different_to_colour_blind_readers_too():
    assert len({style.look(place) for place in range(56)}) == 56
    assert "#F0E442" not in style.COLOURS


def test_smoothing_takes_whole_windows_only():
    curve = groups.Curve([1, 2, 3, 4], [1.0, 3.0, 5.0, 7.0], [0.0] * 4, [8.0] * 4)
    assert training._smooth(curve, 2) == groups.Curve([2, 3, 4], [2.0, 4.0, 6.0], [0.0] * 3, [8.0] * 3)
    assert training._smooth(curve, 1) == curve


def test_bad_runs_are_refused_in_one_line(runs, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    bad = tmp_path / "bad"
    bad.mkdir()
    for names, words in (
        ([tmp_path / "gone"], "got no metrics.jsonl"),
        ([tmp_path / "empty"], "expected the output folder of a training"),
        ([runs[0], runs[0]], "got it twice"),
    ):
        assert plot(*names, out=tmp_path / "plots") == 2
        assert words in refusal(capsys)
    for content, words in (
        ("", "got no steps"),
        ('{"step": 1, "split": "test"}\n', "got split 'test'"),
        ('{"step": 1,', "line 1: got no JSON"),
    ):
        (bad / "metrics.jsonl").write_text(content)
        assert plot(bad, out=tmp_path / "plots") == 2
        assert words in refusal(capsys)
    assert not (tmp_path / "plots").exists()


def test_a_file_of_somebody_else_is_not_replaced(runs, tmp_path, capsys):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots/loss.png").write_bytes(b"\x89PNG of mine")
    assert plot(runs[0], out=tmp_path / "plots") == 2
    assert "sparsepo did not write" in refusal(capsys)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["loss.png"]
    assert plot(runs[0], out=tmp_path / "plots/loss.png") == 2
    assert "got a file, expected a folder" in refusal(capsys)


def test_without_matplotlib_the_remedy_is_named(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert plot(runs[0], out=tmp_path / "plots") == 2
    assert 'pip install "sparsepo[plot]"' in refusal(capsys)


# ---------------------------------------------------------------- sweeps


def row(loss, beta, seed, **changed):
    found = {"loss": loss, "beta": beta, "seed": seed, "options": "", "status": "finished"}
    found |= {"sequence_kl": 1 / beta + seed, "accuracy_unmasked": 0.6, "margin_unmasked": 0.2}
    return {**found, "reward_mask_sparsity": beta, "kl_mask_sparsity": None, **changed}


def test_the_frontier_leaves_out_what_has_no_kl_and_what_failed():
    rows = [row("dpo", 0.1, seed) for seed in (0, 1)] + [row("dpo", 0.5, 0, status="failed")]
    rows += [row("simpo", 2.0, 0, sequence_kl=None)]
    figure = frontier.draw_frontier(rows)
    labels = [text for axis in figure.axes for text in axis.get_legend_handles_labels()[1]]
    assert sorted(labels) == ["dpo", "dpo", "mean, least and largest of seeds"]
    assert list(figure.axes[1].lines[0].get_ydata()) == [2.0]  # 0.2 / 0.1
    assert all("nats" in axis.get_xlabel() for axis in figure.axes)
    assert [text.get_text() for text in figure.axes[0].texts] == ["\u03b2=0.1"]
    assert frontier.draw_frontier([row("simpo", 2.0, 0, sequence_kl=None)]) is None
    assert frontier.spread(rows[:2], "sequence_kl") == (10.5, 0.5, 0.5)


def test_sparsity_over_beta_has_a_panel_per_mask_that_exists():
    figure = frontier.draw_sparsity([row("sparsepo", beta, 0, options="masks=common") for beta in (0.1, 0.5)])
    (axis,) = figure.axes
    assert axis.get_xscale() == "log"
    assert axis.get_legend_handles_labels()[1] == ["sparsepo, masks=common"]
    assert "reward mask" in axis.get_ylabel()
