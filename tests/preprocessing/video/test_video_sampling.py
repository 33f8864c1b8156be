"""Which frames are chosen, on frame counts alone (P41, P42, P44)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.preprocessing.video.adaptive import adaptive_indices, candidate_indices, find_cuts, luma_changes, spread
from olmo.preprocessing.video.open_video import open_video
from olmo.preprocessing.video.relevance import relevant_indices
from olmo.preprocessing.video.sampling import (
    FrameSampling,
    frame_count,
    random_indices,
    sample_frames,
    sampling_generator,
)

COUNTS = [(int(n), int(m)) for n, m in np.random.default_rng(0).integers([1, 1], [2000, 80], (2000, 2))]


def still(n: int, **options: object):
    return open_video(np.zeros((n, 4, 4, 3), np.uint8), **({"fps": 25} | options))


def check_choice(indices: np.ndarray, n: int, m: int) -> None:
    assert indices.dtype == np.int64 and len(indices) == min(m, n)
    assert (np.diff(indices) > 0).all() and indices[0] >= 0 and indices[-1] < n


class TestUniform:
    def test_p41_the_documented_vector(self):
        wanted = [0, 7, 13, 20, 26, 33, 40, 46, 53, 59, 66, 73, 79, 86, 92, 99]
        assert sample_frames(still(100), "uniform", max_frames=16).indices.tolist() == wanted

    def test_p41_first_and_last_frame_and_even_steps(self):
        for n, m in COUNTS:
            indices = spread(n, min(m, n))
            check_choice(indices, n, m)
            if len(indices) > 1:
                assert indices[0] == 0 and indices[-1] == n - 1 and np.ptp(np.diff(indices)) <= 1

    @pytest.mark.parametrize(("n", "m", "wanted"), [(1, 16, [0]), (5, 1, [2]), (4, 1, [2]), (3, 16, [0, 1, 2])])
    def test_small_counts(self, n, m, wanted):
        assert sample_frames(still(n), max_frames=m).indices.tolist() == wanted

    def test_a_count_beyond_floats(self):
        assert spread(10**9 + 7, 3).tolist() == [0, 500_000_003, 10**9 + 6]


class TestRandom:
    def test_p41_one_frame_of_each_part(self):
        for n, m in COUNTS:
            m = min(m, n)
            indices = random_indices(n, m, np.random.default_rng(n))
            check_choice(indices, n, m)
            assert all(k * n // m <= i < (k + 1) * n // m for k, i in enumerate(indices.tolist()))

    def test_p41_equal_arguments_draw_equal_frames(self):
        draws = [
            sample_frames(still(500), "random", seed=s, epoch=e, example_id=i).indices.tolist()
            for s, e, i in [(0, 0, "a"), (0, 0, "a"), (0, 1, "a"), (1, 0, "a"), (0, 0, "b"), (0, 0, 7), (0, 0, "7")]
        ]
        assert draws[0] == draws[1] and draws[5] == draws[6]
        assert len({tuple(d) for d in draws}) == 5

    def test_every_frame_of_a_part_is_drawn(self):
        seen = {i for e in range(400) for i in random_indices(40, 4, sampling_generator(0, e, "")).tolist()}
        assert seen == set(range(40))

    def test_a_negative_seed_is_an_error(self):
        with pytest.raises(OLMoInputError, match="0 or more"):
            sample_frames(still(5), "random", seed=-1)


class TestAdaptive:
    def test_the_vector_of_the_specification(self):
        changes = np.zeros(300)
        changes[[20, 25, 30, 290]] = 0.5
        assert adaptive_indices(300, 8, np.arange(300), changes).tolist() == [10, 22, 27, 62, 127, 192, 257, 294]

    def test_a_burst_gets_half_of_the_frames(self):
        changes = np.zeros(300)
        changes[100:130] = 0.04
        indices = adaptive_indices(300, 16, np.arange(300), changes)
        assert np.count_nonzero((indices >= 100) & (indices < 130)) == 8

    @given(st.integers(1, 600), st.integers(1, 90), st.integers(0, 10**6), st.floats(0, 1))
    def test_always_as_many_different_frames_as_asked_for(self, n, m, seed, lost):
        rng = np.random.default_rng(seed)
        candidates = candidate_indices(n, m)
        kept = candidates[rng.random(len(candidates)) >= lost / 2]
        kept = kept if len(kept) else candidates[:1]
        changes = rng.random(len(kept)) ** rng.integers(1, 12) * (rng.random(len(kept)) < rng.random())
        check_choice(adaptive_indices(n, min(m, n), kept, changes), n, m)

    @given(st.integers(8, 300), st.integers(1, 40), st.integers(0, 10**6))
    def test_every_shot_is_seen_while_there_are_frames(self, n, m, seed):
        rng = np.random.default_rng(seed)
        changes = rng.random(n) * 0.01
        changes[rng.integers(1, n, 6)] = 0.6
        cuts = find_cuts(changes, n)
        indices = adaptive_indices(n, min(m, n), np.arange(n), changes)
        if len(cuts) + 1 <= min(m, n):
            shots = np.searchsorted(cuts, indices, "right")
            assert set(shots.tolist()) == set(range(len(cuts) + 1))

    def test_p42_still_pictures_are_spread(self):
        for n, m in COUNTS[:100]:
            candidates = candidate_indices(n, m)
            wanted = spread(n, min(n, m)) if m < n else np.arange(n)
            assert adaptive_indices(n, min(n, m), candidates, np.zeros(len(candidates))).tolist() == wanted.tolist()
        source = still(90)
        assert sample_frames(source, "adaptive").indices.tolist() == sample_frames(source, "uniform").indices.tolist()

    def test_candidates(self):
        assert len(candidate_indices(10_000, 16)) == 64 and len(candidate_indices(10_000, 100)) == 400
        assert len(candidate_indices(10_000, 300)) == 512 and len(candidate_indices(10_000, 700)) == 700
        assert candidate_indices(30, 16).tolist() == list(range(30))

    def test_p42_six_unequal_shots_are_all_seen(self):
        rng = np.random.default_rng(0)
        seen = {"adaptive": [], "uniform": []}
        for _ in range(100):
            lengths = rng.permutation([12, 12, 14, 16, 60, 190])
            shot = np.repeat(np.arange(6), lengths)
            levels = rng.permutation([10, 60, 110, 160, 210, 250])
            frames = levels[shot].astype(np.uint8)[:, None, None].repeat(8, 1).repeat(8, 2)
            frames[:, :4] += rng.integers(0, 3, (len(shot), 1, 1), dtype=np.uint8)
            source = open_video(frames, fps=30)
            for strategy, counts in seen.items():
                counts.append(len(set(shot[sample_frames(source, strategy, max_frames=8).indices].tolist())))
        assert set(seen["adaptive"]) == {6}
        assert np.mean(seen["uniform"]) < 5  # measured 3.8

    def test_p42_a_burst_is_hit_twice_as_often(self):
        rng = np.random.default_rng(0)
        hits = {"adaptive": 0, "uniform": 0}
        for _ in range(50):
            begin = int(rng.integers(0, 270))
            frames = np.zeros((300, 16, 16), np.uint8)
            for i in range(begin, begin + 30):
                frames[i, :, i % 16] = 200
            source = open_video(frames, fps=30)
            for strategy in hits:
                chosen = sample_frames(source, strategy, max_frames=16).indices
                hits[strategy] += int(np.count_nonzero((chosen >= begin) & (chosen < begin + 30)))
        assert hits["adaptive"] >= 2 * hits["uniform"]  # measured 4.4 times

    def test_only_candidates_are_decoded(self):
        class Counting(type(still(1))):
            n_read = 0

            def iter_frames(self, indices):
                for found in super().iter_frames(indices):
                    self.n_read += 1
                    yield found

        source = Counting(np.random.default_rng(0).integers(0, 255, (400, 4, 4, 3), dtype=np.uint8), fps=25)
        sample_frames(source, "uniform")
        assert source.n_read == 0
        sample_frames(source, "adaptive", max_frames=400)
        assert source.n_read == 0
        sample_frames(source, "adaptive")
        assert source.n_read == 64

    def test_changes_are_shares_of_full_brightness(self):
        source = open_video(np.array([0, 255, 255, 0], np.uint8).reshape(4, 1, 1).repeat(4, 1).repeat(4, 2))
        seen, changes = luma_changes(source, [0, 1, 2, 3])
        assert seen.tolist() == [0, 1, 2, 3] and changes.tolist() == [0, 1, 0, 1]


class TestRelevance:
    @given(st.lists(st.floats(-1, 1), min_size=1, max_size=200), st.integers(1, 100))
    def test_exactly_as_many_as_asked_for(self, scores, m):
        check_choice(relevant_indices(scores, m), len(scores), m)

    def test_a_peak_is_kept_whole(self):
        scores = np.zeros(100)
        scores[40:48] = 1
        assert relevant_indices(scores, 8).tolist() == list(range(40, 48))

    def test_a_flat_score_leaves_no_part_out(self):
        scores = np.random.default_rng(0).random(512)
        chosen = relevant_indices(scores, 32)
        assert len(set((chosen // 64).tolist())) == 8

    def test_no_question_is_uniform(self):
        assert relevant_indices(np.zeros(100), 16).tolist() == spread(100, 16).tolist()

    @pytest.mark.parametrize("scores", [[], [[1.0]], [float("nan")]])
    def test_scores_are_checked(self, scores):
        with pytest.raises(OLMoInputError, match="relevance is a list of finite numbers"):
            relevant_indices(scores, 1)
        with pytest.raises(OLMoInputError, match="at least 1"):
            relevant_indices([1.0], 0)


class TestTime:
    @pytest.mark.parametrize(("duration_s", "rate", "wanted"), [(10, 1, 11), (0.1, 1, 1), (0.1, 30, 4), (100, 2, 64)])
    def test_the_rate_is_a_limit(self, duration_s, rate, wanted):
        assert frame_count(1000, 64, duration_s, rate) == wanted

    def test_sampling_with_a_rate(self):
        chosen = sample_frames(still(100, fps=10), max_fps=0.5)
        assert chosen.seconds.tolist() == pytest.approx([0.0, 2.0, 4.0, 5.9, 7.9, 9.9])

    def test_times_of_uneven_frames(self):
        seconds = [5.0, 5.1, 5.2, 9.0, 20.5]
        chosen = sample_frames(still(5, fps=None, seconds=seconds), max_frames=3)
        np.testing.assert_allclose(chosen.seconds, [0.0, 0.2, 15.5])

    def test_no_times_and_no_rate_is_a_warning(self):
        with pytest.warns(UserWarning, match="2 frames a second are assumed"):
            assert sample_frames(still(4, fps=None)).seconds.tolist() == [0.0, 0.5, 1.0, 1.5]
        with pytest.warns(UserWarning, match="4 frames a second are assumed"):
            assert sample_frames(still(4, fps=None), max_fps=4).seconds[-1] == 0.75

    def test_a_part_that_begins_at_zero_ends_where_it_should(self):
        source = still(100, fps=10)
        assert sample_frames(source, start_s=0.0, end_s=2.0, max_frames=99).indices.tolist() == list(range(20))
        part = sample_frames(source, start_s=3.0, end_s=5.0, max_frames=3)
        assert part.indices.tolist() == [30, 40, 49]
        assert part.seconds.tolist() == pytest.approx([0.0, 1.0, 1.9])
        whole = sample_frames(source, start_s=3.0, end_s=5.0, max_frames=3, absolute_time=True)
        assert whole.seconds.tolist() == pytest.approx([3.0, 4.0, 4.9])

    @pytest.mark.parametrize("strategy", list(FrameSampling))
    def test_every_strategy_stays_in_its_part(self, strategy):
        frames = np.random.default_rng(0).integers(0, 255, (200, 4, 4), dtype=np.uint8)
        chosen = sample_frames(open_video(frames, fps=10), strategy, start_s=5.0, end_s=15.0, max_frames=8)
        check_choice(chosen.indices - 50, 100, 8)
        assert (chosen.seconds >= 0).all() and (chosen.seconds < 10).all()

    def test_wrong_values(self):
        with pytest.raises(
            OLMoInputError, match=r"no frame from 20 s to its end; its frames are shown from 0 to 9\.9 s"
        ):
            sample_frames(still(100, fps=10), start_s=20)
        with pytest.raises(OLMoInputError, match="max_frames must be at least 1"):
            sample_frames(still(3), max_frames=0)
        with pytest.raises(OLMoInputError, match="max_fps must be above 0"):
            sample_frames(still(3), max_fps=0)
        with pytest.raises(OLMoConfigurationError, match="'uniform', 'random', 'adaptive'"):
            sample_frames(still(3), "fps")
