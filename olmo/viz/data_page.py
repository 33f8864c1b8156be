"""The data page: what a model really sees of its training data, as one HTML file that needs nothing else.

The page runs no code and loads nothing, also not what the data asks for: all text is escaped, and its content policy
allows embedded pictures alone.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from olmo.preprocessing import points as point_text
from olmo.preprocessing.preprocessor import Preprocessor
from olmo.viz.page_frames import FRAME_SECONDS, frames_html
from olmo.viz.page_pictures import pictures_html
from olmo.viz.page_tokens import learned_texts, tokens_html
from olmo.viz.seen_example import SeenExample

MAX_GIVEN_CHARACTERS = 4000
"""Longest raw example that is shown in full."""

_STYLE = """
:root { color-scheme: light; font: 15px/1.5 system-ui, sans-serif; color: #1f2430; background: #f6f7f9; }
body { max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
section { background: #fff; border: 1px solid #dde1e8; border-radius: 8px; padding: 1rem 1.25rem; margin: 1.25rem 0; }
section.bad { border-color: #d9480f; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin: 0 0 .25rem; }
.facts, figcaption, .segment-name { color: #5b6472; font-size: .82rem; }
.warning { color: #b02a0c; font-weight: 600; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; }
th, td { text-align: right; padding: .2rem .6rem; border-bottom: 1px solid #e7eaef; }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left; }
figure { margin: 0; } img { display: block; max-width: 100%; border: 1px solid #ccd2db; }
.picture-row { display: flex; flex-wrap: wrap; gap: 1rem; margin: .75rem 0; align-items: flex-start; }
.tiles { display: grid; gap: 4px; } .tiles img { max-width: 170px; }
.frames { display: flex; flex-wrap: wrap; gap: 6px; margin: .5rem 0; } .frames img { max-width: 170px; }
.tokens { font: 13px/1.9 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere;
  border-left: 4px solid #c5ccd6; padding: .15rem .6rem; margin: .35rem 0; }
.segment-name { display: block; font-family: system-ui, sans-serif; }
.t { border-right: 1px solid #eceff3; }
.learned { background: rgb(30 150 80 / calc(.12 + .43 * var(--w))); }
.special { color: #8a2be2; } .picture { background: #dbe7ff; border-radius: 4px; padding: 0 .5em; }
.s0 { border-color: #2563eb; } .s1 { border-color: #d9480f; } .s2 { border-color: #0f9d58; }
.s3 { border-color: #9333ea; } .s4 { border-color: #b8860b; } .s5 { border-color: #c2255c; }
details { margin: .5rem 0; } pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .82rem; }
"""

_LEGEND = """
<p class="facts">Pictures and frames are those that the encoder gets, with the normalisation undone; dark patches are
padding. Points are those of the learned answers, drawn on the original. <span class="t learned" style="--w:1">Green
</span> tokens are learned, the deeper the more they weigh; each is predicted from the token before it.
<span class="t special">Violet</span> ones are special tokens. Point at a token to see its position, id and weight.
Several conversations on one picture stand in blocks: the tokens of each see what is shared and their own, never those
of another. Wordings and prefixes are drawn as in training, with the seed above.</p>
"""


def data_page(examples: Sequence[SeenExample], preprocess: Preprocessor, title: str, facts: Mapping[str, Any]) -> str:
    """The page.

    Args:
        examples: what to show, in order.
        preprocess: what made their inputs.
        title: heading of the page.
        facts: what else a reader should know: model, seed, limits.

    Returns:
        A whole HTML document.
    """
    about = " &middot; ".join(f"{html.escape(name)}: {html.escape(str(value))}" for name, value in facts.items())
    body = [f"<h1>{html.escape(title)}</h1>", f'<p class="facts">{about}</p>', _LEGEND, _overview(examples)]
    body += [_section(number, example, preprocess) for number, example in enumerate(examples, start=1)]
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n"
        "</body></html>\n"
    )


def _overview(examples: Sequence[SeenExample]) -> str:
    """A table with one row an example, and the sums."""
    usable = [e for e in examples if e.inputs is not None]
    n_tokens, n_learned = sum(e.n_tokens for e in usable), sum(e.n_learned for e in usable)
    share = f", {n_learned / n_tokens:.1%} of {n_tokens:,} tokens learned" if n_tokens else ""
    n_cut = sum(1 for e in usable if e.n_cut)
    cut = f', <span class="warning">{n_cut} cut</span>' if n_cut else ""
    bad = len(examples) - len(usable)
    unusable = f', <span class="warning">{bad} cannot be used</span>' if bad else ""
    rows = [_table_row(number, e) for number, e in enumerate(examples, start=1)]
    heads = ("example", "tokens", "crops", "learned", "weight", "cut", "style")
    return (
        f"<section><h2>{len(examples)} examples{share}{cut}{unusable}</h2><table><tr>"
        + "".join(f"<th>{head}</th>" for head in heads)
        + "</tr>"
        + "\n".join(rows)
        + "</table></section>"
    )


def _table_row(number: int, example: SeenExample) -> str:
    place = f'<a href="#e{number}">{html.escape(example.place)}</a>'
    if example.inputs is None:
        return f'<tr><td>{place}</td><td colspan="6" class="warning">cannot be used</td></tr>'
    cells = (example.n_tokens, example.n_crops, example.n_learned, f"{example.weight:.4g}", example.n_cut or "")
    numbers = "".join(f"<td>{cell}</td>" for cell in cells)
    return f"<tr><td>{place}</td>{numbers}<td>{html.escape(_styles(example))}</td></tr>"


def _section(number: int, example: SeenExample, preprocess: Preprocessor) -> str:
    heading = f'<h2 id="e{number}">{html.escape(example.place)}</h2>'
    if example.inputs is None:
        error = f'<p class="warning">{html.escape(example.error)}</p>'
        return f'<section class="bad">{heading}{error}{_given(example)}</section>'
    parts = [heading, f'<p class="facts">{_facts(example)}</p>', *_warnings(example)]
    texts = learned_texts(example.inputs, preprocess.tokenizer)
    if example.n_crops:
        assert preprocess.image_spec is not None, "the preprocessor refuses pictures otherwise"
        if FRAME_SECONDS in example.inputs["metadata"]:
            parts.append(frames_html(example.inputs, preprocess.image_spec))
        else:
            points = [point for text in texts for point in point_text.parse(text)]
            parts.append(pictures_html(example.inputs, points, preprocess.image_spec, preprocess.config))
    parts.append(tokens_html(example.inputs, preprocess.tokenizer))
    answers = "\n\n".join(html.escape(text) for text in texts)
    parts.append(f"<details><summary>answers to learn ({len(texts)})</summary><pre>{answers}</pre></details>")
    return f"<section>{''.join(parts)}{_given(example)}</section>"


def _facts(example: SeenExample) -> str:
    facts = [
        f"{example.n_tokens} tokens",
        f"{example.n_learned} learned",
        f"weight {example.weight:.4g}",
        f"{example.n_crops} {'frames' if FRAME_SECONDS in (example.inputs or {})['metadata'] else 'crops'}",
    ]
    styles = _styles(example)
    return " &middot; ".join([*facts, *([html.escape(f"style {styles}")] if styles else [])])


def _warnings(example: SeenExample) -> Iterable[str]:
    if example.n_cut:
        yield f'<p class="warning">the last {example.n_cut} of {example.n_uncut} tokens do not fit and are cut</p>'
    if not example.n_learned:
        yield '<p class="warning">nothing is learned from this example</p>'


def _styles(example: SeenExample) -> str:
    style = (example.inputs or {})["metadata"].get("style")
    named = style if isinstance(style, list) else [style]
    return ", ".join(dict.fromkeys(str(s) for s in named if s is not None))


def _given(example: SeenExample) -> str:
    """The example as it was given; pictures by their kind."""
    if not example.given:
        return ""
    text = json.dumps(dict(example.given), indent=1, ensure_ascii=False, default=lambda v: f"<{type(v).__name__}>")
    if len(text) > MAX_GIVEN_CHARACTERS:
        text = f"{text[:MAX_GIVEN_CHARACTERS]}\n... {len(text) - MAX_GIVEN_CHARACTERS} characters more"
    return f"<details><summary>as given</summary><pre>{html.escape(text)}</pre></details>"
