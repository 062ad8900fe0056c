"""Eight chat templates in their families' documented formats, and a tokenizer that knows their tokens.

What the assistant says stands in ``{% generation %}``, by which transformers itself marks a response.
"""

from __future__ import annotations

import functools

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = (
    """What is two plus two? The answer is four. It is five, of course! Name a colour; blue. Never mind,
the sky: <think> let me see </think> You are brief. Hello there\n\nHuman: again Assistant: yes """
    * 3
)

LLAMA_3 = """{{ bos_token }}{% for m in messages %}
{{- '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' }}
{%- if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<|eot_id|>' }}{% endgeneration %}
{%- else %}{{ m.content | trim + '<|eot_id|>' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"""

QWEN_3 = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}
{%- if m.role != 'assistant' %}{{ m.content + '<|im_end|>\n' }}
{%- else %}{% set parts = m.content.split('</think>') %}{% set said = parts[-1].lstrip('\n') %}
{%- set thought = parts[0].replace('<think>', '').strip('\n') if parts | length > 1 else '' %}
{%- generation %}{% if loop.last %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}
{{- said + '<|im_end|>\n' }}{% endgeneration %}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}"""

GEMMA_3 = """{{ bos_token }}
{%- set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}
{%- for m in messages if m.role != 'system' %}
{%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{{- '<start_of_turn>' + ('model' if m.role == 'assistant' else 'user') + '\n' }}
{%- if m.role == 'assistant' %}{% generation %}{{ m.content | trim + '<end_of_turn>\n' }}{% endgeneration %}
{%- else %}{{ (first if loop.first else '') + m.content | trim + '<end_of_turn>\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""

MISTRAL = """{{ bos_token }}{% set n = namespace(system='') %}{% for m in messages %}
{%- if m.role == 'system' %}{% set n.system = m.content + '\n\n' %}
{%- elif m.role == 'user' %}
{{- '[INST] ' + (n.system if loop.last or loop.index0 < 2 else '') + m.content + ' [/INST]' }}
{%- else %}{% generation %}{{ ' ' + m.content | trim + eos_token }}{% endgeneration %}{% endif %}
{%- endfor %}"""

CHATML = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}
{%- if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' + '\n' }}{% endgeneration %}
{%- else %}{{ m.content + '<|im_end|>' + '\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

PHI_3 = """{% for m in messages %}{{ '<|' + m.role + '|>\n' }}
{%- if m.role == 'assistant' %}{% generation %}{{ m.content + '<|end|>\n' }}
{%- if loop.last and not add_generation_prompt %}{{ eos_token }}{% endif %}{% endgeneration %}
{%- else %}{{ m.content + '<|end|>\n' }}{% endif %}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}
{%- elif messages[-1].role != 'assistant' %}{{ eos_token }}{% endif %}"""

NO_SYSTEM = GEMMA_3.replace(
    "{%- set first = messages[0].content + '\n\n' if messages[0].role == 'system' else '' %}",
    "{%- set first = '' %}{% if messages[0].role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}",
)

RAISES = CHATML.replace(
    "{% for m in messages %}",
    "{% for m in messages %}"
    "{% if 'again' in m.content %}{{ raise_exception('no talk of again') }}{% endif %}",
    1,
)

# DeepSeek-R1's way: what opens a thought stands in the generation prompt only.
THINKS_FIRST = CHATML.replace("{{ '<|im_start|>assistant\n' }}", "{{ '<|im_start|>assistant\n<think>\n' }}")

# Writes earlier turns otherwise as soon as a response follows.
FORGETS = """{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}
{{- m.content if loop.index0 + 2 > messages | length or messages[-1].role == 'user' else '...' }}
{{- '<|im_end|>\n' }}
{%- endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

TEMPLATES = {
    "llama 3": (LLAMA_3, "<|eot_id|>"),
    "qwen 3": (QWEN_3, "<|im_end|>"),
    "gemma 3": (GEMMA_3, "<eos>"),
    "mistral": (MISTRAL, "</s>"),
    "chatml": (CHATML, "<|im_end|>"),
    "phi 3": (PHI_3, "<|endoftext|>"),
    "no system role": (NO_SYSTEM, "<eos>"),
    "raises": (RAISES, "<|im_end|>"),
}
SPECIAL = [
    "<pad>", "<s>", "</s>", "<eos>", "<|endoftext|>", "<|eot_id|>", "<|start_header_id|>",
    "<|end_header_id|>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "[INST]",
    "[/INST]", "<|user|>", "<|system|>", "<|assistant|>", "<|end|>",
]  # fmt: skip


@functools.cache
def _backend() -> str:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator([TEXT], trainer)
    return backend.to_str()


def tokenizer(template: str | None = None, end: str = "<|im_end|>") -> PreTrainedTokenizerFast:
    """A byte-pair tokenizer with merges, whose end token is ``end``."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend()), bos_token="<s>", eos_token=end, pad_token="<pad>",
        chat_template=template,
    )  # fmt: skip
