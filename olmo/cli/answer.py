"""One answer as it is handed out: text, points, JSON, and the picture with the points drawn on it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from olmo.exceptions import OLMoInputError
from olmo.io import write_atomic
from olmo.preprocessing.points import Point, parse, to_pixels
from olmo.viz.points import draw


@dataclass(frozen=True)
class Answer:
    """What a model said about pictures. Points lie on the first one, which is the only one that models are taught."""

    text: str
    model: str
    images: tuple[str, ...] = ()
    picture: np.ndarray | None = None
    """The first picture, uint8 `[H, W, 3]`."""

    @cached_property
    def points(self) -> list[Point]:
        """Points in the text, in percent."""
        return parse(self.text)

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON.

        Returns:
            `image`, a path, a list of several or None; `model`; `text`; `points`, in percent, and with a picture in
            pixels too.
        """
        image = self.images[0] if len(self.images) == 1 else list(self.images) or None
        return {"image": image, "model": self.model, "text": self.text, "points": self._plain_points()}

    def _plain_points(self) -> list[dict[str, Any]]:
        plain: list[dict[str, Any]] = [{"label": p.label, "x": p.x, "y": p.y} for p in self.points]
        if self.picture is not None:
            height, width = self.picture.shape[:2]
            for point, (x, y) in zip(plain, to_pixels(self.points, width, height), strict=True):
                point |= {"x_px": round(x, 2), "y_px": round(y, 2)}
        return plain

    def save(self, path: Path) -> str:
        """Write the picture with the points drawn on it; what was at `path` is replaced at once or not at all.

        Returns:
            What was written, for the user.
        """
        assert self.picture is not None, "the command refuses to save an answer without a picture"
        write_picture(draw(self.picture, self.points), path)
        return f"{len(self.points)} point(s) drawn on {path}"


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture in the format of its name; what was there is replaced at once or not at all."""
    content = io.BytesIO()
    picture.save(content, format=picture_format(path))
    write_atomic(path, content.getvalue())


def picture_format(path: Path) -> str:
    """Pillow's name of the format to write to a file of this name.

    Raises:
        OLMoInputError: the ending says nothing, or nothing that can be written.
    """
    Image.init()
    found = Image.registered_extensions().get(path.suffix.lower())
    if found not in ("PNG", "JPEG", "WEBP"):
        raise OLMoInputError(f"cannot save a picture as {str(path)!r}; use a name that ends in .png, .jpg or .webp")
    return found
