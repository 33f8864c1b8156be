"""One page that shows how an evaluation went: figures, and questions with what they show, those answered worst first.

The page stands alone: pictures are inside it, it loads nothing and runs no script. What a model wrote is shown as text,
never as markup.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from olmo.data.source import Source
from olmo.eval.report_frames import report_sheet
from olmo.eval.runner import EvalResult
from olmo.eval.scoring import ScoredItem
from olmo.io import write_atomic
from olmo.preprocessing.image import load_image
from olmo.preprocessing.messages import parse_example
from olmo.preprocessing.points import parse, to_pixels
from olmo.viz.points import draw

MAX_SIDE_PX = 400
MAX_CHARACTERS = 2000
_GREEN, _DARK = (0, 190, 90), (20, 20, 24)

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #1b1b1f }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left }
td.number { text-align: right; font-variant-numeric: tabular-nums }
article { display: flex; gap: 1.2rem; border-top: 1px solid #ddd; padding: 1rem 0; flex-wrap: wrap }
article img { max-width: 400px } article img.frames { max-width: 700px }
article img { height: auto; align-self: flex-start } article div { flex: 1; min-width: 18rem }
dt { color: #666; font-size: .85em } dd { margin: 0 0 .6rem; white-space: pre-wrap; overflow-wrap: anywhere }
.wrong { color: #b3261e } .right { color: #146c2e }
"""


def write_report(result: EvalResult, source: Source, path: str | Path, max_questions: int = 40) -> None:
    """Write the page.

    Args:
        result: what the evaluation found.
        source: the data it asked about, for the pictures.
        path: file to write.
        max_questions: questions shown at most, half of them with answers that are not right.
    """
    title = html.escape(f"{result.task} - {result.model}")
    wrong, right = _chosen(result, max_questions)
    parts = [
        '<!doctype html><html lang="en"><meta charset="utf-8">',
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; style-src '
        "'unsafe-inline'\">",
        f"<title>{title}</title><style>{_STYLE}</style><h1>{title}</h1>",
        f"<p>{len(result.scored)} questions. Rings are where the model points, green crosses are where it should.</p>",
        _figures(result),
    ]
    for heading, shown in (("Not right, the worst first", wrong), ("Right", right)):
        if shown:
            parts.append(f"<h2>{heading}</h2>")
            parts += [_card(one, source, is_right=shown is right) for one in shown]
    write_atomic(path, "\n".join(parts) + "\n</html>\n")


def _chosen(result: EvalResult, n: int) -> tuple[list[ScoredItem], list[ScoredItem]]:
    """Answers that are not wholly right and such that are, half and half where there are enough of both."""
    ranked = sorted(result.scored, key=lambda one: _main_score(one, result.main))
    wrong = [one for one in ranked if _main_score(one, result.main) < 1]
    right = ranked[len(wrong) :]
    n_wrong = min(len(wrong), max(n // 2, n - len(right)))
    return wrong[:n_wrong], right[: n - n_wrong]


def _main_score(one: ScoredItem, main: Sequence[str]) -> float:
    known = [one.scores[name] for name in main if name in one.scores]
    # What no main figure concerns counts by all its figures.
    return sum(known or one.scores.values()) / max(1, len(known or one.scores))


def _figures(result: EvalResult) -> str:
    rows = "".join(
        f"<tr><td>{'<b>' if name in result.main else ''}{html.escape(name)}{'</b>' if name in result.main else ''}</td>"
        f'<td class="number">{value:.4f}</td><td class="number">{result.counts[name]}</td></tr>'
        for name, value in result.scores.items()
    )
    return f"<table><tr><th>figure</th><th>mean</th><th>of</th></tr>{rows}</table>"


def _card(one: ScoredItem, source: Source, is_right: bool) -> str:
    item = one.item
    reference = item.reference
    truth = list(dict.fromkeys(reference.answers))
    if reference.options and reference.answer_idx is not None:
        truth = [reference.options[reference.answer_idx]]
    elif not truth and reference.points is not None:
        truth = [f"{len(reference.points)} points"]
    scores = ", ".join(f"{name} {value:g}" for name, value in one.scores.items())
    facts = (
        ("question", "", item.prompt),
        ("answer", "right" if is_right else "wrong", one.prediction or "(nothing)"),
        ("right", "", " | ".join(truth) or "(not given)"),
        ("scores", "", scores),
        ("row", "", source.place(item.row)),
    )
    listed = "".join(f'<dt>{name}</dt><dd class="{kind}">{_shown(text)}</dd>' for name, kind, text in facts)
    return f"<article>{_pictures(one, source)}<div><dl>{listed}</dl></div></article>"


def _shown(text: str) -> str:
    return html.escape(text if len(text) <= MAX_CHARACTERS else text[:MAX_CHARACTERS] + " ...")


def _pictures(one: ScoredItem, source: Source) -> str:
    """The pictures of a question, points drawn on the first, or the frames that the model was shown."""
    shown = parse_example(source.at(one.item.row), takes_video=True)
    times = one.item.frame_seconds or ((),) * len(shown.videos)
    sheets = [
        _image(report_sheet(video, seconds, shown.start_s, shown.end_s), "frames")
        for video, seconds in zip(shown.videos, times, strict=True)
    ]
    pictures = [_picture(image, one if number == 0 else None) for number, image in enumerate(shown.images)]
    return "".join([*sheets, *pictures])


def _picture(image: Any, one: ScoredItem | None) -> str:
    canvas = Image.fromarray(load_image(image, max_pixels=2**31))
    canvas.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
    if one is not None:
        canvas = draw(canvas, parse(one.prediction))
        _draw_truth(canvas, one)
    return _image(canvas, "picture")


def _image(canvas: Image.Image, kind: str) -> str:
    content = io.BytesIO()
    canvas.save(content, format="JPEG", quality=85)
    data = base64.b64encode(content.getvalue()).decode()
    return f'<img class="{kind}" alt="" src="data:image/jpeg;base64,{data}">'


def _draw_truth(canvas: Image.Image, one: ScoredItem) -> None:
    pen = ImageDraw.Draw(canvas)
    for x, y in to_pixels(one.item.reference.places() or [], *canvas.size):
        for width, colour in ((5, _DARK), (3, _GREEN)):
            pen.line((x - 6, y - 6, x + 6, y + 6), fill=colour, width=width)
            pen.line((x - 6, y + 6, x + 6, y - 6), fill=colour, width=width)
