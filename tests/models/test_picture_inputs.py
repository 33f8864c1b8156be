"""Pictures, masks and positions that cannot be meant."""

from __future__ import annotations

import torch
from tiny import example, forward_error, picture


def test_pictures_that_cannot_be_meant(model, inputs):
    ids, images, masks, index = (inputs[k] for k in ("input_ids", "images", "image_masks", "image_input_idx"))
    both_forms = "fit neither form: normalised float pixels \\[B, N, 3, 56, 56\\] or patches \\[B, N, 16, 588\\]"
    for wrong in (images.to(torch.uint8), images[..., :42], images[:, :1], torch.zeros(4, 16, 100)):
        forward_error(model, both_forms, ids, wrong)
    forward_error(model, "images must be a tensor, got ndarray", ids, picture())
    forward_error(model, "image_masks must be a tensor, got list", ids, images, masks.tolist())
    forward_error(model, "image_input_idx must be a tensor, got list", ids, images, masks, index.tolist())
    forward_error(model, "do not fit a batch of 1", ids, images[None].repeat(2, 1, 1, 1, 1))
    for value in (float("nan"), float("inf")):
        spoiled = images.clone()
        spoiled[1, 2, 3, 4] = value
        forward_error(model, "NaN or infinite", ids, spoiled)
    forward_error(
        model, "image_masks of shape \\(4, 9\\) does not fit: wanted \\[1, 4, 16\\]", ids, images, masks[:, :9]
    )
    forward_error(model, "image_input_idx of shape .* wanted \\[1, 4, 4\\]", ids, images, masks, index[None, :3])
    forward_error(model, "points at position 999 of a sequence of", ids, images, masks, index.clone().fill_(999))
    forward_error(model, "must be integers", ids, images, masks, index.float())
    forward_error(model, "pictures begin at \\[7\\], but in input_ids they begin at \\[1\\]", ids, images, masks,
                  torch.tensor([7]))  # fmt: skip
    forward_error(model, "begin at \\[1, 30\\]", ids, images, masks, torch.tensor([1, 30]))
    forward_error(model, "tokens of 4 crops, but images has 2", ids, images[:2])
    forward_error(model, "picture was cut", ids[:12], images)


def test_without_column_tokens_positions_must_be_given(make_model):
    model = make_model(mm_preprocessor__use_col_tokens=False)
    inputs = model.config.build_preprocessor(for_inference=True)(example("what?", picture(60, 100)))
    forward_error(model, "long form", inputs["input_ids"], inputs["images"])
    with torch.no_grad():
        assert model(**inputs).logits.shape[1] == len(inputs["input_ids"])
