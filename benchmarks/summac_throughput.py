"""SummaC-ZS against one sentence pair at a time: the same pairs, model and run, ratio of speeds.

The peer asks every pair in its own forward pass, as a loop over sentences does. Ours asks equal pairs once,
in batches of like length. Documents and summaries are generated: sentences of 5 to 40 words, summaries of
three sentences. The samples of a document share sentences, as samples from a narrow nucleus do: a share
--shared of them comes from the same three. Both are timed alternately, in processor seconds, so that other
work on the machine counts little. Prints one JSON row per model size: the ratio on distinct pairs alone
(batches), and on all pairs (batches, and asking once). Fails when a probability differs.

    python benchmarks/summac_throughput.py --threads 1
"""

import argparse
import json
import platform
import random
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import eval_harness.faithfulness.scorers  # noqa: F401 - registers them
from eval_harness.faithfulness.examples import Device, Example
from eval_harness.faithfulness.networks.pairs import PairClassifier, pair_classifier
from eval_harness.faithfulness.registry import ScorerSpec, build_scorer
from eval_harness.faithfulness.text.sentences import split_sentences

# Layers, width: a test model, a small one (like MiniLM), a base model.
SIZES = {"tiny": (2, 64), "small": (6, 384), "base": (12, 768)}
WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in ("a", "e", "io", "ou") for c in "lnrst"]


def make_model(folder, layers, width):
    """A random NLI classifier with a tokenizer over the words above."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", *WORDS]
    tok = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    tok.normalizer = normalizers.Lowercase()
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=512,
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(fast),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(2, width // 64),
        num_labels=3,
        initializer_range=0.1,
        id2label={0: "entailment", 1: "neutral", 2: "contradiction"},
        label2id={"entailment": 0, "neutral": 1, "contradiction": 2},
    )
    BertForSequenceClassification(config).eval().save_pretrained(folder)
    return folder


def make_cases(documents, sentences, samples, shared, seed):
    """Documents and their sampled summaries."""
    rng = random.Random(seed)

    def sentence():
        words = [rng.choice(WORDS) for _ in range(rng.randint(5, 40))]
        return " ".join(words).capitalize() + "."

    cases = []
    for _ in range(documents):
        pool = [sentence() for _ in range(3)]
        summaries = [
            " ".join(rng.choice(pool) if rng.random() < shared else sentence() for _ in range(3))
            for _ in range(samples)
        ]
        cases.append(Example(" ".join(sentence() for _ in range(sentences)), tuple(summaries)))
    return cases


def one_at_a_time(classifier, pairs):
    """Probabilities by a loop over pairs, and the processor seconds it took."""
    import torch

    model, tokenizer, _ = classifier._loaded
    found, start = [], time.process_time()
    for premise, hypothesis in pairs:
        batch = tokenizer(premise, hypothesis, truncation=True, max_length=500, return_tensors="pt")
        with torch.inference_mode():
            found.append(torch.softmax(model(**batch).logits[0].double(), -1).numpy())
    return np.array(found), time.process_time() - start


def compare(folder, cases, rounds, batch_tokens):
    """Ratios per round and what they are of."""
    run_on = Device("cpu", batch_tokens=batch_tokens)
    scorer = build_scorer(ScorerSpec("summac-zs", {"model": str(folder)}), run_on)
    classifier: PairClassifier = pair_classifier(folder, "nli", run_on)
    every = [
        (d, s)
        for case in cases
        for summary in case.summaries
        for d in split_sentences(case.document)
        for s in split_sentences(summary)
    ]
    distinct = list(dict.fromkeys(every))
    one_at_a_time(classifier, distinct[:5])  # warm
    part = max(1, len(distinct) // (4 * rounds))
    peer, ours, whole, off = [], [], [], 0.0
    for number in range(rounds):
        asked = distinct[number * part : (number + 1) * part]
        expected, seconds = one_at_a_time(classifier, asked)
        peer.append(seconds / len(asked))
        classifier._known.clear()
        start = time.process_time()
        found = classifier.probabilities(distinct, 500)
        ours.append((time.process_time() - start) / len(distinct))
        off = max(off, float(np.abs(found[number * part : (number + 1) * part] - expected).max()))
        classifier._known.clear()
        start = time.process_time()
        scorer.score(cases)
        whole.append((time.process_time() - start) / len(every))
    assert off < 1e-4, f"probabilities differ by {off}"
    return {
        "pairs": len(every),
        "distinct": len(distinct),
        "pairs_per_second_one_at_a_time": round(1 / statistics.median(peer), 1),
        "pairs_per_second_summac": round(1 / statistics.median(whole), 1),
        "ratio_batches_alone": round(statistics.median(p / o for p, o in zip(peer, ours)), 2),
        "ratio": round(statistics.median(p / w for p, w in zip(peer, whole)), 2),
        "largest_difference": off,
    }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", default="tiny,small,base", help="of " + ", ".join(SIZES))
    parser.add_argument("--documents", type=int, default=6)
    parser.add_argument("--sentences", type=int, default=20, help="per document")
    parser.add_argument("--samples", type=int, default=5, help="summaries per document")
    parser.add_argument("--shared", type=float, default=0.7)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-tokens", type=int, default=8192)
    args = parser.parse_args()
    import torch

    torch.set_num_threads(args.threads)
    for size in args.sizes.split(","):
        with tempfile.TemporaryDirectory() as place:
            folder = make_model(Path(place).resolve(), *SIZES[size])
            documents = max(1, args.documents // (1 if size == "tiny" else 3 if size == "small" else 6))
            cases = make_cases(documents, args.sentences, args.samples, args.shared, seed=0)
            row = compare(folder, cases, args.rounds, args.batch_tokens)
        facts = {"threads": args.threads, "torch": torch.__version__, "machine": platform.machine()}
        print(
            json.dumps({"size": size, "layers": SIZES[size][0], "width": SIZES[size][1], **row, **facts}),
            flush=True,
        )


if __name__ == "__main__":
    main()
