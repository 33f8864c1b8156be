"""Clips of moving scenes: picture tokens learn what becomes of the things that they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from learning import learned_by_heart

from olmo.data.scenes.moving import make_moving_scene
from olmo.data.scenes.moving.actors import Action
from olmo.data.scenes.moving.moving_config import MovingScenesConfig
from olmo.data.scenes.moving.moving_scene import MovingScene
from olmo.exceptions import OLMoConfigurationError
from olmo.models.video_olmo.video_olmo import VideoOlmo
from olmo.train.run import build_trainer
from olmo.train.tasks.grounding import EVENTS, MENTIONS, GroundedLanguageTask
from olmo.train.tasks.inside.asked_model import EVENT_TALLIES, MENTION_TALLIES, AskedModel
from olmo.train.tasks.inside.clip_events import event_targets, shown_things
from olmo.train.tasks.inside.facets import MENTIONED, N_BINS, SHOWN, UNKNOWN

WIDE = Path(__file__).resolve().parents[3] / "configs" / "molmo-nano-wide"
"""Its tokenizer has a token for each word of an answer about a clip; that of the smaller one has not."""

NANO = WIDE.parent / "molmo-nano"

GRID, POOL = 12, 2
FACET = {facet.name: number for number, facet in enumerate(SHOWN)}


def frame_facts(scene: MovingScene) -> torch.Tensor:
    return torch.tensor([[seconds, GRID, POOL, POOL] for seconds in scene.seconds.tolist()])


def scene_with(action: Action) -> MovingScene:
    config = MovingScenesConfig(pan_share=0.0)
    scenes = (make_moving_scene(seed, config) for seed in range(200))
    return next(scene for scene in scenes if scene.actors[0].action is action)


@pytest.fixture
def clips(recipe: Path) -> Path:
    """The tiny recipe, grounded, on clips of one or two events."""
    model = recipe.parent / "model" / "config.yaml"
    values = yaml.safe_load(model.read_text())
    values |= {"model_name": "video_olmo", "max_frames": 8, "pooling_h": 2, "pooling_w": 2}
    values["llm"] |= {"vocab_size": 1824, "tokenizer": {"identifier": str(WIDE / "tokenizer.json")}}
    model.write_text(yaml.safe_dump(values))
    values = yaml.safe_load(recipe.read_text())
    scenes = {"image_size": 84, "max_frames": 8, "max_events": 2, "max_still": 0, "questions_per_clip": 2}
    values |= {"task": "grounded_language", "event_weight": 0.5, "event_layer": 1, "batch_size": 2}
    values["data"] = {"sources": [{"kind": "moving_scenes", "moving_scenes": scenes}]}
    recipe.write_text(yaml.safe_dump(values))
    return recipe


@pytest.mark.parametrize("action", [Action.left, Action.up, Action.vanish, Action.appear])
def test_targets_follow_from_the_clip(action: Action) -> None:
    scene = scene_with(action)
    things, known = shown_things(scene, frame_facts(scene)), event_targets(scene)
    number = scene.things.index(scene.actors[0])
    owners = np.concatenate([owner for owner, _ in things])
    assert (owners == number).any() and (owners < 0).any()
    of = dict(zip(FACET, known[number].tolist(), strict=True))
    assert of["action"] == list(Action).index(action) and of["order"] == 0
    if action is Action.left:
        assert of["last_x"] < of["first_x"] and of["last_y"] == of["first_y"]
    if action is Action.up:
        assert of["last_y"] < of["first_y"] and of["last_x"] == of["first_x"]
    if action is Action.vanish:
        assert of["last_x"] == of["last_y"] == N_BINS and of["first_x"] < N_BINS
    if action is Action.appear:
        assert of["first_x"] == of["first_y"] == N_BINS and of["last_x"] < N_BINS
    assert (known[owners[owners < 0]] == UNKNOWN).all(), "tokens that show nothing have none"


def test_bystanders_have_a_place_and_no_time() -> None:
    scene = next(s for s in map(make_moving_scene, range(100)) if s.still)
    number = scene.things.index(scene.still[0])
    found = event_targets(scene)[number]
    assert found[FACET["action"]] == list(Action).index(Action.still)
    assert (found[[FACET["order"], FACET["half"]]] == UNKNOWN).all()
    assert (found[: FACET["action"]] < N_BINS).all()


def test_the_loss_is_the_sum_of_all(clips: Path) -> None:
    task = build_trainer(clips, ["event_weight=2.0"]).task
    assert isinstance(task, GroundedLanguageTask) and isinstance(task.module, AskedModel)
    batch = task.collate([task.prepare(task.stream[i], np.random.default_rng(i)) for i in range(2)])
    assert batch[EVENTS].shape[0] == 16 and batch[EVENTS].shape[2] == len(SHOWN)
    task.module.train()
    total, tally = task.loss(batch)
    mean = {name: float(sum_) / float(n) for name, (sum_, n) in tally.items()}
    assert set(EVENT_TALLIES) <= set(mean) and tally["loss_events"][1] == (batch[EVENTS][..., 0] != UNKNOWN).sum()
    events = mean["loss_places"] + mean["loss_events"]
    assert float(total.detach()) == pytest.approx(
        mean["loss_answers"] + 0.5 * mean["loss_grounding"] + 2.0 * events, rel=1e-5
    )
    total.backward()
    assert all(bool(p.grad.any()) for p in task.module.heads.parameters())
    task.module.eval()
    alone, _ = task.loss(batch)
    assert float(alone.detach()) == pytest.approx(mean["loss_answers"], rel=1e-5), (
        "an evaluation takes the answers alone"
    )


def test_the_heads_can_be_answered(clips: Path) -> None:
    task = build_trainer(clips).task
    assert isinstance(task, GroundedLanguageTask)
    first, *_, last = (mean["loss_events"] for mean in learned_by_heart(task))
    assert last < 0.6 * first


def test_words_of_questions_learn_what_they_name(clips: Path) -> None:
    options = ["model_overrides=[llm.n_layers=3]", "mention_weight=0.25"]
    task = build_trainer(clips, options).task
    assert isinstance(task, GroundedLanguageTask) and isinstance(task.module, AskedModel)
    row = task.prepare(task.stream[0], np.random.default_rng(0))
    batch = task.collate([row])
    assert batch[MENTIONS].shape == (*batch["input_ids"].shape, len(MENTIONED))
    means = learned_by_heart(task)
    for mean in means:
        inside = 0.5 * (mean["loss_places"] + mean["loss_events"]) + 0.25 * mean["loss_mentions"]
        parts = mean["loss_answers"] + 0.5 * mean["loss_grounding"] + inside
        assert mean["loss"] == pytest.approx(parts, rel=1e-5)
    first, last = means[0], means[-1]
    assert set(MENTION_TALLIES) <= set(last) <= {*task.tally_names, "loss"}
    assert last["loss_mentions"] < 0.5 * first["loss_mentions"] and last["share_found"] > 0.8, (first, last)


def test_heads_come_back_and_are_thrown_away(clips: Path, tmp_path: Path) -> None:
    options = ["max_steps=3", "checkpoint.every_steps=3"]
    first = build_trainer(clips, options)
    first.fit()
    assert not any("heads" in name for name in VideoOlmo.from_pretrained(tmp_path / "run" / "final").state_dict())
    again = build_trainer(clips, ["max_steps=4", "checkpoint.every_steps=3"])
    again.start()
    weights = again.task.module.state_dict()
    assert any("heads" in name for name in weights)
    assert all(torch.equal(weights[name], value) for name, value in first.task.module.state_dict().items())
    again.close()


def test_what_does_not_fit_is_refused(clips: Path) -> None:
    with pytest.raises(OLMoConfigurationError, match="event_layer below 2"):
        build_trainer(clips, ["event_layer=2"])
    with pytest.raises(OLMoConfigurationError, match="event_weight"):
        build_trainer(clips, ["event_weight=-1"])
    with pytest.raises(OLMoConfigurationError, match="mention_weight: needs an event_layer below 1"):
        build_trainer(clips, ["mention_weight=1"])  # two blocks: none is left to answer
    with pytest.raises(OLMoConfigurationError, match="another token"):
        build_trainer(clips, [f"model_overrides=[llm.tokenizer.identifier={NANO / 'tokenizer.json'}]"])
