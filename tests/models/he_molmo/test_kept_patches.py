from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny import example, picture
from video_clips import asked, video

from olmo.exceptions import OLMoInputError
from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.models.he_molmo.kept_patches import count_kept, draw_selection, kept_of_size, kept_patches
from olmo.viz.selection import EDGE, OVERVIEW_EDGE
from olmo.viz.token_places import frame_view, picture_views, token_boxes

CROPS = {"mm_preprocessor__max_crops": 6}


def answered(model: HeMolmo, shown: dict[str, Any], **settings: Any) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """What the model tells of its choice, and what it was shown."""
    inputs = model.config.build_preprocessor(for_inference=True, include_image=True)(shown)
    out = model.generate(**inputs, max_new_tokens=1, **settings)
    return out.aux, inputs


def kept_boxes(aux: dict[str, torch.Tensor], inputs: dict[str, Any], views: list) -> set[tuple[float, ...]]:
    """Rectangles of kept tokens, found by their positions in the sequence instead of the places that are told."""
    index = inputs["image_input_idx"]
    positions = index[index >= 0].sort().values
    boxes = set()
    for number in aux["selection_indices"][0].tolist():
        crop, entry = (index == positions[number]).nonzero()[0].tolist()
        n_rows, n_columns = (-(-views[crop].grid // pool) for pool in views[crop].pool)
        row, column = divmod(entry, n_columns)
        place = np.array([[(row + 0.5) / n_rows, (column + 0.5) / n_columns]])
        boxes.add((crop, *token_boxes(views[crop], place)[0].round(6)))
    return boxes


@pytest.mark.parametrize("size", [(56, 56), (250, 100), (60, 140), (250, 250)])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0])
def test_tokens_of_a_picture_lie_where_their_positions_say(make_he_model, size, ratio):
    model = make_he_model(**CROPS)
    aux, inputs = answered(model, example("what is it?", picture(*size)), selection_ratio=ratio)
    (tokens,) = kept_patches(aux, inputs, model.config)
    views = picture_views((size[1], size[0]), model.config.image_spec, model.config.mm_preprocessor)
    wanted = kept_boxes(aux, inputs, views)
    assert {tuple(box) for box in tokens.boxes[tokens.is_kept].round(6)} == {box[1:] for box in wanted}
    assert int(tokens.is_kept.sum()) == len(wanted) == count_kept(aux, inputs, model.config).n_kept
    assert len(tokens.is_kept) == count_kept(aux, inputs, model.config).n_tokens
    n_fine = int((inputs["image_input_idx"][1:] >= 0).sum())
    assert int(tokens.is_fine.sum()) == n_fine > 0
    assert tokens.scores[tokens.is_kept].min() >= tokens.scores[~tokens.is_kept].max(initial=-np.inf)


def test_each_of_two_pictures_has_its_own_tokens(make_he_model):
    model = make_he_model(**CROPS)
    sizes = ((112, 60), (56, 200))
    aux, inputs = answered(model, example("and these?", *(picture(*size) for size in sizes)))
    parts = kept_patches(aux, inputs, model.config)
    views = [picture_views((w, h), model.config.image_spec, model.config.mm_preprocessor) for h, w in sizes]
    wanted = kept_boxes(aux, inputs, [view for views_of_one in views for view in views_of_one])
    first = {box[1:] for box in wanted if box[0] < len(views[0])}
    second = {box[1:] for box in wanted if box[0] >= len(views[0])}
    assert [{tuple(box) for box in p.boxes[p.is_kept].round(6)} for p in parts] == [first, second]
    assert draw_selection(aux, inputs, model.config).height > 0


@pytest.mark.parametrize(
    "fields",
    [
        {"max_frames": 4},
        {"max_frames": 4, "high_res_every": 2, "high_res_pooling": 1},
        {"max_frames": 3, "pooling_w": 1},
    ],
)
def test_frames_have_their_own_tokens(make_he_model, fields):
    model = make_he_model(time_mode="none", **fields)
    aux, inputs = answered(model, asked(video(4, size=(40, 90))), selection_ratio=0.5)
    frames = kept_patches(aux, inputs, model.config)
    assert len(frames) == fields["max_frames"] == len(inputs["metadata"]["images"])
    views = [
        frame_view((90, 40), int(grid), (int(high), int(wide)), model.config.image_spec)
        for _, grid, high, wide in inputs["frame_facts"].tolist()
    ]
    wanted = kept_boxes(aux, inputs, views)
    for number, frame in enumerate(frames):
        mine = {box[1:] for box in wanted if box[0] == number}
        assert {tuple(box) for box in frame.boxes[frame.is_kept].round(6)} == mine
        assert len(frame.is_kept) == int((inputs["image_input_idx"][number] >= 0).sum())
    sheet = np.asarray(draw_selection(aux, inputs, model.config))
    assert (sheet == EDGE).all(axis=-1).any()


