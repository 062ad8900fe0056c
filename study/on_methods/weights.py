"""Token weights of training pairs: from guides, which are DPO policies, or from the reward's own words.

A guide of one half of the pairs gives the numbers of the other half: weights from a model that has seen the
very pair hold what it has memorised (docs/weights.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

from sparsepo_plugin.forward.statistics.reference import IGNORE_INDEX
from study.classifiers import NGrams
from study.language import Language
from study.measure import IMPORTANT, importance
from study.on_methods.plan import Sizes, Weights
from study.prepared import Prepared, TokenPair, prepare
from study.training import Plan, Run, start, train


def log_ratios(
    language: Language, pairs: list[TokenPair], whole: Prepared, sizes: Sizes, seed: int
) -> Tensor:
    """Log-ratio of the other half's guide to the reference, [2 * pairs, seq - 1], nan outside responses.

    Args:
      language: the reference.
      pairs: of a run.
      whole: the same, prepared.
      sizes: of the comparison.
      seed: of the guides' order of pairs.
    """
    found = torch.full((len(whole.ids), whole.ids.shape[1] - 1), torch.nan)
    for own, other in ((0, 1), (1, 0)):
        guide = _guide(language, pairs[own::2], sizes, seed)
        places = list(range(other, len(pairs), 2))
        rows = torch.tensor([2 * p for p in places] + [2 * p + 1 for p in places])
        found[rows] = _ratios(guide, whole, places, found.shape[1])
    return found


def _guide(language: Language, pairs: list[TokenPair], sizes: Sizes, seed: int) -> Run:
    loss, beta = sizes.guide
    run = start(language, loss, {}, Plan(beta, sizes.rate, sizes.stops[-1], sizes.batch, seed))
    train(run, prepare(language, pairs), (), lambda step: None)
    run.policy.eval()
    return run


@torch.no_grad()
def _ratios(guide: Run, whole: Prepared, places: list[int], width: int, part: int = 64) -> Tensor:
    """Of pairs at given places, chosen rows first, [2 * places, width]."""
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for begin in range(0, len(places), part):
        stats, _, _ = guide.forward(whole.batch(places[begin : begin + part]))
        assert stats.reference_logps is not None
        ratios = (stats.policy_logps - stats.reference_logps).masked_fill(~stats.response_mask, torch.nan)
        grown = torch.nn.functional.pad(ratios, (0, width - ratios.shape[1]), value=torch.nan)
        for side, rows in zip(sides, grown.chunk(2)):
            side.append(rows)
    return torch.cat([*sides[0], *sides[1]])


def words(language: Language, reward: NGrams, whole: Prepared) -> Tensor:
    """1 on the share IMPORTANT of response tokens whose words the reward weighs most, else 0.

    Shape [rows, seq - 1]; nan outside responses.
    """
    weight = importance(language.tokenizer, reward, whole.ids)[:, 1:]
    response = whole.labels[:, 1:] != IGNORE_INDEX
    flags = (weight > torch.quantile(weight[response], 1 - IMPORTANT)).float()
    return flags.masked_fill(~response, torch.nan)


def shown(kind: Weights, ratios: Tensor | None, flags: Tensor) -> Tensor | None:
    """The weights that a method reads."""
    if kind == "none":
        return None
    if kind == "words":
        return flags
    return ratios.sigmoid() if kind == "probabilities" and ratios is not None else ratios
