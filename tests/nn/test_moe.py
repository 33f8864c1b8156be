from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from olmo.nn import moe
from olmo.nn.grouped import takes_groups
from olmo.nn.llm_config import LlmConfig
from olmo.nn.moe import RoutedMlp


def routed(n_experts=6, k=2, width=8, inner=12, seed=0, **settings):
    torch.manual_seed(seed)
    config = LlmConfig(
        d_model=width,
        n_heads=2,
        mlp_hidden_size=inner,
        block_type="olmoe",
        n_experts=n_experts,
        experts_per_token=k,
        **settings,
    )
    mlp = RoutedMlp(config)
    with torch.no_grad():
        for parameter in mlp.parameters():
            parameter.normal_(0.0, 0.5)
    return mlp


def dense_oracle(mlp, x):
    """Every expert on every token, summed with the probabilities of the chosen ones."""
    tokens = x.reshape(-1, x.shape[-1])
    probabilities = torch.softmax(tokens @ mlp.router.weight.T, -1)
    kept = torch.zeros_like(probabilities)
    chosen = probabilities.topk(mlp.experts_per_token, -1)
    kept.scatter_(1, chosen.indices, chosen.values)
    up, gate = torch.einsum("nd,efd->enf", tokens, mlp.experts_in).chunk(2, -1)
    outputs = torch.einsum("enf,edf->end", F.silu(gate) * up, mlp.experts_out)
    return torch.einsum("ne,end->nd", kept, outputs).view_as(x)


