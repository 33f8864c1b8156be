"""Which layers are meant, and what stands in their place."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from olmo.exceptions import OLMoConfigurationError
from olmo.quantization.config import QuantizationConfig
from olmo.quantization.int8 import Int8Linear
from olmo.quantization.layers import chosen_layers, module_bytes, narrow, narrow_layers


def module() -> nn.Module:
    block = nn.ModuleDict({"up": nn.Linear(32, 64), "router": nn.Linear(32, 4), "norm": nn.LayerNorm(32)})
    return nn.ModuleDict({"blocks": nn.ModuleList([block, nn.ModuleDict({"up": nn.Linear(32, 64)})]),
                          "head": nn.Linear(32, 16)})  # fmt: skip


def names(**choice: list[str]) -> list[str]:
    config = QuantizationConfig(scheme="int8", **choice)
    return list(chosen_layers(module(), config, usual=("blocks",), never=("*.router",)))


def test_what_is_usual_what_is_kept_and_what_is_included():
    assert names() == ["blocks.0.up", "blocks.1.up"]
    assert names(keep=["blocks.0"]) == ["blocks.1.up"]
    assert names(keep=["*.up"], include=["head"]) == ["head"]
    assert names(include=["head", "blocks"], keep=["blocks.1"]) == ["blocks.0.up", "head"]


@pytest.mark.parametrize(
    ("choice", "match"),
    [
        ({"keep": ["block"]}, "keep: 'block' is the name of no linear layer .* for example, blocks.0.up, blocks.1.up"),
        ({"include": ["blocks.0.router"]}, "include: 'blocks.0.router' is the name of no linear layer"),
        ({"keep": ["blocks"]}, "every linear layer is kept"),
    ],
)
def test_a_choice_that_means_nothing_is_refused(choice, match):
    with pytest.raises(OLMoConfigurationError, match=match):
        names(**choice)


def test_fp8_is_for_gpus():
    with pytest.raises(OLMoConfigurationError, match="scheme: fp8 needs a GPU and torchao"):
        QuantizationConfig(scheme="fp8")


def test_layers_are_put_in_their_places():
    wide = module()
    before, config = module_bytes(wide), QuantizationConfig(scheme="int8")
    narrow(wide, chosen_layers(wide, config, usual=("blocks.*.up",)), config)
    assert list(narrow_layers(wide)) == ["blocks.0.up", "blocks.1.up"]
    assert type(wide["head"]) is nn.Linear
    assert before - module_bytes(wide) == 2 * (3 * 32 * 64 - 4 * 64)  # a byte for four, and a scale a row


def test_on_the_meta_device_they_have_no_values():
    with torch.device("meta"):
        empty = module()
    config = QuantizationConfig(scheme="int8")
    narrow(empty, {"head": empty["head"]}, config)
    assert isinstance(empty["head"], Int8Linear) and empty["head"].weight.is_meta


def test_a_layer_that_does_not_fit_is_named():
    wide, config = module(), QuantizationConfig(scheme="int4")
    wide["odd"] = nn.Linear(20, 16)
    with pytest.raises(OLMoConfigurationError, match=r"odd: a matrix of \[16, 20\]"):
        narrow(wide, {"odd": wide["odd"]}, config)
