"""What a sweep shows: reward against KL, and sparsity against beta, seeds as mean and standard error."""

from __future__ import annotations

from typing import Any, NamedTuple

from sparsepo_plugin.report.plots import style
from sparsepo_plugin.report.plots.groups import mean_of, standard_error

FRONTIER, SPARSITY = "reward_kl_frontier", "sparsity_beta"
_REWARDS = {
    "accuracy_unmasked": "accuracy, masks removed\n(share of held-out pairs)",
    "log_ratio_margin": "log-ratio of chosen - of rejected\n(nats, held-out mean)",
}
_MASKS = {"reward_mask_sparsity": "reward mask", "kl_mask_sparsity": "KL mask"}
Rows = list[dict[str, Any]]


class Spread(NamedTuple):
    """Mean over seeds and its standard error, 0 for one seed."""

    mean: float
    error: float


def spread(rows: Rows, key: str) -> Spread | None:
    """Mean and standard error of a column; None where no row has it."""
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values:
        return None
    return Spread(mean_of(values), standard_error(values))


def by_beta(rows: Rows) -> dict[str, dict[float, Rows]]:
    """Finished rows by loss with options, then by beta in order."""
    groups: dict[str, dict[float, Rows]] = {}
    for row in sorted(rows, key=lambda row: row["beta"]):
        if row["status"] == "finished":
            name = f"{row['loss']}, {row['options']}" if row["options"] else row["loss"]
            groups.setdefault(name, {}).setdefault(row["beta"], []).append(row)
    return dict(sorted(groups.items()))


def draw_frontier(rows: Rows) -> Any:
    """Reward over sequence KL, a line per loss with options along beta; None where no run measured KL."""
    groups = {
        name: betas
        for name, betas in by_beta(rows).items()
        if any(spread(seeds, "sequence_kl") for seeds in betas.values())
    }
    if not groups:
        return None
    groups = {
        name: {beta: list(map(_with_log_ratio, seeds)) for beta, seeds in betas.items()}
        for name, betas in groups.items()
    }
    made, axes = style.figure(len(_REWARDS))
    for axis, (metric, label) in zip(axes, _REWARDS.items()):
        for number, (name, betas) in enumerate(groups.items()):
            _draw_line(axis, name, style.look(number), betas, metric)
        axis.set_xlabel("KL(reference, policy) of held-out responses (nats)")
        axis.set_ylabel(label)
        axis.margins(0.08)
    _explain(axes[0], groups)
    style.legend(made, axes)
    return made


def _with_log_ratio(row: dict[str, Any]) -> dict[str, Any]:
    """The row with its margin without beta, which compares runs of different betas."""
    margin = row.get("margin_unmasked")
    return {**row, "log_ratio_margin": None if margin is None else margin / row["beta"]}


def _explain(axis: Any, groups: dict[str, dict[float, Rows]]) -> None:
    if any(len(seeds) > 1 for betas in groups.values() for seeds in betas.values()):
        axis.plot(
            [], [], color="grey", marker="|", linewidth=0.7, label="mean \u00b1 standard error over seeds"
        )


def _draw_line(axis: Any, name: str, looks: style.Look, betas: dict[float, Rows], metric: str) -> None:
    points = [(beta, spread(seeds, "sequence_kl"), spread(seeds, metric)) for beta, seeds in betas.items()]
    known = [(beta, x, y) for beta, x, y in points if x is not None and y is not None]
    if not known:
        return
    _draw_spreads(axis, name, looks, [x for _, x, _ in known], [y for _, _, y in known])
    for beta, x, y in known:
        axis.annotate(
            f"\u03b2={beta:g}", (x.mean, y.mean), xytext=(4, 5), textcoords="offset points", fontsize=7,
            color=looks.colour,
        )  # fmt: skip


def _draw_spreads(axis: Any, name: str, looks: style.Look, xs: list[Spread], ys: list[Spread]) -> None:
    axis.errorbar(
        [x.mean for x in xs],
        [y.mean for y in ys],
        xerr=[x.error for x in xs],
        yerr=[y.error for y in ys],
        color=looks.colour,
        marker=looks.marker,
        markersize=5,
        linewidth=1,
        elinewidth=0.7,
        capsize=2,
        label=name,
    )


def draw_sparsity(rows: Rows) -> Any:
    """Share of tokens at 0 over beta, a panel per mask; None where no run has finished."""
    groups = by_beta(rows)
    masks = {
        metric: label
        for metric, label in _MASKS.items()
        if any(spread(seeds, metric) for betas in groups.values() for seeds in betas.values())
    }
    if not masks:
        return None
    made, axes = style.figure(len(masks))
    for axis, (metric, label) in zip(axes, masks.items()):
        for number, (name, betas) in enumerate(groups.items()):
            known = {beta: y for beta, seeds in betas.items() if (y := spread(seeds, metric)) is not None}
            if known:
                xs = [Spread(beta, 0.0) for beta in known]
                _draw_spreads(axis, name, style.look(number), xs, list(known.values()))
        axis.set_xscale("log")
        betas_shown = sorted({beta for betas in groups.values() for beta in betas})
        axis.set_xticks(betas_shown, [f"{beta:g}" for beta in betas_shown], minor=False)
        axis.set_xticks([], minor=True)
        axis.set_xlabel("beta (no unit, log scale)")
        axis.set_ylabel(f"{label}: share of tokens at 0 (held out)")
        axis.set_ylim(-0.03, 1.03)
    _explain(axes[0], groups)
    style.legend(made, axes)
    return made
