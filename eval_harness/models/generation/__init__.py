"""Prompts in, texts out, for any model reference: batched, sampled, on disk as each batch is finished."""

from eval_harness.models.generation.plan import Generation, plan_generation
from eval_harness.models.generation.run import generate
from eval_harness.models.generation.types import Prompt, Sample, Sampling

__all__ = ["Generation", "Prompt", "Sample", "Sampling", "generate", "plan_generation"]
