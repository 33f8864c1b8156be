"""Frames of an example's videos as HTML: those that were chosen, with their times, as the picture encoder gets them."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from PIL import Image

from olmo.preprocessing.image import ImageSpec
from olmo.viz.page_pictures import crop_pixels, data_uri

FRAME_SECONDS = "frame_seconds"
"""Key of the metadata of an example with videos: the times of each video's frames."""


def frames_html(inputs: Mapping[str, Any], spec: ImageSpec) -> str:
    """The frames of each video in order of time, with the tokens that each feeds.

    Args:
        inputs: one example of a `VideoPreprocessor` with videos, made with `include_image`.
        spec: what the encoder wants of a picture.
    """
    originals, metadata = inputs["metadata"]["images"], inputs["metadata"]
    kept = (inputs["image_input_idx"] >= 0).sum(dim=1).tolist()
    grids = inputs["frame_facts"][:, 1].long().tolist()
    parts = []
    first = 0
    for number, seconds in enumerate(metadata[FRAME_SECONDS], start=1):
        height, width = originals[first].shape[:2]
        figures = []
        for frame, time_s in enumerate(seconds, start=first):
            side = grids[frame] * spec.patch_size
            pixels = inputs["images"][frame : frame + 1, :, :side, :side].numpy()
            masks = inputs["image_masks"][frame : frame + 1, : grids[frame] ** 2].numpy()
            shown = Image.fromarray(crop_pixels(pixels, masks, replace(spec, image_size=side))[0])
            figures.append(
                f'<figure><img src="{data_uri(shown)}" alt="frame at {time_s:.2f} s">'
                f"<figcaption>{time_s:.2f} s: {kept[frame]} tokens</figcaption></figure>"
            )
        name = html.escape(f"video {number}, {width} x {height}, {len(seconds)} frames")
        parts.append(f'<p class="facts">{name}</p><div class="frames">{"".join(figures)}</div>')
        first += len(seconds)
    return "\n".join(parts)
