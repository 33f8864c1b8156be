from __future__ import annotations

import pickle
from typing import Any

import pytest

from olmo.data.mixture import BLOCK, Mixture, open_mixture
from olmo.data.mixture_config import MixtureConfig
from olmo.data.row_source import RowSource
from olmo.exceptions import OLMoConfigurationError, OLMoInputError


class Toy(RowSource):
    def __init__(self, name: str, size: int) -> None:
        self.name, self.size = name, size

    def __len__(self) -> int:
        return self.size

    def _example(self, row: int, epoch: int) -> dict[str, Any]:
        if row == 13:
            raise FileNotFoundError("cat.png is not there")
        return {"text": f"{self.name} {row} {epoch}"}


def toys(*sizes: int) -> list[RowSource]:
    return [Toy(f"toy{i}", size) for i, size in enumerate(sizes)]


def scenes(n: int, **values: Any) -> dict[str, Any]:
    return {"kind": "scenes", "limit": n, **values}


@pytest.mark.parametrize("rates", [[1, 1], [0.15, 0.5, 0.35], [1, 1000], [0.001, 3, 0.2, 0, 7.5, 1e-6]])
@pytest.mark.parametrize("seed", [0, 1])
def test_p35_ten_thousand_draws_match_the_rates_within_three_sigma(rates, seed):
    mixture = Mixture(toys(*[50] * len(rates)), rates, seed)
    n = 10_000
    for first in (0, 123_456):
        drawn = [mixture.locate(i).source for i in range(first, first + n)]
        for source, rate in enumerate(rate / sum(rates) for rate in rates):
            sigma = (n * rate * (1 - rate)) ** 0.5
            assert abs(drawn.count(source) - n * rate) <= 3 * sigma + 1
            # Blocks keep the count much closer than independent draws do, whatever their number.
            assert abs(drawn.count(source) - n * rate) <= 2 * rate**0.5 * BLOCK**0.5 * 3 + 2


def test_p35_any_example_can_be_asked_for_alone_and_resume_continues_the_order():
    straight = Mixture(toys(7, 300, 40), [1, 5, 2], seed=3)
    order = [straight.locate(i) for i in range(3 * BLOCK)]
    again = Mixture(toys(7, 300, 40), [1, 5, 2], seed=3)
    assert [again.locate(i) for i in range(2000, 3 * BLOCK)] == order[2000:]
    assert [again.locate(i) for i in (2500, 3, 1100, 0, BLOCK)] == [order[i] for i in (2500, 3, 1100, 0, BLOCK)]
    assert pickle.loads(pickle.dumps(straight)).locate(5) == order[5]
    other = Mixture(toys(7, 300, 40), [1, 5, 2], seed=4)
    assert [other.locate(i) for i in range(100)] != order[:100]


def test_every_pass_over_a_source_sees_every_row_once_in_another_order():
    sizes = (7, 300)
    mixture = Mixture(toys(*sizes), [1, 5], seed=3)
    for source, size in enumerate(sizes):
        own = [p for p in (mixture.locate(i) for i in range(4 * BLOCK)) if p.source == source]
        passes = [[p.row for p in own if p.epoch == epoch] for epoch in range(own[-1].epoch)]
        assert len(passes) > 8
        assert all(sorted(rows) == list(range(size)) for rows in passes)
        assert [p.epoch for p in own] == sorted(p.epoch for p in own)
        assert len({tuple(rows) for rows in passes}) >= 0.95 * len(passes)  # there are 5,040 orders of 7 rows


def test_without_shuffling_each_source_keeps_its_order():
    mixture = Mixture(toys(5, 10**9), [1, 1], seed=0, is_shuffled=False)
    own = [p for p in (mixture.locate(i) for i in range(100)) if p.source == 0]
    assert [p.row for p in own[:12]] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    one = Mixture(toys(10), [1], seed=0, is_shuffled=False)
    assert [one.locate(i).row for i in range(10)] == list(range(10))


