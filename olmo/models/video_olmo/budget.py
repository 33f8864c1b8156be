"""What videos cost, before anything is run: frames, tokens, and operations of one forward pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
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
    kinds = Counter((True, grid, *spec.pool_of(frame // spec.stride)) for frame in range(n_frames))
    seen = crop_flops(config, kinds)
    llm = forward_flops(config, n_tokens=n_tokens, n_pairs=n_tokens**2, n_logits=1).llm
    return VideoBudget(
        n_frames, grid * image.patch_size, n_tokens, Flops(vit=seen.vit, connector=seen.connector, llm=llm)
    )


CropKind = tuple[bool, int, int, int]
"""What decides the cost of a crop: whether it is a frame, patches a side, height and width of a pooling window."""


def crop_kinds(facts: Iterable[Iterable[float]]) -> Counter[CropKind]:
    """How many crops there are of each kind.

    Args:
        facts: of each crop that feeds a token: seconds (below 0 for a picture), patches a side, height and width of a
            pooling window.
    """
    return Counter((seconds >= 0, int(grid), int(high), int(wide)) for seconds, grid, high, wide in facts)


def crop_flops(config: VideoOlmoConfig, kinds: Mapping[CropKind, int]) -> Flops:
    """Operations of picture encoder and connector on crops of pictures and on frames, each at its own pooling.

    Args:
        config: the model.
        kinds: how many crops of each kind.
    """
    vision = config.vision_backbone
    if vision is None:
        return Flops()
    # Where pictures are not pooled, frames are averaged.
    of_frames = ImagePooling.mean if vision.image_pooling_2d is ImagePooling.none else vision.image_pooling_2d
    vit = connector = 0.0
    for (is_frame, grid, high, wide), n in kinds.items():
        shown = vision
        if is_frame:
            shown = vision.replace(
                vit=vision.vit.replace(image_size=grid * vision.vit.spec.patch_size),
                image_pooling_2d=of_frames,
                image_pooling_h=high,
                image_pooling_w=wide,
            )
        vit += n * vit_flops(shown)
        connector += n * connector_flops(shown, config.llm)
    return Flops(vit=vit, connector=connector)
