"""What the bundled model of clips knows of one thing that acts on its own: promise P54."""

from __future__ import annotations

import pytest

from olmo.data.scenes.art import ConceptSet
from olmo.data.scenes.moving.moving_config import MovingScenesConfig
from olmo.eval.moving_eval import evaluate_moving, moving_items
from olmo.models.bundled import BUNDLED_VIDEO_MODEL, bundled_model_folder
from olmo.models.video_olmo.video_olmo import VideoOlmo

TASKS = ("action", "actor", "when", "describing")


@pytest.mark.slow
def test_p54_one_thing_that_acts_is_told_and_captioned() -> None:
    config = MovingScenesConfig(
        concept_set=ConceptSet.wide,
        image_size=168,
        art=["noto", "fluent"],
        max_events=1,
        max_still=0,
        group_share=0.0,
        task_weights=dict.fromkeys(TASKS, 1.0),
    )
    model = VideoOlmo.from_pretrained(bundled_model_folder(BUNDLED_VIDEO_MODEL)).eval()
    found = evaluate_moving(model, moving_items(50, config), config).tasks
    shares = {name: found[name].accuracy or 0.0 for name in (*TASKS, "qa")}
    assert shares["action"] >= 0.9 and shares["qa"] >= 0.9 and shares["describing"] >= 0.8, shares
