"""Share of a summary's parts that its document supports, with the sentences that hold the others."""

from collections.abc import Callable, Sequence

from eval_harness.faithfulness.examples import Evidence, Example, ScoredExample, worst_first
from eval_harness.faithfulness.text.sentences import split_sentences
from eval_harness.faithfulness.text.words import nearest


def supported_share(
    case: Example, metric: str, parts: Callable[[list[str]], Sequence[Sequence[bool]]]
) -> ScoredExample:
    """Score every summary of a case.

    Args:
      case: document and summaries.
      metric: the metric's name.
      parts: a summary's sentences -> per sentence, for each of its parts, whether the document supports it.

    Returns:
      Supported parts over parts per summary: 1 without any part, 0 for an empty summary, which is none.
    """
    document = split_sentences(case.document)
    values, evidence = [], []
    for summary in case.summaries:
        sentences = split_sentences(summary)
        found = parts(sentences)
        total, good = sum(map(len, found)), sum(map(sum, found))
        values.append(0.0 if not sentences else good / total if total else 1.0)
        bad = [
            Evidence(nearest(sentence, document), sentence, sum(own) / len(own))
            for sentence, own in zip(sentences, found, strict=True)
            if own and not all(own)
        ]
        evidence.append(worst_first(bad))
    return ScoredExample({metric: tuple(values)}, tuple(evidence))
