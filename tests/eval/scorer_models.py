"""Tiny models for scorers, built from configs: encoders, NLI classifiers, a T5 checker; offline."""

import json
import random
from pathlib import Path

NAMES = ["Anna", "Boris", "Clara", "David", "Elena", "Frank", "Greta", "Hugo"]
PLACES = ["Paris", "Rome", "Oslo", "Cairo", "Lima", "Tokyo", "Delhi", "Quito"]
THINGS = ["bread", "books", "boats", "bikes", "coats", "lamps", "rugs", "drums"]
VERBS = ["sold", "bought", "lost", "found"]
WORDS = [
    *(w.lower() for w in (*NAMES, *PLACES, *THINGS, *VERBS)),
    "in",
    "and",
    "the",
    "a",
    ".",
    ",",
    "two",
    "five",
]


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
    special = {
        k: f"[{k[:-6].upper()}]" for k in ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    }
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


_SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
_T5 = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
_BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
_BART |= {"encoder_ffn_dim": 64, "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "init_std": 0.2}
_BART |= {"bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2, "forced_eos_token_id": None}
_DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_biased_input": False}
OTHER_ENCODERS = {
    "albert": ("Albert", {**_SMALL, "embedding_size": 16, "initializer_range": 0.2}),
    "bart": ("Bart", _BART),
    "deberta": ("DebertaV2", {**_SMALL, **_DEBERTA, "initializer_range": 0.2}),
    "distilbert": ("DistilBert", {"dim": 32, "hidden_dim": 64, "n_layers": 3, "n_heads": 4}),
    "roberta": ("Roberta", {**_SMALL, "initializer_range": 0.2}),
    "t5": ("T5Encoder", _T5),
}


def make_other_encoder(folder, kind, seed=0):
    """A random encoder of another architecture than BERT, with the tokenizer above."""
    import torch
    import transformers

    name, options = OTHER_ENCODERS[kind]
    # RoBERTa never uses the first two positions: of 65 it has room for 64 tokens.
    positions = {} if kind == "t5" else {"max_position_embeddings": 65 if kind == "roberta" else 64}
    size = len(make_wordpiece(folder))
    make = getattr(transformers, f"{name.removesuffix('Encoder')}Config")
    torch.manual_seed(seed)
    config = make(vocab_size=size, pad_token_id=0, **positions, **options)
    getattr(transformers, f"{name}Model")(config).eval().save_pretrained(folder)
    return Path(folder)


def make_nli(
    folder, labels=("entailment", "neutral", "contradiction"), seed=0, layers=2, width=32, longest=64
):
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
        vocab_size=len(fast),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
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


def make_fact_nli(folder):
    """An NLI classifier whose weights are set by hand: it knows the facts above, on every processor.

    Entailment when every word of the hypothesis stands in the premise, neutral when its person does not,
    contradiction when the person does and another word does not. Two attention heads let [CLS] read the mean
    of either sentence's words; relu(4 hypothesis - 16 premise) per word is what the premise lacks. Two large
    opposite constants make every layer norm the same scaling. Logits are 10 or more apart.
    """
    import torch
    from transformers import BertForSequenceClassification

    fast = make_wordpiece(folder)
    settings = Path(folder) / "tokenizer_config.json"
    names = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    settings.write_text(json.dumps(json.loads(settings.read_text()) | names))
    facts = [w.lower() for w in (*NAMES, *PLACES, *THINGS, *VERBS)]
    words, width = len(facts), 96
    premise, hypothesis = slice(0, words), slice(words, 2 * words)
    # One width for: words read by either head; missing person, missing other word; flags; constants; balance.
    person, other, first, second, special, plus, minus, balance = range(88, 96)
    config = _bert_config(fast, 1, width, 64, num_labels=3, hidden_act="relu")
    config.num_attention_heads = 2
    config.id2label = {0: "entailment", 1: "neutral", 2: "contradiction"}
    config.label2id = {name: i for i, name in config.id2label.items()}
    model = BertForSequenceClassification(config).eval()
    model.requires_grad_(False)
    for parameter in model.parameters():
        parameter.zero_()
    large, bert = 50.0, model.bert
    layer, embeddings = bert.encoder.layer[0], bert.embeddings
    for norm in (embeddings.LayerNorm, layer.attention.output.LayerNorm, layer.output.LayerNorm):
        norm.weight.fill_(large * (2 / width) ** 0.5)
    table, kinds = embeddings.word_embeddings.weight, embeddings.token_type_embeddings.weight
    table[:, plus], table[:, minus] = large, -large
    table[fast.convert_tokens_to_ids(facts), premise] = torch.eye(words)
    table[[fast.cls_token_id, fast.sep_token_id], special] = 1.0
    kinds[0, first] = kinds[1, second] = 1.0
    attention, half = layer.attention.self, width // 2
    for head, kind, target in ((0, first, premise), (half, second, hypothesis)):
        attention.query.weight[head, plus] = 1.0  # every token asks the same
        attention.key.weight[head, kind], attention.key.weight[head, special] = 10.0, -10.0
        attention.value.weight[head : head + words, premise] = torch.eye(words)
        layer.attention.output.dense.weight[target, head : head + words] += torch.eye(words)
    lacking, missing = layer.intermediate.dense.weight, layer.output.dense.weight
    lacking[:words, hypothesis], lacking[:words, premise] = 4 * torch.eye(words), -16 * torch.eye(words)
    missing[person, : len(NAMES)], missing[other, len(NAMES) : words] = 1.0, 1.0
    for rows in (table, kinds, layer.attention.output.dense.weight.T, missing.T):
        rows[:, balance] = -rows.sum(1)  # so that no layer norm moves the mean
    # About 0.67 where a word is missing: the pooler says +1 or -1.
    bert.pooler.dense.weight[0, person] = bert.pooler.dense.weight[1, other] = 30.0
    bert.pooler.dense.bias[:2] = -10.0
    model.classifier.weight[:, :2] = torch.tensor([[-5.0, -5.0], [10.0, 0.0], [-5.0, 5.0]])
    model.save_pretrained(folder)
    return Path(folder)
