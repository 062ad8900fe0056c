"""How much of everything: chosen by processor time measured on small parts (docs/real-model.md)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Sizes of the demo.

    Attributes:
      prompt, response: longest of a pair, in tokens of the model; longer pairs are left out.
      pairs: of the policy's training; watched: held-out pairs it is measured on, of which shown are drawn.
      batch, micro: pairs per optimizer step and per forward pass.
      rate, beta: of the training.
      judge_pairs: of the reward head; people: held-out pairs on which it is compared with people.
      prompts: of the win rate.
      items: per reasoning task; followed: tokens of an answer to IFEval's instructions.
      documents: to summarise; document: their longest, in tokens.
    """

    prompt: int = 64
    response: int = 64
    pairs: int = 300
    watched: int = 24
    shown: int = 10
    batch: int = 12
    micro: int = 4
    rate: float = 5e-6
    beta: float = 0.1
    judge_pairs: int = 1000
    people: int = 200
    prompts: int = 80
    items: dict[str, int] | None = None
    followed: int = 160
    documents: int = 40
    document: int = 224

    def tasks(self) -> dict[str, int]:
        """Items by reasoning task."""
        return self.items or {"hellaswag": 100, "arc_challenge": 60, "ifeval": 24}


SIZES = {
    "full": Sizes(),
    "smoke": Sizes(
        pairs=8, watched=4, shown=2, batch=4, micro=2, judge_pairs=8, people=8, prompts=4,
        items={"hellaswag": 4, "arc_challenge": 4, "ifeval": 2}, followed=6, documents=3,
        document=10**6, prompt=10**6, response=10**6,
    ),
}  # fmt: skip
