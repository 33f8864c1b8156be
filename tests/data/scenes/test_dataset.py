from __future__ import annotations

import pytest

from olmo.data.scenes import ScenesConfig, ScenesDataset, Task, all_text_samples, make_scene, score
from olmo.data.scenes.dataset import FIRST_EVALUATION_SEED, FIRST_SEED, MAX_SIZE
from olmo.exceptions import OLMoInputError


def test_example_has_the_promised_keys() -> None:
    example = ScenesDataset(size=4)[0]
    assert set(example) == {"image", "message_list", "styles", "metadata"}
    assert example["image"].size == (168, 168) and example["image"].mode == "RGB"
    assert len(example["message_list"]) == len(example["styles"]) == len(example["metadata"]["questions"]) > 0
    for conversation, style in zip(example["message_list"], example["styles"], strict=True):
        assert [turn["role"] for turn in conversation] == ["user", "assistant"]
        assert all(set(turn) == {"role", "content"} and turn["content"] for turn in conversation)
        assert style in ("user_qa", "pointing", "long_caption")
    assert example["metadata"]["scene"].seed == example["metadata"]["seed"]


def test_same_index_same_example() -> None:
    one, two = ScenesDataset(size=9)[8], ScenesDataset(size=20)[8]
    assert one["message_list"] == two["message_list"] and one["image"].tobytes() == two["image"].tobytes()


def test_seeds_of_the_splits_never_meet() -> None:
    train, val = ScenesDataset(split="train"), ScenesDataset(split="val")
    assert train.seed_of(0) == 0 and val.seed_of(0) == 1_000_000_007
    assert train.seed_of(MAX_SIZE - 1) < val.seed_of(0)
    assert val.seed_of(MAX_SIZE - 1) < FIRST_EVALUATION_SEED
    assert FIRST_SEED["train"] == 0


def test_length_and_bounds() -> None:
    dataset = ScenesDataset(split="val", size=3)
    assert len(dataset) == 3 and len(ScenesDataset()) == MAX_SIZE
    assert len([dataset[i] for i in range(3)]) == 3
    for index in (3, -1):
        with pytest.raises(IndexError):
            dataset[index]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(OLMoInputError, match="'train', 'val'"):
        ScenesDataset(split="test")
    with pytest.raises(OLMoInputError, match="size"):
        ScenesDataset(size=MAX_SIZE + 1)


def test_evaluation_items() -> None:
    config = ScenesConfig()
    items = ScenesDataset(config, "val").evaluation_items(12)
    assert items == ScenesDataset(config, "val").evaluation_items(12)
    assert [s for s, _ in items] == sorted(s for s, _ in items) and min(s for s, _ in items) == FIRST_EVALUATION_SEED
    pairs = [(seed, q.task) for seed, q in items]
    assert len(set(pairs)) == len(pairs)
    for task in (Task.naming, Task.listing, Task.counting, Task.pointing, Task.describing):
        assert sum(t is task for _, t in pairs) >= 10
    assert all(score(q, q.answer, make_scene(seed, config)) for seed, q in items)


def test_text_samples_are_prompts_and_answers() -> None:
    samples = list(all_text_samples(5))
    example = ScenesDataset(size=5)[0]
    first = [turn["content"] for conversation in example["message_list"] for turn in conversation]
    assert samples[: len(first)] == first and all(s.isascii() for s in samples)
