"""Names of exported tensors and of vLLM's parameters, as rules in order; vLLM is not needed to read or test them.

Source: the released layouts of Molmo-7B-D and MolmoE-1B, and the parameters of vLLM's `molmo.py` and `olmoe.py`.
"""

from __future__ import annotations

import re

RULES: dict[str, str | None] = {
    # What a variant has besides a Molmo: token selector, frame scorer, attention over time.
    r"^model\.(?!transformer\.|vision_backbone\.|embed_tokens\.)": None,
    r"image_projector\.w1\.": "image_projector.gate_proj.",
    r"image_projector\.w3\.": "image_projector.up_proj.",
    r"image_projector\.w2\.": "image_projector.down_proj.",
    r"^model\.vision_backbone\.": "vision_backbone.",
    r"^model\.transformer\.ff_out\.": "lm_head.",
    r"^model\.transformer\.ln_f\.": "model.norm.",
    # In MolmoE two parts of a block stand inside others.
    r"^model\.transformer\.blocks\.(\d+)\.attn\.": r"model.transformer.blocks.\1.",
    r"^model\.transformer\.blocks\.(\d+)\.mlp\.ff_norm\.": r"model.transformer.blocks.\1.ff_norm.",
    r"^model\.transformer\.blocks\.(\d+)\.mlp\.": r"model.layers.\1.mlp.",
    r"^model\.transformer\.blocks\.(\d+)\.att_proj\.": r"model.layers.\1.self_attn.qkv_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.attn_out\.": r"model.layers.\1.self_attn.o_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.([qk]_norm)\.": r"model.layers.\1.self_attn.\2.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_proj\.": r"model.layers.\1.mlp.gate_up_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_out\.": r"model.layers.\1.mlp.down_proj.",
    r"^model\.transformer\.blocks\.(\d+)\.attn_norm\.": r"model.layers.\1.input_layernorm.",
    r"^model\.transformer\.blocks\.(\d+)\.ff_norm\.": r"model.layers.\1.post_attention_layernorm.",
}
"""Pattern: what stands in its place, applied one after the other; None leaves the tensor out.

The two halves of the token table, `wte.embedding` and `wte.new_embedding`, are joined before by vLLM's own code.
"""


def vllm_name(name: str) -> str | None:
    """Name in vLLM of an exported tensor; None for one that it has no use for."""
    for pattern, new in RULES.items():
        if re.search(pattern, name):
            if new is None:
                return None
            name = re.sub(pattern, new, name)
    return name
