"""Where the texts of a model come from: it writes them, or a file holds them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from eval_harness.errors import UserError
from eval_harness.files.rows import PROMPT_KEYS, data_name, read_rows, text_field
from eval_harness.models.answer_store import AnswerStore
from eval_harness.models.generation import Generation, Sampling, generate, plan_generation
from eval_harness.models.generation.types import FAILED, Sample, Written
from eval_harness.models.identity import sha
from eval_harness.models.reference import ModelRef
from eval_harness.models.settings import Settings
from eval_harness.types import ModelIdentity
from eval_harness.win_rate.preset import WinRatePreset, task_name

FILE = "outputs"  # kind of a ModelRef
# AlpacaEval's annotations hold the model's text as output_2.
_OUTPUT_KEYS = ("output", "response", "output_2")


class Slot(NamedTuple):
    """One text of a run: number of its prompt, temperature and number of the sample (0, 0 in files)."""

    task: str
    doc_id: int
    prompt: int
    temperature: float
    number: int


class Source(Protocol):
    """The texts of one model."""

    model: ModelIdentity

    def digest(self) -> str:
        """Equal for equal texts: by content, or by all that they will depend on."""

    def known(self, slots: Sequence[Slot], store: AnswerStore | None) -> list[str | None]:
        """Texts that are there already; nothing is generated."""

    def texts(self, slots: Sequence[Slot], store: AnswerStore, counts: dict[str, int]) -> list[str | None]:
        """All texts, without white space at the ends; None where one did not come."""

    def facts(self) -> tuple[tuple[str, str], ...]:
        """What a report says of how the texts were read."""


def slots_of(preset: WinRatePreset, prompts: int, files_only: bool) -> list[Slot]:
    """What is compared, task by task: with two files one text per prompt, else one per sample."""
    if files_only:
        return [Slot(preset.task, prompt, prompt, 0.0, 0) for prompt in range(prompts)]
    slots = []
    for temperature in preset.sampling.temperatures:
        # At temperature 0 all samples are equal: one says it all.
        samples = 1 if temperature == 0 else preset.sampling.samples
        task = task_name(preset.task, temperature)
        slots += [
            Slot(task, prompt * samples + number, prompt, temperature, number)
            for prompt in range(prompts)
            for number in range(samples)
        ]
    return slots


class FileTexts:
    """Texts of a file, by prompt."""

    def __init__(self, path: Path, prompts: Sequence[str]) -> None:
        """Read the file. Raises UserError: a prompt without a text."""
        outputs = read_outputs(path)
        missing = [prompt for prompt in prompts if prompt.strip() not in outputs]
        if missing:
            raise UserError(
                f"{path.name} lacks texts",
                got=f"none for {len(missing)} of {len(prompts)} prompts, e.g. {missing[0][:60]!r}",
                expected="a text for every prompt",
                remedy="--limit N, or another --prompts",
            )
        self._texts = [outputs[prompt.strip()] for prompt in prompts]
        content = sha(json.dumps(self._texts))
        self.model = ModelIdentity(FILE, data_name(path), content, "none")

    def digest(self) -> str:
        """Of the texts."""
        return self.model.weights

    def known(self, slots: Sequence[Slot], store: AnswerStore | None) -> list[str | None]:
        """All of them."""
        return [self._texts[slot.prompt] for slot in slots]

    def texts(self, slots: Sequence[Slot], store: AnswerStore, counts: dict[str, int]) -> list[str | None]:
        """All of them; no counts."""
        return [self._texts[slot.prompt] for slot in slots]

    def facts(self) -> tuple[tuple[str, str], ...]:
        """None: they are read as they are."""
        return ()


class WrittenTexts:
    """Texts that a model writes."""

    def __init__(self, plan: Generation) -> None:
        """Bind a checked plan."""
        self.plan, self.model = plan, plan.model

    def digest(self) -> str:
        """Of the keys under which the texts will lie."""
        return sha(json.dumps([draw.key for _, _, _, draw in self.plan.draws]))

    def known(self, slots: Sequence[Slot], store: AnswerStore | None) -> list[str | None]:
        """Texts in the store."""
        draws = {(prompt, t, number): draw.key for prompt, t, number, draw in self.plan.draws}
        keys = [draws[slot.prompt, slot.temperature, slot.number] for slot in slots]
        held = store.read(set(keys)) if store else {}
        return [Written(*held[key]).text.strip() if key in held else None for key in keys]

    def texts(self, slots: Sequence[Slot], store: AnswerStore, counts: dict[str, int]) -> list[str | None]:
        """Generate what is missing."""
        samples: dict[tuple[int, float, int], Sample] = {
            (s.prompt, s.temperature, s.number): s for s in generate(self.plan, store, counts)
        }
        drawn = [samples[slot.prompt, slot.temperature, slot.number] for slot in slots]
        return [None if sample.finish == FAILED else sample.text.strip() for sample in drawn]

    def facts(self) -> tuple[tuple[str, str], ...]:
        """Whether reasoning is removed."""
        return self.plan.thinking.fact()


def source_of(
    ref: ModelRef, preset: WinRatePreset, prompts: Sequence[str], sampling: Sampling, settings: Settings
) -> Source:
    """The texts of a model reference. Raises UserError as `plan_generation` and `read_outputs`."""
    if ref.kind == FILE:
        assert ref.path is not None  # by construction in resolve
        return FileTexts(ref.path, prompts)
    shown = [preset.format.replace("{prompt}", prompt) for prompt in prompts]
    return WrittenTexts(plan_generation(ref, shown, sampling, settings))


def is_file(ref: ModelRef | None) -> bool:
    """Whether a reference is a file of texts."""
    return ref is not None and ref.kind == FILE


def read_outputs(path: Path) -> dict[str, str]:
    """Prompt -> text of a model's output file, both without white space at the ends.

    Raises:
      UserError: rows without prompt or text, two different texts for one prompt.
    """
    texts: dict[str, str] = {}
    for number, row in enumerate(read_rows(path), start=1):
        where = f"{path}, row {number}"
        prompt = text_field(row, PROMPT_KEYS, where).strip()
        text = text_field(row, _OUTPUT_KEYS, where, optional=True).strip()
        if texts.setdefault(prompt, text) != text:
            raise UserError(where, got=f"a second text for {prompt[:60]!r}", expected="one text per prompt")
    return texts
