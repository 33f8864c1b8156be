"""What an answer is told with besides its text: where its points stand in it, and what was kept of the pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from olmo.models.base import ModelBase
from olmo.models.he_molmo.he_molmo_config import HeMolmoConfig
from olmo.models.he_molmo.kept_patches import count_kept, kept_on_sizes
from olmo.models.video_olmo.video_olmo_config import VideoOlmoConfig
from olmo.preprocessing.points import parse_tags, to_pixels
from olmo.serve.serve_config import ServeConfig

Sizes = Sequence[tuple[int, int]]

_SELECTION = "selection_"  # what `aux` of a HeMolmo tells of its choice begins with
_DIGITS = 4


class SelectionNote:
    """Remembers what a model told of its choice among the picture tokens of one request.

    Args:
        model: the model that is asked.
        inputs: what its preprocessor returned for the request.
    """

    def __init__(self, model: ModelBase, inputs: Mapping[str, Any]) -> None:
        self._config, self._inputs = model.config, inputs
        self._aux: dict[str, torch.Tensor] = {}

    def hear(self, aux: Mapping[str, torch.Tensor], row: int) -> None:
        """Note the row of this request; see `olmo.engine.request.Hear`."""
        self._aux = {name: value[row : row + 1] for name, value in aux.items() if name.startswith(_SELECTION)}

    def told(self) -> dict[str, Any] | None:
        """Plain values for JSON; None where the model does not choose, or was shown nothing.

        Returns:
            `kept` and `total` picture tokens, and `pictures`: `tokens` of each, as left, top, right and bottom in
            shares of the picture (0 to 1), whether the token was kept, and whether it is one of high resolution. Frames
            of videos are counted and not listed.
        """
        if not isinstance(self._config, HeMolmoConfig) or "selection_mask" not in self._aux:
            return None
        n_kept, n_tokens = count_kept(self._aux, self._inputs, self._config)
        facts = self._inputs["metadata"]
        is_video = facts.get("frame_seconds") is not None
        shown = [] if is_video else kept_on_sizes(self._aux, self._inputs, facts["image_sizes"], self._config)
        pictures = []
        for tokens in shown:
            flags = zip(tokens.boxes.round(_DIGITS).tolist(), tokens.is_kept, tokens.is_fine, strict=True)
            pictures.append({"tokens": [[*box, int(is_kept), int(is_fine)] for box, is_kept, is_fine in flags]})
        return {"kept": n_kept, "total": n_tokens, "pictures": pictures}


def told_points(text: str, sizes: Sizes, *, with_places: bool = False) -> list[dict[str, Any]]:
    """The points of an answer as plain values.

    Args:
        text: the answer.
        sizes: width and height of each picture, in pixels.
        with_places: tell with each point where its tag stands in the text: `start` and `end`, in characters.

    Returns:
        `label`, `x` and `y` in percent; with a picture also `x_px` and `y_px`, in pixels of the first one.
    """
    told: list[dict[str, Any]] = []
    for tag in parse_tags(text):
        pixels = to_pixels(tag.points, *sizes[0]) if sizes else ()
        for number, point in enumerate(tag.points):
            entry: dict[str, Any] = {"label": point.label, "x": point.x, "y": point.y}
            if pixels:
                x, y = pixels[number]
                entry |= {"x_px": round(x, 2), "y_px": round(y, 2)}
            told.append(entry | ({"start": tag.start, "end": tag.end} if with_places else {}))
    return told


def told_sizes(sizes: Sizes) -> list[dict[str, int]]:
    """Sizes of pictures as plain values."""
    return [{"width": width, "height": height} for width, height in sizes]


def told_abilities(model: ModelBase, config: ServeConfig) -> dict[str, Any]:
    """What `/v1/models` says of a model under `olmo`.

    Args:
        model: the model.
        config: limits of the server.
    """
    own = model.config
    has_eyes = own.vision_backbone is not None
    return {
        "takes_pictures": has_eyes,
        "takes_videos": has_eyes and isinstance(own, VideoOlmoConfig),
        "selection_ratio": own.selection_ratio if isinstance(own, HeMolmoConfig) else None,
        "max_media_bytes": config.max_media_bytes,
    }
