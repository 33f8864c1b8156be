"""Whether an example can be trained on, without a model: its form, what it shows, its points and its answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.data_formatter import DataFormatter
from olmo.preprocessing.image import load_image
from olmo.preprocessing.messages import Conversation, parse_example
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig
from olmo.preprocessing.video.check import check_videos


def check_example(
    example: Mapping[str, Any],
    is_decoded: bool = True,
    needs_answer: bool = True,
    max_pixels: int | None = None,
) -> list[str | None]:
    """Raise for what would stop a run, or teach it something wrong.

    Args:
        example: as a source gives it.
        is_decoded: decode the pictures, and count the frames of videos and decode one; False only looks whether the
            files are there.
        needs_answer: each conversation must end with an answer, or with what one can be written from.
        max_pixels: largest picture; by default that of the preprocessor.

    Returns:
        Style of each conversation.

    Raises:
        OLMoInputError: the example cannot be used; the message says why and what to do.
    """
    parsed = parse_example(example, takes_video=True)
    if parsed.videos:
        check_videos(parsed, is_decoded)
    sizes = [_size_of(image, is_decoded, max_pixels or MolmoPreprocessorConfig().max_pixels) for image in parsed.images]
    first = sizes[0] if sizes else None
    for number, conversation in enumerate(parsed.conversations):
        where = f"conversation {number}: " if len(parsed.conversations) > 1 else ""
        try:
            if needs_answer and not conversation.has_target:
                raise OLMoInputError(
                    "there is no answer to learn from; add the assistant's message, 'answer', 'answers', 'answer_idx' "
                    "or 'points'"
                )
            _check_points(conversation, first, bool(parsed.images))
            if needs_answer and (first is not None or conversation.points is None):
                DataFormatter().format_conversation(conversation, first, None, for_inference=False)
        except OLMoInputError as error:
            raise OLMoInputError(f"{where}{error}") from None
    return [conversation.style for conversation in parsed.conversations]


def _size_of(image: Any, is_decoded: bool, max_pixels: int) -> tuple[int, int] | None:
    """Width and height of a picture in pixels; None where it was not decoded."""
    if is_decoded:
        height, width = load_image(image, max_pixels).shape[:2]
        return width, height
    if isinstance(image, str | Path) and not Path(image).is_file():
        raise OLMoInputError(f"image file {str(image)!r} does not exist; check the path")
    return None


def _check_points(conversation: Conversation, size: tuple[int, int] | None, has_picture: bool) -> None:
    if conversation.points is None:
        return
    if not has_picture:
        raise OLMoInputError("'points' need a picture to lie on")
    scale = conversation.point_scale
    extent = size if scale is None else (scale, scale)
    for x, y in conversation.points if extent is not None else ():
        assert extent is not None, "there is nothing to go through otherwise"
        if not (0 <= x <= extent[0] and 0 <= y <= extent[1]):
            unit = "pixels" if scale is None else f"a scale of {scale:g}"
            hint = '; percent need "point_scale": 100' if scale is None else ""
            raise OLMoInputError(
                f"point ({x:g}, {y:g}) is outside the picture, which is {extent[0]:g} x {extent[1]:g} in {unit}{hint}"
            )
