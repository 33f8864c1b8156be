"""The selector alone: which tokens it keeps of `[B, N, D]`."""

from __future__ import annotations

import math

import pytest
import torch

from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.models.he_molmo.he_molmo import TokenScorerConfig, TokenSelector
from olmo.models.he_molmo.he_molmo_config import ScorerType
from olmo.models.he_molmo.token_selector import kept_counts, n_kept

WIDTH = 12


def selector(ratio: float = 0.25, **fields) -> TokenSelector:
    built = TokenSelector(TokenScorerConfig(hidden_size=8, query_size=6, **fields), WIDTH, ratio)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.normal_(0.0, 1.0, generator=generator)
    return built.eval()


def tokens(n_rows: int = 3, n_tokens: int = 21, seed: int = 0) -> torch.Tensor:
    return torch.randn(n_rows, n_tokens, WIDTH, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("n", "ratio", "k"), [
    (1152, 1 / 8, 144), (1152, 0.25, 288), (1152, 0.5, 576), (1872, 1 / 8, 234), (1872, 0.25, 468), (1872, 0.5, 936),
    (9, 1 / 8, 2), (9, 0.25, 3), (9, 0.5, 5), (30, 0.1, 3), (10, 0.3, 3), (7, 1.0, 7), (1, 0.25, 1), (0, 0.25, 0),
])  # fmt: skip
def test_p57_the_count_is_the_ratio_rounded_up(n: int, ratio: float, k: int) -> None:
    assert n_kept(n, ratio) == k and kept_counts(torch.tensor([n]), ratio).tolist() == [k]


def test_counts_have_a_floor() -> None:
    assert n_kept(100, 0.25, 64) == 64 and n_kept(40, 0.25, 64) == 40
    assert kept_counts(torch.tensor([100, 40, 400]), 0.25, 64).tolist() == [64, 40, 100]


@pytest.mark.parametrize("scorer", [s for s in ScorerType if s is not ScorerType.vit_attention])
@torch.no_grad()
def test_p57_shapes_order_and_gathered_features(scorer: ScorerType) -> None:
    features = tokens()
    out = selector(scorer=scorer)(features)
    k = math.ceil(0.25 * 21)
    assert out.selected_features.shape == (3, k, WIDTH) and out.selection_indices.shape == (3, k)
    for row in range(3):
        indices = out.selection_indices[row]
        assert indices.tolist() == sorted(set(indices.tolist())), "ascending and unique"
        assert torch.equal(out.selected_features[row], features[row, indices])
        assert torch.equal(out.selection_mask[row].nonzero()[:, 0], indices)


@torch.no_grad()
def test_p57_the_kept_are_the_best_by_an_oracle() -> None:
    features = tokens(4, 33)
    out = selector(0.4)(features, features.mean(dim=1))
    for row in range(4):
        best = sorted(range(33), key=lambda i: (-out.scores[row, i].item(), i))[: math.ceil(0.4 * 33)]
        assert out.selection_indices[row].tolist() == sorted(best)


@torch.no_grad()
def test_p57_padding_is_never_chosen_and_changes_nothing() -> None:
    features = tokens(3, 20)
    is_valid = torch.arange(20) < torch.tensor([[20], [7], [1]])
    filled = torch.where(is_valid[..., None], features, 1e3)
    out = selector()(filled, is_valid=is_valid)
    assert not (out.selection_mask & ~is_valid).any()
    assert out.selection_mask.sum(dim=1).tolist() == [5, 2, 1]
    assert (out.selection_indices == -1).sum(dim=1).tolist() == [0, 3, 4]
    assert not out.selected_features[out.selection_indices == -1].any()
    alone = selector()(features[1:2, :7])
    assert out.selection_indices[1, :2].tolist() == alone.selection_indices[0].tolist()


@torch.no_grad()
def test_p57_the_query_decides_and_may_be_left_out() -> None:
    chosen, features = selector(), tokens(1, 60)
    queries = torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(3))
    kept = {tuple(chosen(features, query[None]).selection_indices[0].tolist()) for query in queries}
    assert len(kept) > 4
    assert chosen(features).selection_indices.shape == (1, 15)
    several = torch.stack([queries, queries + 1], dim=1)[:1]  # [1, 2, D]
    torch.testing.assert_close(chosen(features, several).scores, chosen(features, queries[:1] + 0.5).scores)


@torch.no_grad()
def test_a_fresh_scorer_prefers_nothing_and_takes_the_first() -> None:
    fresh = TokenSelector(TokenScorerConfig(hidden_size=8, query_size=6), WIDTH)
    fresh.reset_parameters(torch.Generator().manual_seed(0))
    out = fresh.eval()(tokens(2, 12), tokens(2, 1)[:, 0], places=torch.rand(2, 12, 2))
    assert not out.scores.any() and out.selection_indices.tolist() == [[0, 1, 2], [0, 1, 2]]


