"""A HeMolmo and a Molmo with the same random weights, and prompts of the real layout, ready to be timed side by side.

A prompt is a picture of 1920x1080 pixels in 13 crops of 336 px: 1,152 picture tokens, 44 markers, 64 tokens of text. On
the CPU all widths of the language model are a quarter of those of the 7B model, and it has 2 of 28 layers; the
picture encoder is narrowed until it and the connector take the share of the operations that they take at 7B.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from olmo.models.base import ModelBase
from olmo.models.generate import prefill
from olmo.models.he_molmo.cost import PromptCost, prompt_cost
from olmo.models.he_molmo.he_molmo import HeMolmo, HeMolmoConfig
from olmo.models.llm_inputs import LlmInputs
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.models.text_inputs import text_inputs
from olmo.models.video_olmo.video_olmo import VideoOlmo
from olmo.preprocessing.image_tokens import image_token_layout
from olmo.preprocessing.multicrop import tiling_of

WIDTH, HEIGHT, N_TEXT = 1920, 1080, 64
SMALL: dict[str, Any] = {
    "llm": {
        "d_model": 896, "n_heads": 7, "n_kv_heads": 1, "n_layers": 2, "mlp_hidden_size": 4736, "vocab_size": 832,
        "max_sequence_length": 4096, "qkv_bias": True, "norm_eps": 1e-6, "rope": {"theta": 1_000_000.0},
    },
    "vision_backbone": {
        "vit": {"image_model_type": "openai", "d_model": 192, "n_heads": 3, "n_layers": 2, "mlp_hidden_size": 768},
        "vit_layers": [-1, -2], "image_pooling_2d": "attention-meanq", "image_projector": "mlp",
        "projector_hidden_size": 256,
    },
    "mm_preprocessor": {"max_crops": 12},
    "token_scorer": {"hidden_size": 32, "query_size": 16},
}  # fmt: skip
"""Values of the configuration on the CPU; the scorer is as narrow as its share at 7B asks for."""


@dataclass(frozen=True)
class Prompts:
    """A batch: `ids` `[B, L]`, and what `forward` takes beside it."""

    ids: Tensor
    pictures: Mapping[str, Tensor]


@dataclass
class HePair:
    """Both models in eval mode with the same weights.

    Args:
        config: the HeMolmo; the Molmo is it without the selector.
        device: where they are.
        dtype: of the weights.
        frame_batch_size: crops that both encode at a time; None: all. Where set, the plain side is a VideoOlmo, which
            on pictures is a Molmo.
    """

    config: HeMolmoConfig = field(default_factory=lambda: HeMolmoConfig.new(**SMALL))
    device: str = "cpu"
    dtype: torch.dtype = torch.float32
    frame_batch_size: int | None = None

    def __post_init__(self) -> None:
        self.config = self.config.replace(frame_batch_size=self.frame_batch_size)
        with torch.device(self.device):
            self.chosen = HeMolmo(self.config).to(self.dtype).eval()
        _give_opinions(self.chosen)
        self.plain = self._twin(Molmo if self.frame_batch_size is None else VideoOlmo, self.config)
        self.by_crops = self._twin(HeMolmo, self.config.replace(encode="selected_crops"))

    def prompts(self, n_rows: int) -> Prompts:
        """Random pictures and questions, always the same for one number of rows."""
        image, ids = self.config.image_spec, self.config.image_token_ids
        assert image is not None, "there is a picture encoder"
        generator = torch.Generator().manual_seed(1)
        tiling = tiling_of(HEIGHT, WIDTH, image, self.config.mm_preprocessor)
        tokens, index = image_token_layout(tiling, image, self.config.mm_preprocessor, ids)
        text = torch.randint(0, 256, (n_rows, N_TEXT), generator=generator)
        picture = torch.from_numpy(tokens).expand(n_rows, -1)
        places = torch.from_numpy(index + (index >= 0)).expand(n_rows, -1, -1)  # behind the first token of the text
        pixels = torch.randn(n_rows, len(index), 3, image.image_size, image.image_size, generator=generator)
        shares = torch.ones(n_rows, len(index), image.n_patches)
        given = {"images": pixels.to(self.dtype), "image_masks": shares, "image_input_idx": places}
        rows = torch.cat([text[:, :1], picture, text[:, 1:]], dim=1)
        return Prompts(rows.to(self.device), {name: value.to(self.device) for name, value in given.items()})

    def cost(self, ratio: float | None, encode: str = "all_crops") -> PromptCost:
        """Computed cost of one prompt; None: of the plain model."""
        config: MolmoConfig = self.plain.config
        if ratio is None:
            config = MolmoConfig.new(
                llm=config.llm, vision_backbone=config.vision_backbone, mm_preprocessor=config.mm_preprocessor
            )
        else:
            config = self.config.replace(selection_ratio=ratio, encode=encode)
        n_bytes = torch.finfo(self.dtype).bits // 8
        return prompt_cost(config, WIDTH, HEIGHT, n_text_tokens=N_TEXT, bytes_per_number=n_bytes)

    def _twin(self, model_class: type[ModelBase], config: HeMolmoConfig) -> ModelBase:
        """Another model on the same tensors."""
        with torch.device("meta"):
            twin = model_class(config)
        own = twin.state_dict().keys()
        twin.load_state_dict({k: v for k, v in self.chosen.state_dict().items() if k in own}, assign=True)
        return twin.eval()


def answer_seconds(model: ModelBase, prompts: Prompts, marks: Sequence[int], **settings: float) -> list[float]:
    """Wall-clock time until so many new tokens were chosen, one figure for each of the ascending `marks`."""
    _wait(prompts.ids)
    start, found = time.perf_counter(), []
    text = text_inputs(prompts.ids, model.config.llm)
    step, logits = prefill(model, text, marks[-1], **prompts.pictures, **settings)
    for number in range(1, marks[-1] + 1):
        tokens = logits.argmax(dim=-1)
        if number in marks:
            _wait(prompts.ids)
            found.append(time.perf_counter() - start)
        if number < marks[-1]:
            logits = step(tokens)
    return found


def llm_seconds(model: ModelBase, inputs: LlmInputs) -> float:
    """Wall-clock time of the language model over a fused prompt, with its cache and the last token's logits."""
    _wait(inputs.embeds)
    start = time.perf_counter()
    hidden = model.run_llm(inputs, model.build_cache(inputs)).hidden
    _wait(model.llm.logits(hidden[:, -1]))
    return time.perf_counter() - start


