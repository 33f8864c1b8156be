"""The points of a scene's objects as Molmo writes them."""

from __future__ import annotations

from olmo.data.scenes.scene import Scene

NONE_THERE = "There are none."

Point = tuple[float, float]


def kind_points(scene: Scene, name: str) -> list[Point]:
    """Points in percent of every object of a kind, from left to right, then from top to bottom."""
    return sorted((o.point for o in scene.of(name)), key=lambda p: p[0] * 10000 + p[1])


def point_text(points: list[Point], singular: str, plural: str) -> str:
    """Molmo's text for sorted points in percent; "There are none." for no point."""
    if not points:
        return NONE_THERE
    if len(points) == 1:
        x, y = points[0]
        return f'<point x="{x:.1f}" y="{y:.1f}" alt="{singular}">{singular}</point>'
    numbers = " ".join(f'x{i}="{x:.1f}" y{i}="{y:.1f}"' for i, (x, y) in enumerate(points, start=1))
    return f'<points {numbers} alt="{plural}">{plural}</points>'