def test_frames_that_the_question_makes_finer_are_drawn_finer(make_he_model):
    fields = {"high_res_every": 3, "high_res_pooling": 1, "frame_selection": "query_resolution", "max_frames": 6}
    told, counts = set(), set()
    for seed in range(4):
        model = make_he_model(seed=seed, time_mode="none", **fields)
        aux, inputs = answered(model, asked(video(6)))
        counts.add(tuple(len(frame.is_kept) for frame in kept_patches(aux, inputs, model.config)))
        told.add(tuple((inputs["image_input_idx"] >= 0).sum(dim=1).tolist()))
    assert all(sorted(n) == [4, 4, 4, 4, 16, 16] for n in counts)
    assert counts - told, "the preprocessor makes other frames finer"


def test_the_row_of_a_batch_is_that_of_the_example(make_he_model):
    model = make_he_model(**CROPS)
    preprocess = model.config.build_preprocessor(for_inference=True, include_image=True)
    rows = [preprocess(example("no picture")), preprocess(example("what is it?", picture(60, 140)))]
    batch = model.config.build_collator(None)(rows)
    batch.pop("metadata")
    together = model.generate(**batch, max_new_tokens=1).aux
    alone = answered(model, example("what is it?", picture(60, 140)))[0]
    found, wanted = (kept_patches(a, rows[1], model.config, row)[0] for a, row in ((together, 1), (alone, 0)))
    assert (found.is_kept == wanted.is_kept).all() and (found.boxes == wanted.boxes).all()
    assert count_kept(together, rows[0], model.config) == (0, 0)


@pytest.mark.parametrize("scorer", [{}, {"min_keep": 5}, {"granularity": "per_crop", "min_per_crop": 1}])
@pytest.mark.parametrize("size", [(56, 56), (250, 100), (250, 250)])
def test_kept_of_size_is_what_the_model_keeps(make_he_model, scorer, size):
    model = make_he_model(selection_ratio=0.25, token_scorer=scorer, **CROPS)
    aux, inputs = answered(model, example("what?", picture(*size)))
    assert kept_of_size(size[1], size[0], model.config) == count_kept(aux, inputs, model.config)


def test_only_a_picture_in_several_crops_has_an_overview(make_he_model):
    for mode, has_overview in (("resize", False), ("overlap-and-resize-c2", True)):
        model = make_he_model(mm_preprocessor__crop_mode=mode)
        aux, inputs = answered(model, example("what?", picture(140, 140)), selection_ratio=0.4)
        drawn = np.asarray(draw_selection(aux, inputs, model.config))
        assert (drawn == EDGE).all(axis=-1).any()
        assert bool((drawn == OVERVIEW_EDGE).all(axis=-1).any()) == has_overview


def test_what_cannot_be_known_is_refused(make_he_model):
    model = make_he_model()
    aux, inputs = answered(model, example("no picture"))
    with pytest.raises(OLMoInputError, match="shows no picture"):
        kept_patches(aux, inputs, model.config)
    aux, inputs = answered(model, example("what?", picture()))
    del inputs["metadata"]["images"]
    with pytest.raises(OLMoInputError, match="include_image=True"):
        kept_patches(aux, inputs, model.config)


def test_crops_that_were_not_encoded_have_no_tokens(make_he_model):
    hasty = make_he_model(encode="selected_crops", **CROPS)
    aux, inputs = answered(hasty, example("what?", picture(250, 250)))
    [shown] = kept_patches(aux, inputs, hasty.config)
    n_kept, n_tokens = count_kept(aux, inputs, hasty.config)
    assert int(shown.is_kept.sum()) == n_kept == -(-n_tokens // 4)
    assert n_kept < len(shown.is_kept) < n_tokens


def test_frames_that_were_left_out_have_no_tokens(make_he_model):
    choosy = make_he_model(frame_selection="query", candidate_frames=8, max_frames=3, time_mode="none")
    aux, inputs = answered(choosy, asked(video(8)))
    frames = kept_patches(aux, inputs, choosy.config)
    assert len(frames) == 8
    assert sorted(len(frame.is_kept) for frame in frames) == [0] * 5 + [4] * 3
    assert sum(int(frame.is_kept.sum()) for frame in frames) == 3