@torch.no_grad()
@pytest.mark.parametrize("query_size", [6, WIDTH])
def test_a_matching_start_prefers_tokens_that_are_like_the_question(query_size: int) -> None:
    config = TokenScorerConfig(hidden_size=8, query_size=query_size, query_start="matching")
    fresh = TokenSelector(config, WIDTH)
    fresh.reset_parameters(torch.Generator().manual_seed(0))
    features, query = tokens(1, 200), tokens(1, 1, seed=3)[:, 0]
    out = fresh.eval()(features, query)
    likeness = torch.nn.functional.cosine_similarity(features, query[:, None], dim=-1)[0]
    kept, left = likeness[out.selection_mask[0]], likeness[~out.selection_mask[0]]
    if query_size == WIDTH:
        assert kept.min() >= left.max(), "the same width: exactly the most alike"
    assert kept.mean() > 0.1 + left.mean()
    assert not fresh(features).scores.any(), "without a question it prefers nothing"


@torch.no_grad()
def test_a_question_can_ask_for_a_place() -> None:
    choosing = selector()
    assert choosing.scorer is not None
    for name in ("prior_out", "key", "place"):
        getattr(choosing.scorer, name).weight.zero_()
    same = tokens(1, 1).expand(2, 16, WIDTH)
    places = torch.rand(1, 16, 2, generator=torch.Generator().manual_seed(1)).expand(2, 16, 2)
    queries = tokens(2, 1, seed=5)[:, 0]
    scores = choosing(same, queries, places=places).scores
    assert scores.std(dim=1).min() > 0.1, "equal tokens differ by their place"
    assert not torch.allclose(scores[0], scores[1]), "which is better depends on the question"
    torch.testing.assert_close(choosing(same, -queries, places=places).scores, -scores)


@torch.no_grad()
def test_uniform_spreads_and_random_is_reproducible() -> None:
    features = tokens(1, 144)
    kept = selector(scorer="uniform")(features).selection_mask.view(12, 12)
    assert kept.sum() == 36
    assert kept.sum(dim=0).min() >= 1 and kept.sum(dim=1).min() >= 2, "every column and row has some"
    first, second = selector(scorer="random"), selector(scorer="random")
    a, b = first(features).selection_indices, first(features).selection_indices
    assert not torch.equal(a, b), "each picture has a draw of its own"
    assert torch.equal(a, second(features).selection_indices)
    longest = selector(scorer="norm")(features).selection_indices[0]
    assert set(longest.tolist()) == set(features[0].norm(dim=1).topk(36).indices.tolist())


@torch.no_grad()
def test_each_crop_keeps_its_share_or_its_few() -> None:
    features = tokens(2, 24)
    crops = torch.arange(24).expand(2, 24) // 8
    mask = selector(0.25, granularity="per_crop")(features, crops=crops).selection_mask.view(2, 3, 8)
    assert (mask.sum(dim=2) == 2).all()
    scores = torch.arange(24.0).expand(2, 24)
    few = selector(0.25, min_per_crop=1)(features, crops=crops, scores=scores).selection_indices
    assert few.tolist() == [[7, 15, 20, 21, 22, 23]] * 2
    first = selector(0.5, keep_global_crop=True)(features, crops=crops, scores=scores).selection_indices
    assert first.tolist() == [[*range(8), 20, 21, 22, 23]] * 2
    too_many = selector(0.25, keep_global_crop=True)(features, crops=crops, scores=scores).selection_indices
    assert too_many.tolist() == [[2, 3, 4, 5, 6, 7]] * 2, "the best of the global crop where not all of it fits"


def test_kept_tokens_carry_the_gradient_of_their_scores_and_keep_their_values() -> None:
    learning, features = selector().train(), tokens().requires_grad_()
    learning.config.dropout = 0.0
    out = learning(features, features.detach().mean(dim=1))
    with torch.no_grad():
        still = selector()(features, features.mean(dim=1))
    assert torch.equal(out.selected_features, still.selected_features)
    (out.selected_features * torch.randn_like(out.selected_features)).sum().backward()
    assert learning.scorer is not None and learning.scorer.prior_out.weight.grad.abs().sum() > 0
    assert learning.scorer.query.weight.grad.abs().sum() > 0
    is_kept = out.selection_mask
    assert features.grad[is_kept].abs().sum(dim=1).min() > 0 and not features.grad[~is_kept].any()


def test_exploration_reaches_tokens_of_low_score() -> None:
    chosen, features = selector(0.25), tokens(1, 16)
    torch.manual_seed(0)
    scores = torch.linspace(0, 1.5, 16)[None]
    kept = torch.stack([chosen(features, scores=scores, exploration=1.0).selection_mask[0] for _ in range(400)])
    shares = kept.float().mean(dim=0)
    assert shares.min() > 0.03 and shares[-4:].mean() > 1.5 * shares[:4].mean()
    assert torch.equal(chosen(features, scores=scores).selection_indices[0], torch.arange(12, 16))


def test_wrong_input_is_refused() -> None:
    chosen = selector()
    with pytest.raises(OLMoInputError, match="selection_ratio must be above 0"):
        chosen(tokens(), ratio=0.0)
    with pytest.raises(OLMoInputError, match=r"query must be \[3, 12\]"):
        chosen(tokens(), torch.zeros(3, 11))
    with pytest.raises(OLMoInputError, match="image_features must be float"):
        chosen(torch.zeros(3, 12))
    with pytest.raises(OLMoInputError, match="vit_attention reads the picture encoder"):
        selector(scorer="vit_attention")(tokens())
    with pytest.raises(OLMoConfigurationError, match="ratio"):
        TokenSelector(TokenScorerConfig(), WIDTH, 1.5)
