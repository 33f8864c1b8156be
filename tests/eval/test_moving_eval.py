from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from olmo.data.scenes.moving.dataset import MovingScenesSource
from olmo.data.scenes.moving.moving_config import MovingScenesConfig, MovingTask
from olmo.data.scenes.moving.moving_scene import make_moving_scene
from olmo.data.scenes.moving.questions import MovingQuestion
from olmo.eval.moving_eval import QA, MovingItem, View, evaluate_moving, moving_items, shown_frames
from olmo.eval.runner import evaluate
from olmo.eval.tasks import TASKS, EvalTask
from olmo.exceptions import OLMoInputError
from olmo.models.outputs import OLMoGenerateOutput
from olmo.models.video_olmo.video_olmo import VideoOlmo, VideoOlmoConfig

TINY = (
    "llm.d_model=16", "llm.n_heads=2", "llm.n_layers=1", "llm.mlp_hidden_size=16", "vision_backbone.vit.d_model=16",
    "vision_backbone.vit.n_heads=2", "vision_backbone.vit.n_layers=1", "vision_backbone.vit.mlp_hidden_size=16",
    "vision_backbone.vit_layers=[-1]",
)  # fmt: skip
Key = tuple[tuple[int, ...], bytes]
CONFIG = MovingScenesConfig(image_size=64)


class Witness(VideoOlmo):
    """Knows the answer to each question about each clip, and knows the clip by its frames."""

    def __init__(self, config: VideoOlmoConfig, items: list[MovingItem]) -> None:
        super().__init__(config)
        preprocess = config.build_preprocessor(for_inference=True)
        self.answers = {}
        for seed, question in items:
            scene = make_moving_scene(seed, CONFIG)
            video = {"frames": scene.frames, "seconds": scene.seconds}
            example = {"video": video, "messages": question.messages(with_answer=False), "style": question.style}
            self.answers[self._key(**preprocess(example))] = question.answer

    def _key(self, input_ids: torch.Tensor, images: torch.Tensor, image_input_idx: torch.Tensor, **_: Any) -> Key:
        pixels = images[(image_input_idx >= 0).any(dim=1)]  # a batch is padded with crops of nothing
        return tuple(input_ids[input_ids >= 0].tolist()), pixels.numpy().tobytes()

    def generate(
        self, input_ids: torch.Tensor, images: torch.Tensor, image_input_idx: torch.Tensor, **_: Any
    ) -> OLMoGenerateOutput:
        keys = [self._key(*row) for row in zip(input_ids, images, image_input_idx, strict=True)]
        return OLMoGenerateOutput(input_ids, [self.answers.get(key, "no idea") for key in keys])


@pytest.fixture(scope="module")
def items() -> list[MovingItem]:
    return moving_items(12, CONFIG)


@pytest.fixture(scope="module")
def witness(items: list[MovingItem]) -> Witness:
    folder = Path(__file__).resolve().parents[2] / "configs" / "molmo-nano-video"
    config = VideoOlmoConfig.load(folder / "config.yaml", [*TINY, "frame_resolution=56"])
    return Witness(config, items)


def test_one_question_of_each_task(items: list[MovingItem]) -> None:
    seen = {(seed, question.task) for seed, question in items}
    assert len(seen) == len(items) and {task for _, task in seen} == set(MovingTask)
    assert moving_items(3, CONFIG) == items[: len(moving_items(3, CONFIG))], "more clips change no question"


def test_truth_is_right_everywhere(witness: Witness, items: list[MovingItem]) -> None:
    calls: list[tuple[int, int]] = []
    report = evaluate_moving(witness, items, CONFIG, batch_size=5, progress=lambda *at: calls.append(at))
    assert report.n_clips == 12 and all(result.accuracy == 1.0 for result in report.tasks.values())
    assert sum(report.tasks[task.value].n for task in MovingTask if task.value in report.tasks) == len(items)
    assert report.tasks["qa"].n == sum(question.task in QA for _, question in items)
    assert calls[-1] == (len(items), len(items))
    assert report.order_chance is not None and 1 / 3 <= report.order_chance <= 1 / 2
    json.dumps(report.asdict())


def test_other_views_show_other_frames(witness: Witness, items: list[MovingItem]) -> None:
    for view in (View.grey, View.shuffled):
        report = evaluate_moving(witness, items, CONFIG, view, batch_size=8)
        # The witness knows its clips by their frames; a shuffle may leave a short clip of little motion as it is.
        assert (report.tasks["action"].accuracy or 0.0) < 0.3, view


def test_views() -> None:
    scene = make_moving_scene(3, CONFIG)
    assert shown_frames(scene, View.clip) is scene.frames
    grey, shuffled = (shown_frames(scene, view) for view in (View.grey, View.shuffled))
    assert grey.shape == scene.frames.shape and (grey == 128).all()
    assert sorted(f.tobytes() for f in shuffled) == sorted(f.tobytes() for f in scene.frames)
    assert (shuffled != scene.frames).any() and (shuffled == shown_frames(scene, View.shuffled)).all()


def test_chance_is_that_of_the_choices(witness: Witness, items: list[MovingItem]) -> None:
    def chance(form: str) -> float | None:
        return evaluate_moving(witness, [(s, q) for s, q in items if q.form == form], CONFIG).order_chance

    assert chance("order_relation") == chance("order_pair") == 0.5
    assert evaluate_moving(witness, [i for i in items if i[1].form == "action"], CONFIG).order_chance is None


def test_nothing_to_ask(witness: Witness) -> None:
    none: list[tuple[int, MovingQuestion]] = []
    with pytest.raises(OLMoInputError, match="at least 1 clip"):
        evaluate_moving(witness, none, CONFIG)


def test_the_task_asks_and_scores_the_same(witness: Witness, items: list[MovingItem]) -> None:
    source = MovingScenesSource(CONFIG, split="test")
    task = EvalTask(name="moving_scenes", source=source, metrics=("moving_scene",), limit=3)
    scores = evaluate(witness, task)
    assert scores["moving_scene/accuracy"] == 1.0 and scores["moving_scene/action"] == 1.0
    drawn = TASKS["moving_scenes"].source
    assert isinstance(drawn, MovingScenesSource) and drawn.split == "test"
