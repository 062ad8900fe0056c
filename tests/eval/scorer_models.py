"""Tiny models for scorers, built from configs: encoders, NLI classifiers, a T5 checker; offline."""

import random
from pathlib import Path

NAMES = "Anna Boris Clara David Elena Frank Greta Hugo".split()
PLACES = "Paris Rome Oslo Cairo Lima Tokyo Delhi Quito".split()
THINGS = "bread books boats bikes coats lamps rugs drums".split()
VERBS = "sold bought lost found".split()
WORDS = [*(w.lower() for w in (*NAMES, *PLACES, *THINGS, *VERBS)), "in", "and", "the", "a", ".", ",", "two", "five"]


def make_wordpiece(folder, longest=64):
    """A BERT tokenizer over the words above and single characters."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys([*WORDS, *letters])]
    vocabulary += [f"##{letter}" for letter in letters]
    tok = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    tok.normalizer = normalizers.Lowercase()
    tok.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tok.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {k: f"[{k[:-6].upper()}]" for k in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")}
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, model_max_length=longest, **special)
    fast.save_pretrained(folder)
    return fast


def _bert_config(fast, layers, width, longest, **more):
    from transformers import BertConfig

    return BertConfig(
        vocab_size=len(fast),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=longest,
        initializer_range=0.2,
        pad_token_id=0,
        **more,
    )


def make_encoder(folder, seed=0, layers=3, width=32, longest=64):
    """A random BERT with random position and token embeddings."""
    import torch
    from transformers import BertModel

    fast = make_wordpiece(folder, longest)
    torch.manual_seed(seed)
    BertModel(_bert_config(fast, layers, width, longest)).eval().save_pretrained(folder)
    return Path(folder)


def make_nli(folder, labels=("entailment", "neutral", "contradiction"), seed=0, layers=2, width=32, longest=64):
    """A random NLI classifier; its labels in this order."""
    import torch
    from transformers import BertForSequenceClassification

    fast = make_wordpiece(folder, longest)
    torch.manual_seed(seed)
    names = dict(enumerate(labels))
    config = _bert_config(fast, layers, width, longest, num_labels=len(labels), id2label=names)
    config.label2id = {name: i for i, name in names.items()}
    model = BertForSequenceClassification(config).eval()
    model.classifier.weight.data.mul_(4.0)  # probabilities that differ from each other
    model.save_pretrained(folder)
    return Path(folder)


def make_t5(folder, seed=0, longest=64):
    """A random T5 that answers 0 or 1, with the tokenizer above."""
    import torch
    from transformers import T5Config, T5ForConditionalGeneration

    fast = make_wordpiece(folder, longest)
    fast.eos_token = "[SEP]"
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=len(fast), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, pad_token_id=0,
        eos_token_id=3, decoder_start_token_id=0,
    )
    T5ForConditionalGeneration(config).eval().save_pretrained(folder)
    return Path(folder)


def make_conv(path, seed=0):
    """Random SummaC-Conv weights in the published layout."""
    import torch

    torch.manual_seed(seed)
    shapes = {"mlp.weight": (1, 23), "mlp.bias": (1,), "layer_final.weight": (2, 3), "layer_final.bias": (2,)}
    torch.save({name: torch.randn(shape) for name, shape in shapes.items()}, path)
    return path


def fact(rng):
    """A sentence that states who did what with which things where."""
    return f"{rng.choice(NAMES)} {rng.choice(VERBS)} {rng.choice(THINGS)} in {rng.choice(PLACES)}."


def document(rng, sentences=4):
    """Facts about different persons."""
    people = rng.sample(NAMES, sentences)
    return [f"{who} {rng.choice(VERBS)} {rng.choice(THINGS)} in {rng.choice(PLACES)}." for who in people]


def swapped(sentence, rng):
    """The same sentence with another place: a fact that the document does not hold."""
    words = sentence.rstrip(".").split()
    return " ".join([*words[:-1], rng.choice([p for p in PLACES if p != words[-1]])]) + "."


def texts(count, seed=0):
    """(document, summary) pairs of different lengths."""
    rng = random.Random(seed)
    return [
        (" ".join(document(rng, rng.randint(2, 6))), " ".join(fact(rng) for _ in range(rng.randint(1, 3))))
        for _ in range(count)
    ]
