"""P75: with as many active weights, routed experts learn a mixture of languages better than a dense feed-forward."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from olmo.nn.llm import Llm
from olmo.nn.llm_config import LlmConfig
from olmo.nn.router import load_balance, router_z

N_LANGUAGES, N_WORDS, LENGTH = 48, 24, 24
N_STEPS = 300


def sentences(n: int, generator: torch.Generator) -> torch.Tensor:
    """`[n, LENGTH]`: a token that names the language, then words; each language has its own follower of each word."""
    seeded = [torch.Generator().manual_seed(i) for i in range(N_LANGUAGES)]
    follower = torch.stack([torch.randperm(N_WORDS, generator=of_language) for of_language in seeded])
    language = torch.randint(0, N_LANGUAGES, (n,), generator=generator)
    words = [torch.randint(0, N_WORDS, (n,), generator=generator)]
    for _ in range(LENGTH - 2):
        words.append(follower[language, words[-1]])
    return torch.stack([language + N_WORDS, *words], 1)


def final_loss(seed: int, **settings) -> float:
    """Loss on new sentences after training; the losses of the routers not among it."""
    torch.manual_seed(seed)
    config = LlmConfig(
        d_model=24, n_heads=2, n_layers=2, vocab_size=N_WORDS + N_LANGUAGES, init_std=0.1, qk_norm=True, **settings
    )
    llm = Llm(config).train()
    optimizer = torch.optim.AdamW(llm.parameters(), lr=1e-2, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)

    def run(n: int) -> tuple[torch.Tensor, torch.Tensor]:
        ids = sentences(n, generator)
        inputs, targets = ids[:, :-1], ids[:, 2:]
        counted = torch.ones_like(inputs, dtype=torch.bool)
        out = llm(llm.embed(inputs), position_ids=torch.arange(LENGTH - 1)[None], router_counts=counted)
        loss = F.cross_entropy(llm.logits(out.hidden[:, 1:]).flatten(0, 1), targets.flatten())
        if out.router is None:
            return loss, loss
        more = 0.01 * load_balance(out.router).mean() + 0.001 * router_z(out.router).mean()
        return loss, loss + more

    for step in range(N_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 - step / N_STEPS)
        _, total = run(32)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    with torch.no_grad():
        return run(256)[0].item()


@pytest.mark.slow
def test_p75_routed_experts_beat_a_dense_layer_of_equal_active_size() -> None:
    gains = []
    for seed in range(3):
        dense = final_loss(seed, mlp_hidden_size=32)
        routed = final_loss(seed, mlp_hidden_size=16, block_type="olmoe", n_experts=16, experts_per_token=2)
        gains.append(dense - routed)
        print(f"seed {seed}: dense {dense:.3f}, routed {routed:.3f}")
    assert min(gains) >= 0.02, gains
