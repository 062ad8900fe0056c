"""Figures of trainings: which runs are seeds of one configuration, what is drawn, what is refused."""

from __future__ import annotations

import csv
import itertools
import json
import math
import sys
import xml.etree.ElementTree as ElementTree

import made_runs
import pytest

from sparsepo_plugin import cli
from sparsepo_plugin.report.plots import frontier, groups, histograms, paired, style, training

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
    pictures = {f"{name}.{kind}" for name in NAMES for kind in ("png", "svg")}
    tables = {f"{name}.{kind}" for name in training.FIGURES for kind in ("csv", "md")}
    assert {path.name for path in (tmp_path / "plots").iterdir()} == pictures | tables
    for name, panels in training.FIGURES.items():
        png = (tmp_path / "plots" / f"{name}.png").read_bytes()
        assert png.startswith(b"\x89PNG")
        svg = ElementTree.parse(tmp_path / "plots" / f"{name}.svg")
        text = " ".join("".join(node.itertext()) for node in svg.iter("{http://www.w3.org/2000/svg}text"))
        for words in (
            "training step",
            "beta 0.1 (2 seeds)",
            "beta 0.5",
            "held-out pairs",
            "error over seeds",
        ):
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


def test_seeds_of_one_configuration_are_one_group_with_mean_and_standard_error(runs):
    found = groups.group(groups.read_runs(list(map(str, runs))))
    assert [(members.label, len(members.runs)) for members in found] == [
        ("beta 0.1 (2 seeds)", 2),
        ("beta 0.5", 1),
    ]
    curve = found[0].curve("eval", "accuracy")
    assert curve.steps == [0, 5, 10, 15, 20]
    assert (curve.mean[0], curve.error[0]) == pytest.approx((0.6, 0.05))  # 0.55 and 0.65


def test_a_run_that_is_behind_shortens_the_band_and_a_repeated_step_counts_once(tmp_path):
    made_runs.write(tmp_path / "a0", seed=0, steps=20)
    made_runs.write(tmp_path / "a1", seed=1, steps=10)
    with open(tmp_path / "a1/metrics.jsonl", "a") as file:
        file.write(json.dumps({"step": 5, "split": "eval", "loss": 9.0}) + "\n")
    (found,) = groups.group(groups.read_runs([str(tmp_path / "a0"), str(tmp_path / "a1/metrics.jsonl")]))
    curve = found.curve("eval", "loss")
    assert curve.steps == [0, 5, 10]
    assert curve.mean[1] == pytest.approx((9.0 + 0.7 + 0.5 + 0.05) / 2)


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


def test_folders_of_one_name_are_told_apart_by_those_above_them(tmp_path):
    names = [str(made_runs.write(tmp_path / which / "out")) for which in ("a", "b")]
    for name in names:
        (tmp_path / name / "sparsepo_config.yaml").unlink()
    assert [members.label for members in groups.group(groups.read_runs(names))] == ["a/out", "b/out"]


def test_the_histogram_adds_seeds_and_gives_shares(runs):
    found = groups.group(groups.read_runs(list(map(str, runs))))
    heat = histograms.heat(found[0], "reward_mask")
    assert heat.columns == [0, 5, 10, 15, 20]
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


def figure_of(name, *runs):
    return training.draw(name, training.FIGURES[name], groups.group(groups.read_runs(list(map(str, runs)))))


def rewrite(run, change):
    path = run / "metrics.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, **change(row)}) + "\n" for row in rows))
    return run


def test_a_run_of_one_step_is_a_point_not_an_invisible_line(tmp_path):
    run = made_runs.write(tmp_path / "one", steps=1)
    path = run / "metrics.jsonl"
    path.write_text("".join(line for line in path.read_text().splitlines(True) if "train" in line))
    (line,) = [line for line in figure_of("loss", run).axes[0].lines if len(line.get_xdata())]
    assert line.get_marker() not in ("None", "", None)
    assert list(line.get_xdata()) == [1]


