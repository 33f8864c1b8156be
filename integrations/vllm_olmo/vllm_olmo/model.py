"""`MolmoForCausalLM` over vLLM's: picture features are added to their tokens, and blocks may have routed experts.

vLLM's own class puts the features in place of the embedding of `<im_patch>`, where Molmo was trained with their sum.

Written against vLLM 0.32. A VideoOlmo runs on pictures, as the Molmo that it is there; a HeMolmo reads all picture
tokens, as at a selection ratio of 1: which tokens to keep depends on the question, and vLLM encodes pictures before it
looks at one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.model_executor.layers.fused_moe import FusedMoEFactory, GateLinear
from vllm.model_executor.models import molmo
from vllm.model_executor.models.utils import AutoWeightsLoader, WeightsMapper, maybe_prefix

from vllm_olmo.weight_names import RULES

logger = init_logger(__name__)

_NOTES = {
    "HeMolmoForCausalLM": "all picture tokens are read, as at selection_ratio=1; the token selector is left out",
    "VideoOlmoForCausalLM": "pictures only; frames of videos and the layers over time are left out",
}


@contextmanager
def encoder_of(config: Any) -> Iterator[None]:
    """While a model is built, the sizes of `config.vision_backbone` in place of those in vLLM's code.

    Args:
        config: of the model; where it says nothing the released encoder stays.
    """
    sizes, layers, own = getattr(config, "vision_backbone", None) or {}, molmo.VIT_LAYERS, molmo.VisionBackboneConfig
    known = {field.name for field in fields(own)} & set(sizes)
    molmo.VisionBackboneConfig = lambda: own(**{name: sizes[name] for name in known})
    molmo.VIT_LAYERS = list(getattr(config, "vit_layers", None) or layers)
    try:
        yield
    finally:
        molmo.VisionBackboneConfig, molmo.VIT_LAYERS = own, layers


class RoutedMlp(nn.Module):
    """Experts of which each token uses `moe_top_k`; probabilities are not normalised again after the choice.

    Args:
        config: of the model, with `moe_num_experts` and `moe_top_k`.
        vllm_config: of the engine.
        prefix: name of this module.
    """

    def __init__(self, config: Any, vllm_config: VllmConfig, prefix: str) -> None:
        super().__init__()
        self.gate = GateLinear(config.hidden_size, config.moe_num_experts, prefix=f"{prefix}.gate")
        self.experts = FusedMoEFactory(
            num_experts=config.moe_num_experts,
            top_k=config.moe_top_k,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size // 2,
            renormalize=False,
            quant_config=vllm_config.quant_config,
            prefix=f"{prefix}.experts",
        )

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`[tokens, D]` to the same."""
        logits, _ = self.gate(hidden_states)
        return self.experts(hidden_states=hidden_states, router_logits=logits)


class MolmoForCausalLM(molmo.MolmoForCausalLM):
    """Any model of the family whose pictures are those of the released Molmos; see `molmo export`."""

    hf_to_vllm_mapper = WeightsMapper(orig_to_new_regex={re.compile(pattern): new for pattern, new in RULES.items()})

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = "") -> None:
        with encoder_of(vllm_config.model_config.hf_config):
            super().__init__(vllm_config=vllm_config, prefix=prefix)
        for architecture in self.config.architectures or ():
            if architecture in _NOTES:
                logger.warning("%s: %s", architecture, _NOTES[architecture])
        if getattr(self.config, "block_type", "sequential") == "moe":
            for number, layer in enumerate(self.model.layers):
                if isinstance(layer, molmo.MolmoDecoderLayer):  # another process may have it
                    name = maybe_prefix(prefix, f"model.layers.{number}.mlp")
                    layer.mlp = RoutedMlp(self.config, vllm_config, name)

    def embed_input_ids(
        self,
        input_ids: torch.Tensor,
        multimodal_embeddings: Any = None,
        *,
        is_multimodal: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Embeddings `[tokens, D]`, with picture features `multimodal_embeddings` added where `is_multimodal`."""
        embeds = self.model.embed_input_ids(input_ids)
        if multimodal_embeddings is None or len(multimodal_embeddings) == 0:
            return embeds
        features = torch.cat([part.reshape(-1, part.shape[-1]) for part in multimodal_embeddings])
        where = is_multimodal.to(embeds.device)
        embeds[where] = embeds[where] + features.to(embeds.dtype)
        return embeds

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        """Fill the parameters from exported tensors; returns the names of those that were filled."""
        joined = molmo._get_weights_with_merged_embedding(weights)
        return AutoWeightsLoader(self).load_weights(joined, mapper=self.hf_to_vllm_mapper)