def fused(model: ModelBase, prompts: Prompts, **settings: float) -> LlmInputs:
    """What reaches the language model."""
    return model.llm_inputs(text_inputs(prompts.ids, model.config.llm), **prompts.pictures, **settings)


def cache_bytes(model: ModelBase, inputs: LlmInputs) -> int:
    """Bytes of the keys and values of a prompt."""
    cache = model.build_cache(inputs)
    model.run_llm(inputs, cache)
    return sum(tensor.numel() * tensor.element_size() for layer in cache.as_tuple() for tensor in layer)


def counted_flops(model: ModelBase, prompts: Prompts, **settings: float) -> int:
    """Operations of one prefill, counted while it runs.

    With gradients on, as the counter does not know the kernel that reads large matrices without them.
    """
    math = torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, math, torch.enable_grad():
        prefill(model, text_inputs(prompts.ids, model.config.llm), 1, **prompts.pictures, **settings)
    return counter.get_total_flops()


def _give_opinions(model: HeMolmo) -> None:
    """Random weights where a fresh scorer has zeros: it would keep the first tokens, and with them few markers."""
    scorer, generator = model.token_selector.scorer, torch.Generator().manual_seed(2)
    assert scorer is not None, "the scorer is a network"
    for weight in (scorer.prior_out.weight, scorer.query.weight):
        drawn = torch.empty(weight.shape).normal_(0.0, 0.02, generator=generator)
        weight.data.copy_(drawn)


def _wait(tensor: Tensor) -> None:
    """Until the device of `tensor` is done."""
    if tensor.is_cuda:
        torch.cuda.synchronize()
