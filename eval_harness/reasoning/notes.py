"""What a reader of scores must know about how they were made."""

import json

from eval_harness.reasoning.options import ReasoningJob
from eval_harness.reasoning.punkt import NOTE as PUNKT_NOTE
from eval_harness.reasoning.tasks import LoadedTasks


def notes_of(
    job: ReasoningJob, loaded: LoadedTasks, cut: dict[str, int], standin: bool
) -> dict[str, list[str]]:
    """Per task what keeps its score from being the published one; `cut` counts its shortened requests."""
    notes, changed = {}, json.dumps(job.settings.generation, sort_keys=True)
    for task, group in job.preset.tasks().items():
        of_task = []
        if standin and "punkt" in group.needs:
            of_task.append(PUNKT_NOTE)
        if task in loaded.standins:
            of_task.append("few-shot rows are stand-ins: not comparable with published scores")
        if job.settings.generation and loaded.tasks[task].get_config("output_type") == "generate_until":
            of_task.append(f"generation settings changed: {changed}")
        if cut.get(task):
            of_task.append(f"{cut[task]} requests cut from the left to fit the context")
        notes[task] = of_task
    return notes


def no_answer(failed: int) -> str:
    """The note on requests that got none."""
    return (
        f"{failed} requests have no answer (no content, or reasoning that used all tokens): "
        "run again to ask them again, with more new tokens where it was reasoning"
    )
