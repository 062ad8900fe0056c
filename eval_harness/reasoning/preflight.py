"""Packages, NLTK data and engines: what would otherwise fail after hours of generation."""

import importlib.util
from importlib import metadata
from pathlib import Path

from eval_harness.errors import UserError
from eval_harness.reasoning.preset import ReasoningPreset
from eval_harness.reasoning.punkt import find_punkt, install_standin

LM_EVAL = "0.4.13"
# What a preset's `needs` stands for: modules to be importable, and the command that installs them.
NEEDS = {
    "math": (("math_verify", "sympy", "antlr4"), 'pip install "lm-eval[math]==0.4.13"'),
    "ifeval": (("langdetect", "immutabledict", "nltk"), 'pip install "lm-eval[ifeval]==0.4.13"'),
    "punkt": (("nltk",), 'pip install "lm-eval[ifeval]==0.4.13"'),
}


def check_packages(preset: ReasoningPreset) -> None:
    """Raise UserError with the installing command for the first missing or wrong package."""
    try:
        version = metadata.version("lm_eval")
    except metadata.PackageNotFoundError:
        version = "not installed"
    if version != LM_EVAL:
        raise UserError("lm-eval", got=version, expected=LM_EVAL, remedy='pip install "sparsepo[eval]"')
    for need in sorted({n for g in preset.groups for n in g.needs}):
        if need not in NEEDS:
            raise UserError(f"preset {preset.name}: needs", got=need, expected=", ".join(NEEDS))
        modules, command = NEEDS[need]
        for module in modules:
            if importlib.util.find_spec(module) is None:
                raise UserError(
                    "a package that the tasks need is missing",
                    got=f"no {module}",
                    expected=module,
                    remedy=command,
                )


def check_punkt(preset: ReasoningPreset, standin: Path | None) -> bool:
    """Find NLTK's punkt_tab, or install the stand-in where asked; true means: the stand-in is in use."""
    found = find_punkt() if any("punkt" in g.needs for g in preset.groups) else "real"
    if found == "real":
        return False
    if standin is None:
        raise UserError(
            "IFEval needs NLTK's punkt_tab data",
            got=found or "not found",
            expected="tokenizers/punkt_tab",
            remedy="python -m nltk.downloader punkt_tab, or --punkt-standin (scores not comparable)",
        )
    if found is None:
        install_standin(standin)
    return True
