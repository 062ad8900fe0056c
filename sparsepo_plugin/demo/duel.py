"""What a win-rate evaluation of the demo needs, in eval-harness's formats: prompts, judge, preset, gates.

The judge is the planted reward itself: a good word counts 1, a bad one -1, and the text with the larger sum
wins. So the truth about every pair of texts is known, and no other model is needed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from sparsepo_plugin.demo.language import BAD, GOOD, Pair
from sparsepo_plugin.files import write_text

SAMPLES = 6  # per prompt

_PRESET = """# Scenes written by two models, judged by the planted reward.
version: 1
suite: win_rate
title: scenes of the demo's toy language, judged by the planted reward
task: scenes
prompt_keys: [prompt]
template: helpful
sampling: {temperatures: [1.0], samples: @SAMPLES@, top_p: 1.0, max_new_tokens: 48}
max_unjudged: 0
"""
_GATES = """# The policy must win: KEPT when the interval of its win rate lies above one half.
version: 1
alpha: 0.05
gates:
  planted_reward: {tasks: ["scenes*"], superior: true, graded: true}
"""


def write_duel(folder: Path, pairs: Sequence[Pair]) -> None:
    """Write prompts.jsonl, judge.yaml, scenes.yaml and gates.yaml into a folder.

    Args:
      folder: created; files in it are replaced.
      pairs: their distinct prompts are used, in order.
    """
    prompts = dict.fromkeys(pair.prompt for pair in pairs)
    write_text(folder / "prompts.jsonl", "".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    weights = {**dict.fromkeys(GOOD, 1), **dict.fromkeys(BAD, -1)}
    lines = "".join(f"{word}: {weight}\n" for word, weight in weights.items())
    write_text(
        folder / "judge.yaml", "# The planted reward: weight of every word, 0 for all others.\n" + lines
    )
    write_text(folder / "scenes.yaml", _PRESET.replace("@SAMPLES@", str(SAMPLES)))
    write_text(folder / "gates.yaml", _GATES)