def test_a_constant_metric_is_named_and_not_drawn(runs, tmp_path, capsys):
    run = rewrite(runs[0], lambda row: {"reward_mask_mean": 1 + 1e-8 * row["step"], "kl_mask_mean": 1.0})
    assert figure_of("mask_mean", run) is None
    assert plot(run, out=tmp_path / "plots") == 0
    assert "constant: reward_mask_mean = 1, kl_mask_mean = 1" in capsys.readouterr().out
    assert "reward_mask_mean" in (tmp_path / "plots/mask_mean.csv").read_text()
    assert not (tmp_path / "plots/mask_mean.png").exists()


def test_a_loss_of_another_unit_gets_its_own_panel_and_a_kl_that_flattens_others_a_log_scale(tmp_path):
    names = [made_runs.write(tmp_path / loss, loss=loss) for loss in ("dpo", "sparsepo", "ipo")]
    assert len(figure_of("loss", *names).axes) == 1
    assert figure_of("sequence_kl", *names).axes[0].get_yscale() == "linear"
    rewrite(names[2], lambda row: {"loss": 25 - row["step"], "chosen_sequence_kl": 30.0 * row["step"]})
    made = figure_of("loss", *names)
    assert [axis.get_title() for axis in made.axes] == ["dpo", "sparsepo", "ipo"]
    made = figure_of("sequence_kl", *names)
    assert made.axes[0].get_yscale() == "symlog"
    assert "log scale" in made.axes[0].get_ylabel()
    assert made.axes[1].get_yscale() == "linear"


def test_twenty_runs_are_numbered_at_their_ends_and_named_outside_the_axes(tmp_path):
    names = [made_runs.write(tmp_path / f"run{n}", beta=0.1 + n / 100) for n in range(20)]
    made = figure_of("margin", *names)
    made.draw_without_rendering()
    legend = made.legends[0]
    assert [text.get_text().split(":")[0] for text in legend.get_texts()][:20] == [
        str(n) for n in range(1, 21)
    ]
    box = legend.get_window_extent()
    for axis in made.axes:
        assert not box.overlaps(axis.get_window_extent())
        assert axis.get_window_extent().height > 150
        numbers = sorted(axis.texts, key=lambda text: text.xyann[1])
        assert len(numbers) == 20
        heights = [text.xyann[1] for text in numbers]
        assert all(after - before > 0.04 for before, after in itertools.pairwise(heights))
    assert made.bbox.contains(box.x0, box.y0)
    assert made.bbox.contains(box.x1, box.y1)


def test_many_histograms_stand_side_by_side_each_under_its_number(tmp_path):
    names = [made_runs.write(tmp_path / f"run{n}", beta=0.1 + n / 100) for n in range(9)]
    made = histograms.draw(groups.group(groups.read_runs(list(map(str, names)))))
    assert [text.get_text() for text in made.axes[0].get_xticklabels()] == [str(n) for n in range(1, 10)]
    assert len(made.legends[0].get_texts()) == 9


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("degrees", [*range(1, 12), 30, 99])
def test_students_t_is_scipys(degrees):
    stats = pytest.importorskip("scipy.stats")
    for t in (0.0, 0.3, 1.0, 2.5, 12.7):
        assert paired.two_sided(t, degrees) == pytest.approx(2 * stats.t.sf(t, degrees), abs=1e-12)


