"""What a video costs, before anything is run: frames, tokens, and operations of one forward pass."""

from __future__ import annotations

from dataclasses import dataclass

from olmo.exceptions import OLMoInputError
from olmo.models.flops import Flops, connector_flops, forward_flops, vit_flops
from olmo.models.video_olmo.video_olmo_config import VideoOlmoConfig
from olmo.nn.vision_config import ImagePooling
from olmo.preprocessing.video.frame_budget import count_frame_tokens, frame_grid, n_blocks

TIME_TOKENS = 7
"""Tokens of the time before a frame, where it is not known: `123.4 ` in a tokenizer that has one for each sign."""


@dataclass(frozen=True)
class VideoBudget:
    """Cost of one video."""

    n_frames: int
    """Frames that are encoded."""

    resolution: int
    """Side of a frame, in pixels."""

    n_tokens: int
    """Tokens of the whole prompt in the language model."""

    flops: Flops
    """Operations of the forward pass over the prompt, logits for its last token."""


def video_budget(
    config: VideoOlmoConfig, n_frames: int, *, n_text_tokens: int, n_time_tokens: int = TIME_TOKENS
) -> VideoBudget:
    """Cost of a video with its question.

    Args:
        config: the model.
        n_frames: frames that the video has; more than the model takes are not read.
        n_text_tokens: tokens of the question and of the answer that is to fit too.
        n_time_tokens: tokens of the text before each block.

    Raises:
        OLMoInputError: the model takes no pictures, or the video does not fit its context; the message says what would.
    """
    vision, image, spec = config.vision_backbone, config.image_spec, config.video_spec
    if vision is None or image is None:
        raise OLMoInputError("this model has no vision backbone (vision_backbone is null); it takes text only")
    n_frames = min(n_frames, spec.n_frames)
    times = [n_time_tokens] * n_blocks(n_frames, spec)
    has_cols = config.mm_preprocessor.use_col_tokens
    room = config.llm.max_sequence_length - 1 - n_text_tokens
    grid = frame_grid(n_frames, spec, image, has_cols, times, room)
    n_tokens = 1 + n_text_tokens + count_frame_tokens(n_frames, grid, spec, has_cols, times)
    if vision.image_pooling_2d is ImagePooling.none:  # frames are averaged then
        vision = vision.replace(image_pooling_2d=ImagePooling.mean)
    vit = connector = 0.0
    for frame in range(n_frames):
        height, width = spec.pool_of(frame // spec.stride)
        shown = vision.replace(
            vit=vision.vit.replace(image_size=grid * image.patch_size), image_pooling_h=height, image_pooling_w=width
        )
        vit += vit_flops(shown)
        connector += connector_flops(shown, config.llm)
    llm = forward_flops(config, n_tokens=n_tokens, n_pairs=n_tokens**2, n_logits=1).llm
    return VideoBudget(n_frames, grid * image.patch_size, n_tokens, Flops(vit=vit, connector=connector, llm=llm))
