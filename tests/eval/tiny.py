"""Tiny models built from configs, and generated data in the layouts of the shipped tasks: offline."""

import gzip
import json
import random
import re
from pathlib import Path

WORDS = re.findall(
    r"\w+",
    "the a one two three four five red blue green cat dog bird stone river house runs jumps "
    "sits true false not and or yes no Question Answer Options Q A B C D is are on in under by "
    "with count move story person place team ",
)
CHAT = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def sentence(rng, words=8):
    return " ".join(rng.choice(WORDS) for _ in range(words))


def make_tokenizer(folder, template=False, seed=0):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    rng = random.Random(seed)
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tok.train_from_iterator([sentence(rng, 20) for _ in range(200)], trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tok, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    if template:
        fast.chat_template = CHAT
    fast.save_pretrained(folder)
    return fast


def make_model(folder, seed=0, template=False, context=16384, hidden=32, heads=4, layers=2, specials=True):
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = Path(folder)
    fast = make_tokenizer(folder, template)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast),
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=context,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        initializer_range=0.4,
    )
    model = LlamaForCausalLM(config).to(torch.float32)
    if not specials:  # their logits are then 0, never the largest: no special token is generated
        model.lm_head.weight.data[:2] = 0.0
    model.save_pretrained(folder)
    return folder


def make_adapter(folder, base, seed=3):
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj", "v_proj"])
    )
    torch.manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # peft starts at zero: an adapter that changes nothing
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return Path(folder)


def write_rows(path, rows):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as handle:
        handle.writelines(json.dumps(row) + "\n" for row in rows)
    return path


def bbh_rows(rng, n, choices):
    return [{"input": sentence(rng) + " is", "target": rng.choice(choices)} for _ in range(n)]


def gpqa_rows(rng, n):
    rows = []
    for _ in range(n):
        row = {"Question": sentence(rng, 12), "Correct Answer": sentence(rng, 3)}
        rows.append(row | {f"Incorrect Answer {i}": sentence(rng, 3) for i in (1, 2, 3)})
    return rows


def arc_rows(rng, n):
    rows = []
    for i in range(n):
        choices = [{"text": sentence(rng, 3), "label": label} for label in "ABCD"]
        question = {"stem": sentence(rng), "choices": choices}
        rows.append({"id": f"q{i}", "question": question, "answerKey": rng.choice("ABCD")})
    return rows


def gsm_rows(rng, n):
    rows = []
    for _ in range(n):
        a, b = rng.randint(1, 9), rng.randint(1, 9)
        rows.append({"question": f"{sentence(rng)} {a} and {b}?", "answer": f"{a}+{b}={a + b}\n#### {a + b}"})
    return rows


def musr_rows(rng, stories, choices):
    rows = []
    for _ in range(stories):
        story, names = sentence(rng, 60), [sentence(rng, 2) for _ in range(choices)]
        rows += [
            {
                "narrative": story,
                "question": sentence(rng),
                "choices": names,
                "answer_choice": rng.choice(names),
            }
            for _ in range(2)
        ]
    return rows


def ifeval_rows(rng, n):
    kinds = [
        ("punctuation:no_comma", {}),
        ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "at least"}),
        ("length_constraints:number_words", {"num_words": 5, "relation": "at least"}),
    ]
    rows = []
    for i in range(n):
        picked = [kinds[i % 3], kinds[0]] if i % 3 else [kinds[0]]
        rows.append(
            {
                "key": i,
                "prompt": sentence(rng),
                "instruction_id_list": [k for k, _ in picked],
                "kwargs": [v for _, v in picked],
            }
        )
    return rows


def make_data(folder, seed=0, n=8):
    """Generated files for ten shipped tasks, and the mapping that points to them."""
    rng, folder = random.Random(seed), Path(folder)
    write_rows(folder / "bbh/boolean_expressions.jsonl.gz", bbh_rows(rng, n, ["True", "False"]))
    write_rows(folder / "bbh/navigate.jsonl.gz", bbh_rows(rng, n, ["Yes", "No"]))
    write_rows(folder / "gpqa.jsonl", gpqa_rows(rng, n))
    write_rows(folder / "arc.jsonl.gz", arc_rows(rng, n))
    write_rows(folder / "gsm.jsonl", gsm_rows(rng, n + 6))
    write_rows(folder / "musr.jsonl", musr_rows(rng, 3, 2))
    write_rows(folder / "ifeval.jsonl", ifeval_rows(rng, n))
    text = """
version: 1
tasks:
  "leaderboard_bbh_*": {test: "bbh/{1}.jsonl.gz"}
  "leaderboard_gpqa_*": {train: gpqa.jsonl}
  leaderboard_ifeval: {train: ifeval.jsonl}
  leaderboard_musr_murder_mysteries: {murder_mysteries: {file: musr.jsonl, convert: musr_choices}}
  arc_challenge:
    test: {file: arc.jsonl.gz, convert: arc_original}
    validation: {file: arc.jsonl.gz, convert: arc_original}
    train: {file: arc.jsonl.gz, convert: arc_original, standin: true}
  gsm8k: {test: {file: gsm.jsonl, skip: 6}, train: {file: gsm.jsonl, take: 6}}
"""
    (folder / "data.yaml").write_text(text)
    return folder / "data.yaml"