def test_seeds_are_compared_pair_by_pair_and_adjusted_by_holm(tmp_path):
    """Differences of 0.2, 0.3, 0.4: t = 0.3 / (0.1 / sqrt(3)) = 5.196, p = 0.0351 with two degrees."""
    names = []
    for number, beta in enumerate((0.1, 0.2, 0.3)):
        for seed in (0, 1, 2):
            run = made_runs.write(tmp_path / f"{beta}-{seed}", beta=beta, seed=seed, steps=10)
            # The seeds differ far more than the configurations: unpaired, nothing would be seen.
            shift = 10.0 * seed + (0.2 + 0.1 * seed) * number
            names.append(str(rewrite(run, lambda row, shift=shift: {"loss": shift})))
    made = groups.group(groups.read_runs(names))
    first, second, third = paired.rows(["loss"], made)
    assert first.difference is None
    assert (second.difference, second.seeds, second.compared_step) == (pytest.approx(0.3), 3, 10)
    assert second.p == pytest.approx(0.03510, abs=1e-5)
    assert second.p_holm == pytest.approx(2 * second.p)
    assert second.standard_error == pytest.approx(10.1 / math.sqrt(3))
    assert third.p == pytest.approx(second.p)
    text = paired.as_markdown("loss", [first, second, third])
    assert "paired by train.seed" in text
    assert "| 0.070 |" in text
    table = list(csv.DictReader(paired.as_csv([first, second]).splitlines()))
    assert table[0]["p"] == ""
    assert float(table[1]["p"]) == second.p


def test_what_cannot_be_paired_has_no_p(tmp_path):
    one = made_runs.write(tmp_path / "a", seed=0)
    other = made_runs.write(tmp_path / "b", seed=1, beta=0.5)
    same = made_runs.write(tmp_path / "c", seed=0, beta=0.7)
    rows = paired.rows(["loss"], groups.group(groups.read_runs([str(one), str(other), str(same)])))
    assert [(row.difference is None, row.seeds, row.p) for row in rows[1:]] == [
        (True, None, None),
        (False, 1, None),
    ]
    assert paired.paired_p([0.1, 0.1, 0.1]) is None


def test_a_table_of_somebody_else_is_not_replaced(runs, tmp_path, capsys):
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots/margin.csv").write_text("step,margin\n1,2\n")
    assert plot(runs[0], out=tmp_path / "plots") == 2
    assert "margin.csv" in refusal(capsys)
    assert [path.name for path in (tmp_path / "plots").iterdir()] == ["margin.csv"]


def test_values_that_are_no_numbers_are_left_out(runs):
    rewrite(runs[0], lambda row: {"loss": "much"} if row["step"] == 5 else {"accuracy": True})
    found = groups.group(groups.read_runs([str(runs[0])]))[0].curve("eval", "loss")
    assert found.steps == [0, 10, 15, 20]


def test_every_group_looks_different_to_colour_blind_readers_too():
    assert len({style.look(place) for place in range(56)}) == 56
    assert "#F0E442" not in style.COLOURS


def test_smoothing_takes_whole_windows_only():
    assert groups._smooth({1: 1.0, 2: 3.0, 3: 5.0, 4: 7.0}, 2) == {2: 2.0, 3: 4.0, 4: 6.0}
    assert groups._smooth({1: 1.0, 2: 3.0}, 1) == {1: 1.0, 2: 3.0}
    assert groups._smooth({1: 1.0}, 2) == {}


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
    assert sorted(labels) == ["dpo", "dpo", "mean \u00b1 standard error over seeds"]
    assert list(figure.axes[1].lines[0].get_ydata()) == [2.0]  # 0.2 / 0.1
    assert all("nats" in axis.get_xlabel() for axis in figure.axes)
    assert [text.get_text() for text in figure.axes[0].texts] == ["\u03b2=0.1"]
    assert frontier.draw_frontier([row("simpo", 2.0, 0, sequence_kl=None)]) is None
    assert frontier.spread(rows[:2], "sequence_kl") == (10.5, 0.5)


def test_sparsity_over_beta_has_a_panel_per_mask_that_exists():
    figure = frontier.draw_sparsity([row("sparsepo", beta, 0, options="masks=common") for beta in (0.1, 0.5)])
    (axis,) = figure.axes
    assert axis.get_xscale() == "log"
    assert axis.get_legend_handles_labels()[1] == ["sparsepo, masks=common"]
    assert "reward mask" in axis.get_ylabel()
