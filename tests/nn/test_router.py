"""Statistics of a router, its losses in the normalised form, and that they do what they are for."""

from __future__ import annotations

import pytest
import torch

from olmo.nn.router import balanced_bias, imbalance, load_balance, route, router_statistics, router_z


def statistics(logits, k=2, counted=None):
    return router_statistics(route(logits, k), counted)


@pytest.mark.parametrize(("n_experts", "k"), [(8, 2), (64, 8), (4, 1)])
def test_even_routing_costs_1(n_experts, k):
    # Each token prefers the next k experts, a little; the mean probability is even.
    logits = torch.stack([torch.eye(n_experts)[[(t * k + j) % n_experts for j in range(k)]].sum(0) for t in range(64)])
    assert load_balance(statistics(logits * 1e-3, k)).item() == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(("n_experts", "k"), [(8, 2), (64, 8)])
def test_collapsed_routing_costs_experts_over_choices(n_experts, k):
    logits = torch.zeros(40, n_experts)
    logits[:, :k] = 60.0
    assert load_balance(statistics(logits, k)).item() == pytest.approx(n_experts / k, rel=1e-5)


def test_padding_is_left_out_of_every_figure():
    logits = torch.randn(10, 6)
    counted = torch.tensor([True] * 7 + [False] * 3)
    whole, part = statistics(logits[:7]), statistics(logits, counted=counted)
    for name, wanted, found in zip(whole._fields, whole, part, strict=True):
        torch.testing.assert_close(found, wanted, msg=name)


def test_nothing_but_padding_costs_nothing():
    none = statistics(torch.randn(3, 6).requires_grad_(), counted=torch.zeros(3, dtype=torch.bool))
    assert load_balance(none).item() == 0.0 and router_z(none).item() == 0.0 and imbalance(none.load).item() == 1.0


def test_the_z_loss_is_the_mean_squared_logarithm_of_the_divisor():
    logits = torch.randn(9, 5) * 3
    wanted = logits.exp().sum(-1).log().square().mean()
    torch.testing.assert_close(router_z(statistics(logits)), wanted)


def test_the_z_loss_makes_logits_smaller():
    logits = (torch.randn(20, 8) * 5).requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=1.0)
    before = logits.norm().item()
    for _ in range(50):
        optimizer.zero_grad()
        router_z(statistics(logits)).backward()
        optimizer.step()
    assert logits.norm().item() < 0.8 * before


def test_entropy_is_that_of_the_probabilities():
    found = statistics(torch.zeros(4, 8))
    assert (found.entropy / found.n_tokens).item() == pytest.approx(torch.tensor(8.0).log().item())


def test_layers_are_stacked_and_keep_their_own_loss():
    layers = [statistics(torch.randn(12, 6)), statistics(torch.randn(12, 6))]
    stacked = type(layers[0])(*(torch.stack(parts) for parts in zip(*layers, strict=True)))
    torch.testing.assert_close(load_balance(stacked), torch.stack([load_balance(layer) for layer in layers]))


def test_imbalance_is_the_fullest_over_the_mean():
    assert imbalance(torch.tensor([6, 2, 0, 0])).item() == 3.0


def test_a_bias_grows_where_the_load_is_low():
    found = balanced_bias(torch.zeros(4), torch.tensor([9, 1, 5, 5]), 0.5)
    assert found.tolist() == [-0.5, 0.5, 0.0, 0.0]


@pytest.mark.parametrize(("weight", "rate"), [(0.01, 0.0), (0.0, 0.01), (0.0, 0.0)])
def test_a_skewed_router_is_balanced_by_the_loss_or_the_bias_alone(weight, rate):
    """From a start at which most tokens go to two experts: 200 steps."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(512, 16, generator=generator)
    tokens[:, 0] = 1.0
    router = (torch.randn(8, 16, generator=generator) * 0.1).requires_grad_()
    with torch.no_grad():
        router[:2, 0] += 1.5
    bias = torch.zeros(8)
    optimizer = torch.optim.Adam([router], lr=0.01)
    for _ in range(200):
        found = router_statistics(route(tokens @ router.T, 2, bias if rate else None))
        optimizer.zero_grad()
        (weight * load_balance(found)).backward()
        optimizer.step()
        bias = balanced_bias(bias, found.load, rate)
    final = imbalance(router_statistics(route(tokens @ router.T, 2, bias if rate else None)).load).item()
    assert final < 1.5 if weight or rate else final > 2.0