def test_far_into_a_run_nothing_has_to_be_counted():
    mixture = Mixture(toys(100, 10**9), [1, 3], seed=0)
    first, second = mixture.locate(10**12), mixture.locate(10**12 + 1)
    assert {first.source, second.source} <= {0, 1}
    sources = [mixture.locate(10**12 + i).source for i in range(10_000)]
    assert abs(sources.count(0) - 2500) < 130


def test_an_example_says_where_it_comes_from():
    mixture = Mixture(toys(3), [1], seed=0)
    example = mixture[4]
    row, epoch = mixture.locate(4)[1:]
    assert epoch == 1
    assert example["text"] == f"toy0 {row} 1"
    assert example["metadata"] == {"source": "toy0", "row": row, "epoch": 1, "place": f"toy0, row {row}"}
    assert mixture.n_rows == 3


def test_a_row_that_cannot_be_read_is_named():
    mixture = Mixture(toys(14), [1], seed=0, is_shuffled=False)
    with pytest.raises(OLMoInputError, match=r"^toy0, row 13: cat.png is not there"):
        mixture[13]
    with pytest.raises(IndexError):
        mixture.locate(-1)


def test_rates_go_with_the_square_root_of_sizes_within_a_group():
    config = MixtureConfig.new(
        groups=[
            {"name": "demo", "weight": 0.25, "sources": [scenes(400), scenes(100), scenes(9, rate_size=2500)]},
            {"name": "pointing", "weight": 0.75, "sources": [scenes(7, rate=3), scenes(9, rate=1)]},
            {"name": "off", "weight": 0, "sources": [scenes(1)]},
        ]
    )
    mixture = open_mixture(config, seed=0)
    wanted = [0.25 * x / 80 for x in (20, 10, 50)] + [0.75 * 0.75, 0.75 * 0.25]
    assert mixture.rates == pytest.approx(wanted)
    assert [len(source) for source in mixture.sources] == [400, 100, 9, 7, 9]
    flat = open_mixture(MixtureConfig.new(sources=[scenes(400), scenes(100)]), seed=0)
    assert flat.rates == pytest.approx([2 / 3, 1 / 3])
    assert MixtureConfig.from_dict(config.asdict()) == config


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({}, "sources: a mixture has either 'groups' or 'sources', and neither is given"),
        ({"sources": [scenes(1)], "groups": [{"name": "a", "sources": [scenes(1)]}]}, "both are given"),
        ({"groups": [{"name": "a", "sources": []}]}, "groups.0.sources: group 'a' has no sources"),
        (
            {"groups": [{"name": "a", "weight": 0, "sources": [scenes(1)]}]},
            "groups: the weights of 1 groups sum to not",
        ),
        (
            {"groups": [{"name": "a", "weight": -1, "sources": [scenes(1)]}]},
            "groups.0.weight: must be 0 or more, got -1",
        ),
        ({"sources": [scenes(1, rate=0), scenes(1, rate=0)]}, "the rates sum to nothing"),
        ({"sources": [scenes(1, rate=2), scenes(1)]}, r"sources.1.rate: .*1 of 2 sources give a 'rate'.*or to none"),
    ],
)
def test_mixtures_that_cannot_be_meant(values, match):
    with pytest.raises(OLMoConfigurationError, match=match):
        MixtureConfig.new(**values)


def test_mistakes_in_code_are_explained():
    for sources, rates, match in (
        ([], [], "a rate for each source, got 0 for 0"),
        (toys(1, 1), [1], "got 1 for 2"),
        (toys(1, 1), [0, 0], "sum to more than nothing"),
        (toys(1, 1), [2, -1], "must be 0 or more"),
        (toys(1, 0), [1, 1], "source 'toy1' is empty"),
    ):
        with pytest.raises(OLMoConfigurationError, match=match):
            Mixture(sources, rates, seed=0)
    with pytest.raises(OLMoConfigurationError, match="seed: must be 0 or more"):
        Mixture(toys(1), [1], seed=-1)
