"""Seconds of one routed feed-forward layer: ours against transformers' OLMoE block, our loop, and a dense layer.

    python benchmarks/moe.py --save

The layer has 64 experts of which 8 see a token, as MolmoE has, at half its width. All sides have the same weights and
must give the same numbers. The peer is the quickest of transformers' ways of computing experts. `dense` is a gated
feed-forward as wide as all experts together, which is what routing saves; the promise is at least 2 times as fast.

The limit: operations of the chosen experts over the matmul peak, or, for one token, bytes of their weights over the
read bandwidth.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from typing import Any

import torch
from harness import Row, hardware, interleave, matmul_peak, paired_ratio, parse_options, read_bandwidth, report, seconds
from torch import Tensor, nn
from transformers.models.olmoe.configuration_olmoe import OlmoeConfig
from transformers.models.olmoe.modeling_olmoe import OlmoeSparseMoeBlock

from olmo.nn.llm_config import LlmConfig, MoeBackend
from olmo.nn.mlp import GatedMlp
from olmo.nn.moe import RoutedMlp

WIDTH, INNER, N_EXPERTS, K = 1024, 512, 64, 8
TOKENS = (1, 256, 2048)
PEER_WAYS = ("eager", "grouped_mm", "batched_mm")
MOST_BATCHED = 16
"""Above so many tokens the peer's batched way copies more weights than this machine should hold."""
TOLERANCE = 1e-4

Layer = Callable[[Tensor], Tensor]


def build() -> dict[str, nn.Module]:
    """All sides, with the same weights."""
    torch.manual_seed(0)
    config = LlmConfig(
        d_model=WIDTH, n_heads=8, mlp_hidden_size=INNER, block_type="olmoe", n_experts=N_EXPERTS, experts_per_token=K
    )
    ours = RoutedMlp(config)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_(0.0, 0.05)
    loop = RoutedMlp(config.replace(moe_backend="loop"))
    loop.load_state_dict(ours.state_dict())
    dense = GatedMlp(config.replace(block_type="sequential", mlp_hidden_size=INNER * N_EXPERTS))
    return {"ours": ours, "loop": loop, "dense": dense, **{f"transformers {way}": peer(ours, way) for way in PEER_WAYS}}


def peer(ours: RoutedMlp, way: str) -> nn.Module:
    """Transformers' block with our weights."""
    config = OlmoeConfig(
        hidden_size=WIDTH, intermediate_size=INNER, num_experts=N_EXPERTS, num_experts_per_tok=K, norm_topk_prob=False
    )
    config._experts_implementation = way
    block = OlmoeSparseMoeBlock(config)
    up, gate = ours.experts_in.detach().chunk(2, dim=1)  # [E, F, D] each
    block.load_state_dict({
        "gate.weight": ours.router.weight.detach(),
        "experts.gate_up_proj": torch.cat([gate, up], dim=1),
        "experts.down_proj": ours.experts_out.detach(),
    })  # fmt: skip
    return block


def forward(layer: nn.Module, x: Tensor) -> float:
    """Seconds of a pass without gradient."""
    with torch.no_grad():
        return seconds(lambda: layer(x))


def step(layer: nn.Module, x: Tensor) -> float:
    """Seconds of a forward and a backward pass."""
    layer.zero_grad(set_to_none=True)
    return seconds(lambda: layer(x).square().mean().backward())


def measure(layers: Mapping[str, nn.Module], n_tokens: int, n_runs: int, limit: float, trains: bool) -> list[Row]:
    """Ours against each other side, for a number of tokens."""
    x = torch.randn(1, n_tokens, WIDTH, generator=torch.Generator().manual_seed(1), requires_grad=trains)
    left_out = {"transformers batched_mm"} if n_tokens > MOST_BATCHED else set()
    if trains:
        left_out.add("dense")  # 100 million weights with their gradients say nothing more here
    sides = {name: layer for name, layer in layers.items() if name not in left_out}
    run = step if trains else forward
    check(sides, x)
    for layer in sides.values():
        run(layer, x)
    figures = interleave({name: lambda layer=layer: run(layer, x) for name, layer in sides.items()}, n_runs)
    best = min((n for n in figures if n.startswith("transformers")), key=lambda n: statistics.median(figures[n]))
    what = f"{n_tokens} token{'s' if n_tokens > 1 else ''}{', training step' if trains else ''}"
    others = {"transformers": best, "loop": "loop", "dense": "dense"}
    return [
        Row(
            case=f"{what}, against {title}",
            ours=statistics.median(figures["ours"]),
            peer=statistics.median(figures[name]),
            limit=limit,
            is_higher_better=False,
            extra={"paired_ratio": paired_ratio(figures[name], figures["ours"]), "peer": name},
        )
        for title, name in others.items()
        if name in figures
    ]


def check(layers: Mapping[str, nn.Module], x: Tensor) -> None:
    """All routed sides give the same numbers, or the script fails."""
    with torch.no_grad():
        wanted = layers["loop"](x)
        for name, layer in layers.items():
            if name != "dense" and (gap := float((layer(x) - wanted).abs().max())) > TOLERANCE:
                raise SystemExit(f"{name} differs from the loop by {gap:.1e}")


def main() -> dict[str, Any]:
    """Measure and report."""
    options = parse_options((__doc__ or "").splitlines()[0])
    machine = hardware()
    layers = build()
    ours = layers["ours"]
    assert isinstance(ours, RoutedMlp) and ours.backend is MoeBackend.auto
    bandwidth, peak = read_bandwidth(), matmul_peak()
    of_expert = 3 * WIDTH * INNER  # weights
    rows = []
    n_runs = 3 if options.quick else 9
    for n_tokens in (1, 256) if options.quick else TOKENS:
        limit = max(min(n_tokens * K, N_EXPERTS) * of_expert * 4 / bandwidth, n_tokens * K * of_expert * 2 / peak)
        rows += measure(layers, n_tokens, n_runs, limit, trains=False)
    n_tokens = 64 if options.quick else 1024
    rows += measure(layers, n_tokens, n_runs, 3 * n_tokens * K * of_expert * 2 / peak, trains=True)
    notes = {
        "layer": {"width": WIDTH, "expert": INNER, "experts": N_EXPERTS, "experts_per_token": K},
        "peer_is": "the quickest of transformers' eager, grouped_mm and, up to 16 tokens, batched_mm",
    }
    return report("moe", "s", rows, options=options, packages=["transformers"], machine=machine, notes=notes)


if __name__ == "__main__":
    main()
