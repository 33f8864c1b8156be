"""A GGUF file of a tiny Llama becomes a folder that transformers and this library read, with the same logits.

Tolerance 1e-5, on logits of size 1.3.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from olmo.models.molmo.base_llm import llm_config_from_hf
from olmo.models.molmo.base_weights import load_llm_and_vit
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.tokenizer import Tokenizer

gguf = pytest.importorskip("gguf")
transformers = pytest.importorskip("transformers")

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "import_smollm2.py"
WIDTH, HEADS, KV_HEADS, LAYERS = 64, 4, 2, 2
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(chr(c) for c in range(33, 127)), "Ġ", "th", "Ġth"]
MERGES = ["t h", "Ġ th"]
GGUF_NAMES = {
    "input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("import_smollm2", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def original():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(TOKENS), hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, tie_word_embeddings=True, initializer_range=0.2,
        max_position_embeddings=128, rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 5e4},
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def gguf_file(original, tmp_path_factory):
    """The model as llama.cpp's converter writes it, in float32."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(96)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(5e4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    for name, tensor in original.state_dict().items():
        if name == "lm_head.weight":
            continue
        array = tensor.numpy()
        if name.startswith("model.layers."):
            layer, rest = name.removeprefix("model.layers.").split(".", 1)
            kind = rest.removesuffix(".weight")
            heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(kind)
            if heads:  # llama.cpp turns neighbouring numbers, transformers the two halves of a head
                array = array.reshape(heads, 2, -1, WIDTH).swapaxes(1, 2).reshape(array.shape)
            name = f"blk.{layer}.{GGUF_NAMES[kind]}.weight"
        else:
            name = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}[name]
        writer.add_tensor(name, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def folder(script, gguf_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hf") / "llm"
    script.convert(gguf_file, folder)
    return folder


def test_transformers_and_this_library_compute_what_the_original_does(folder, original):
    config = llm_config_from_hf(json.loads((folder / "config.json").read_text()))
    model = Molmo(MolmoConfig.new(llm=config.asdict(), vision_backbone=None)).eval()
    load_llm_and_vit(model, folder)
    read_back = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(0, len(TOKENS), (2, 40), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = original(ids).logits
        assert torch.equal(read_back(ids).logits, expected)
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=0)


def test_the_tokenizer_takes_digits_one_by_one(folder):
    tokenizer = Tokenizer.from_file(folder, len(TOKENS))
    text = "the 2048 th<|im_end|>"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert [tokenizer.token_bytes(i) for i in tokenizer.encode("th 123")] == [b"th", b" ", b"1", b"2", b"3"]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id) == (1, 2)
    assert transformers.AutoTokenizer.from_pretrained(folder)("the 2048 th").input_ids == tokenizer.encode(
        "the 2048 th"
    )


def test_another_architecture_is_refused(script, tmp_path):
    writer = gguf.GGUFWriter(tmp_path / "other.gguf", "gptj")
    writer.add_tokenizer_pre("smollm")
    writer.add_tensor("token_embd.weight", np.zeros((2, 2), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(SystemExit, match="holds a gptj model"):
        script.convert(tmp_path / "other.gguf", tmp_path / "hf")
