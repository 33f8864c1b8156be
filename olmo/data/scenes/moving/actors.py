"""What things do in a clip: the actions, and how one looks at a moment. Knows nothing of clips or questions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from olmo.config import ConfigEnum
from olmo.data.scenes.art import Concept, Sprite, sprite


class Action(ConfigEnum):
    """What a thing does."""

    left = "left"
    right = "right"
    up = "up"
    down = "down"
    appear = "appear"
    vanish = "vanish"
    grow = "grow"
    shrink = "shrink"
    red = "red"
    green = "green"
    blue = "blue"
    still = "still"


PHRASES: dict[Action, str] = {
    Action.left: "moves left",
    Action.right: "moves right",
    Action.up: "moves up",
    Action.down: "moves down",
    Action.appear: "appears",
    Action.vanish: "vanishes",
    Action.grow: "grows",
    Action.shrink: "shrinks",
    Action.red: "turns red",
    Action.green: "turns green",
    Action.blue: "turns blue",
    Action.still: "stays still",
}
"""What "it" does, as answers say it."""

VERBS: dict[Action, str] = {
    Action.left: "move left",
    Action.right: "move right",
    Action.up: "move up",
    Action.down: "move down",
    Action.appear: "appear",
    Action.vanish: "vanish",
    Action.grow: "grow",
    Action.shrink: "shrink",
    Action.red: "turn red",
    Action.green: "turn green",
    Action.blue: "turn blue",
}
"""The same after "does it"."""

DIRECTIONS: dict[Action, tuple[int, int]] = {
    Action.left: (-1, 0),
    Action.right: (1, 0),
    Action.up: (0, -1),
    Action.down: (0, 1),
}
"""Columns and rows that a moving thing goes."""

COLOURS: dict[Action, tuple[int, int, int]] = {
    Action.red: (235, 45, 40),
    Action.green: (45, 190, 60),
    Action.blue: (45, 85, 235),
}
"""Colours that things turn, RGB."""

MOMENTARY = (Action.appear, Action.vanish, *COLOURS)
"""What happens from one frame to the next; the rest takes time."""

GROWTH = 1.8
"""How many times as long its sides are after a thing has grown."""

_PLAINLY = 25.0  # levels by which a colour leads in a thing of that colour
_TINT_FLOOR = 0.35  # share of the colour that even black parts take on, so that a dark thing shows its new colour too


@dataclass(frozen=True)
class Actor:
    """A thing in a clip and the one thing that it does.

    Attributes:
        concept: what it is.
        style: style of its art.
        size: longer side before turning at the first frame, px.
        angle: degrees, counter-clockwise.
        mirrored: flipped left to right before turning.
        centre: middle (x, y) in the world at the first frame, px.
        action: what it does.
        shift: columns and rows that it moves in all, px; (0, 0) unless it moves.
        begin: moment at which it begins, in frames, 0 to n - 1.
        end: moment at which it is done; equal to `begin` where it happens at once.
    """

    concept: Concept
    style: str
    size: int
    angle: int
    mirrored: bool
    centre: tuple[float, float]
    action: Action
    shift: tuple[float, float] = (0.0, 0.0)
    begin: float = 0.0
    end: float = 0.0

    def progress(self, frame: int) -> float:
        """How far it has come at a frame, 0 to 1."""
        if frame <= self.begin:
            return 0.0
        return 1.0 if frame >= self.end else (frame - self.begin) / (self.end - self.begin)

    def is_visible(self, frame: int) -> bool:
        """Whether it is there at a frame."""
        done = self.progress(frame) == 1.0
        return done if self.action is Action.appear else not done if self.action is Action.vanish else True

    def middle(self, frame: int) -> tuple[float, float]:
        """Its middle (x, y) in the world at a frame, px."""
        share = self.progress(frame)
        return self.centre[0] + share * self.shift[0], self.centre[1] + share * self.shift[1]

    def size_at(self, frame: int) -> int:
        """Its longer side at a frame, px."""
        factor = {Action.grow: GROWTH, Action.shrink: 1 / GROWTH}.get(self.action, 1.0)
        return max(4, round(self.size * factor ** self.progress(frame)))

    def drawn(self, frame: int) -> Sprite:
        """How it looks at a frame."""
        plain = sprite(self.concept.index, self.size_at(frame), self.angle, self.mirrored, self.style)
        if self.action in COLOURS and self.progress(frame) == 1.0:
            return tinted(plain, COLOURS[self.action])
        return plain


def tinted(plain: Sprite, colour: tuple[int, int, int]) -> Sprite:
    """A sprite in shades of one colour."""
    alpha = (255 - plain.rest.astype(np.float32)) / 255  # [h, w, 1]
    luma = plain.colour.astype(np.float32).mean(axis=2, keepdims=True) / 255
    shade = _TINT_FLOOR * alpha + (1 - _TINT_FLOOR) * luma
    return Sprite(colour=(shade * np.array(colour)).astype(np.uint8), rest=plain.rest, mask=plain.mask)


def visible_colours(plain: Sprite) -> list[Action]:
    """The colours that a thing can turn so that one sees it: not one that it plainly has already."""
    mean = plain.colour[plain.mask].mean(axis=0)
    lead = float(mean.max() - np.median(mean))
    return [action for channel, action in enumerate(COLOURS) if lead < _PLAINLY or channel != int(mean.argmax())]
