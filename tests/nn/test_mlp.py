from __future__ import annotations

import torch
import torch.nn.functional as F

from olmo.nn.llm_config import LlmConfig
from olmo.nn.mlp import GatedMlp


def test_first_half_is_up_and_second_half_is_gate():
    torch.manual_seed(0)
    mlp = GatedMlp(LlmConfig(d_model=8, n_heads=2, mlp_hidden_size=12))
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.normal_()
    x = torch.randn(2, 3, 8)
    up, gate = mlp.ff_proj.weight[:12], mlp.ff_proj.weight[12:]
    expected = (F.silu(x @ gate.T) * (x @ up.T)) @ mlp.ff_out.weight.T
    torch.testing.assert_close(mlp(x), expected)
    assert {name: tuple(p.shape) for name, p in mlp.named_parameters()} == {
        "ff_proj.weight": (24, 8),
        "ff_out.weight": (8, 12),
    }


def test_inner_width_defaults_to_a_multiple_of_256():
    assert GatedMlp(LlmConfig(d_model=128, n_heads=2)).ff_out.in_features == 512