@pytest.mark.parametrize("k", [1, 2, 6])
def test_loop_equals_dense_oracle(k):
    mlp = routed(k=k)
    x = torch.randn(3, 5, 8)
    torch.testing.assert_close(mlp(x), dense_oracle(mlp, x), atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_of_the_dense_oracle():
    mlp = routed()
    grads = []
    for function in (mlp, lambda x: dense_oracle(mlp, x)):
        x = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        grads.append(torch.autograd.grad(function(x).square().sum(), [x, *mlp.parameters()]))
    for ours, oracle in zip(*grads, strict=True):
        torch.testing.assert_close(ours, oracle, atol=1e-4, rtol=1e-4)


def test_empty_experts_get_zero_gradients():
    mlp = routed(n_experts=16, k=2)
    x = torch.randn(1, 2, 8)
    mlp(x).sum().backward()
    empty = mlp.statistics(mlp.route(x[0])).load == 0
    assert empty.sum() >= 12
    for parameter in mlp.parameters():
        assert parameter.grad.isfinite().all()
    assert mlp.experts_in.grad[empty].abs().max() == 0 and mlp.experts_in.grad[~empty].abs().sum() > 0


def test_all_tokens_to_one_expert_is_exact():
    mlp = routed(k=1)
    with torch.no_grad():
        mlp.router.weight.zero_()
        mlp.router.weight[3, 0] = 50.0
    x = torch.randn(1, 40, 8)
    x[..., 0] = 1.0
    torch.testing.assert_close(mlp(x), dense_oracle(mlp, x), atol=1e-5, rtol=1e-5)
    assert mlp.statistics(mlp.route(x[0])).load.tolist() == [0, 0, 0, 40, 0, 0]


def test_probabilities_are_not_renormalised():
    _, _, weights, chosen = routed().route(torch.randn(10, 8))
    assert chosen.shape == (10, 2) and (weights.sum(-1) < 1.0).all()
    assert (weights[:, 0] >= weights[:, 1]).all()


def test_unchosen_experts_do_not_matter():
    mlp = routed()
    x = torch.randn(1, 1, 8)
    before = mlp(x)
    chosen = mlp.route(x.view(1, 8)).chosen
    with torch.no_grad():
        for expert in set(range(6)) - set(chosen.flatten().tolist()):
            mlp.experts_in[expert] = float("nan")
            mlp.experts_out[expert] = float("nan")
    assert torch.equal(mlp(x), before)


def test_a_token_does_not_depend_on_its_neighbours():
    mlp = routed()
    x = torch.randn(2, 5, 8)
    alone = torch.stack([mlp(x[b, i][None, None])[0, 0] for b in range(2) for i in range(5)])
    torch.testing.assert_close(mlp(x).view(10, 8), alone, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("how", ["weights", "autocast"])
def test_router_is_float32_in_bfloat16(how):
    mlp = routed()
    tokens = torch.randn(10, 8).bfloat16()
    if how == "weights":
        mlp = mlp.bfloat16()
        _, _, weights, chosen = mlp.route(tokens)
    else:
        with torch.autocast("cpu", torch.bfloat16):
            _, _, weights, chosen = mlp.route(tokens)
    expected = torch.softmax(tokens.float() @ mlp.router.weight.float().T, -1).topk(2, -1)
    assert weights.dtype == torch.float32
    assert torch.equal(chosen, expected.indices)
    torch.testing.assert_close(weights, expected.values, atol=1e-6, rtol=1e-6)


def test_bfloat16_stays_near_float32():
    mlp = routed()
    x = torch.randn(2, 5, 8)
    wanted = mlp(x)
    got = mlp.bfloat16()(x.bfloat16())
    assert got.dtype == torch.bfloat16
    assert (got.float() - wanted).abs().max() < 0.05 * wanted.abs().max()


def test_work_does_not_grow_with_the_number_of_experts():
    flops = []
    for n_experts in (4, 32):
        mlp = routed(n_experts=n_experts, k=2, moe_backend="loop")  # grouped products are not counted
        with FlopCounterMode(display=False) as counter:
            mlp(torch.randn(1, 16, 8))
        flops.append(counter.get_total_flops() - 2 * 16 * 8 * n_experts)  # without the router
    assert flops[0] == flops[1] == 16 * 2 * (2 * 8 * 2 * 12 + 2 * 12 * 8)  # tokens, choices, both matrices


def twins(**sizes):
    """The same weights, with grouped products and with the loop."""
    return routed(moe_backend="grouped", **sizes), routed(moe_backend="loop", **sizes)


@pytest.mark.parametrize("n_tokens", [1, 3, 50])
@pytest.mark.parametrize(("n_experts", "k"), [(6, 2), (64, 8), (8, 1)])
def test_grouped_products_equal_the_loop_forward_and_backward(n_experts, k, n_tokens):
    results = []
    for mlp in twins(n_experts=n_experts, k=k):
        x = torch.randn(n_tokens, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        out = mlp(x)
        results.append([out, *torch.autograd.grad(out.square().sum(), [x, *mlp.parameters()])])
    for grouped, loop in zip(*results, strict=True):
        torch.testing.assert_close(grouped, loop, atol=1e-5, rtol=1e-5)


def test_grouped_products_take_a_gradient_that_is_only_expanded():
    mlp, _ = twins()
    mlp.experts(torch.randn(4, 8), torch.tensor([4, 0, 0, 0, 0, 0])).sum().backward()
    assert mlp.experts_in.grad[0].abs().sum() > 0 and mlp.experts_in.grad[1:].abs().sum() == 0


def test_grouped_products_under_autocast_equal_the_loop():
    x = torch.randn(5, 8)
    with torch.autocast("cpu", torch.bfloat16):
        grouped, loop = (mlp(x) for mlp in twins(inner=16))
    assert grouped.dtype == loop.dtype
    torch.testing.assert_close(grouped, loop, atol=1e-2, rtol=1e-2)


def test_auto_takes_the_loop_where_rows_are_not_aligned():
    odd = routed(inner=13)  # rows of 13 float32 are no multiple of 16 bytes
    assert not takes_groups(torch.randn(2, 8), odd.experts_in, odd.experts_out)
    x = torch.randn(3, 8)
    torch.testing.assert_close(odd(x), dense_oracle(odd, x), atol=1e-5, rtol=1e-5)
    even = routed()
    assert takes_groups(torch.randn(2, 8), even.experts_in, even.experts_out)
    assert not takes_groups(torch.randn(2, 8).half(), even.experts_in)


@pytest.mark.parametrize("backend", ["auto", "loop"])
@torch.no_grad()
def test_a_compiled_step_is_one_graph_and_equals_the_loop(backend):
    mlp = routed(moe_backend=backend).eval()
    compiled = torch.compile(lambda x: mlp(x), fullgraph=True, dynamic=False, backend="eager")
    for n_rows in (1, 5):
        x = torch.randn(n_rows, 1, mlp.router.in_features)
        torch.testing.assert_close(compiled(x), dense_oracle(mlp, x), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_many_tokens_are_compiled_in_pieces(monkeypatch):
    monkeypatch.setattr(moe, "MOST_GATHERED", 4)
    mlp = routed().eval()
    x = torch.randn(2, 5, mlp.router.in_features)
    compiled = torch.compile(lambda x: mlp(x), dynamic=False, backend="eager")
    torch.testing.assert_close(compiled(x), dense_oracle(mlp, x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", ["grouped", "loop"])
def test_no_tokens_give_no_results(backend):
    mlp = routed(moe_backend=backend)
    assert mlp.experts(torch.randn(0, 8), torch.zeros(6, dtype=torch.long)).shape == (0, 8)


def test_a_bias_moves_the_choice_and_not_the_weights():
    mlp = routed(k=1, router_bias_rate=0.001)
    tokens = torch.randn(20, 8)
    before = mlp.route(tokens)
    with torch.no_grad():
        mlp.selection_bias[4] = 2.0  # above any probability
    after = mlp.route(tokens)
    assert (after.chosen == 4).all()
    torch.testing.assert_close(after.weights[:, 0], before.probabilities[:, 4])


def test_balancing_favours_experts_below_the_mean_and_forgets_the_load():
    mlp = routed(router_bias_rate=0.01).train()
    mlp.statistics(mlp.route(torch.randn(9, 8)))
    mlp.statistics(mlp.route(torch.randn(9, 8)))
    assert int(mlp.load_of_step.sum()) == 36
    mlp.balance(torch.tensor([10, 2, 6, 6, 6, 6]))
    assert mlp.selection_bias.tolist() == pytest.approx([-0.01, 0.01, 0, 0, 0, 0])
    assert mlp.load_of_step is None
    mlp.eval().statistics(mlp.route(torch.randn(9, 8)))
    assert mlp.load_of_step is None


def test_without_a_rate_there_is_no_bias_in_the_weights():
    assert "selection_bias" not in routed().state_dict()
    assert "selection_bias" in routed(router_bias_rate=0.1).state_dict()
