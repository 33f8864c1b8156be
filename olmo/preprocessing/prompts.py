"""Styles and prompt wordings, as data, and the choice of one wording.

A style names the kind of answer that is wanted (`vqa2`: a word or two; `long_caption`: a paragraph). The wordings are
our own; the released models were trained on other and more ones. Knows nothing of tokens or roles.
"""

from __future__ import annotations

import numpy as np

from olmo.exceptions import OLMoInputError

STYLE_ALIASES = {"eval_short_answer": "vqa2", "eval_multiple_choice": "a_okvqa_mc"}
"""Names used in evaluation for the style the model knows."""

DEMO_STYLES = frozenset({"point_count", "pointing", "user_qa", "long_caption"})
"""Styles a user meets in conversation; `demo_or_style` names them only now and then in training."""

UNPREFIXED_STYLES = frozenset({"android_control", "demo"})
"""Styles that never get a prefix: the prompt says it all."""

POINT_STYLES = frozenset({"pointing", "point_count"})
"""Styles whose answer is written from points."""

KNOWN_STYLES = (
    *("long_caption", "transcript", "user_qa", "synthetic_qa", "point_qa", "pointing", "point_count"),
    *("pixmo_docs_charts", "pixmo_docs_tables", "pixmo_docs_diagrams", "pixmo_docs_other"),
    *("vqa2", "okvqa", "text_vqa", "chart_qa", "doc_qa", "info_qa", "ai2_diagram", "ai2_diagram_no_letter"),
    *("a_okvqa_mc", "a_okvqa_da", "science_qa", "st_qa", "tally_qa", "tabwmp_da", "dv_qa", "figure_qa", "plot_qa"),
    *("clocks", "android_control", "demo"),
)
"""Styles the released models were trained with. Others are allowed; a model must be trained to know them."""

LONG_CAPTION_PROMPTS = (
    "Give a detailed description of this image.",
    "Write a long caption for this picture.",
    "Tell me everything you can see here.",
    "Describe the image as fully as you can.",
    "What does this photo show? Go into detail.",
    "Describe the scene, from what stands out most to the smallest detail.",
    "Explain this picture to a person who cannot see it.",
    "caption this in detail",
    "Please write a thorough description of the picture above.",
    "Go over the whole image and describe what is in it.",
    "Write a paragraph about the content of this image.",
    "What is in the image? Mention the setting, the objects and any text.",
)

POINTING_PROMPTS = (
    "Point to {label}.",
    "Point at each {label}",
    "Where is {label}? Answer with points.",
    "Please mark every instance of {label}.",
    "Find {label} in the picture.",
    "Show me the location of {label}.",
    "point: {label}",
    "I am looking for {label}. Can you point it out?",
    "Locate all of these: {label}",
    "If you see {label}, point to it.",
    "Put a point on each {label} in the image.",
    "Indicate with points where {label} can be found.",
    "Which places in the image show {label}? Point them out.",
    "Help me find {label} by pointing.",
    "{label}: where?",
    "Give me the position of every {label}.",
    "Are there any {label} here? Point to all you find.",
    "Mark the spot of {label}",
    "Pick out {label} with points, please.",
    "Look for {label} and point at what you find.",
)

POINT_COUNT_PROMPTS = (
    "How many {label} are there?",
    "Count the {label}.",
    "how many {label}",
    "What is the number of {label} in this image?",
    "Point and count: {label}",
    "Count every {label}, pointing at each one.",
    "Tell me how many {label} you can see.",
    "Give a count of {label} in the picture.",
    "Please count {label} by pointing to them.",
    "I need the total number of {label}.",
    "How many times does {label} appear here?",
    "Find all {label} and say how many there are.",
    "Number of {label}?",
    "Can you count the {label} for me?",
    "Show each {label} with a point and give the total.",
    "What count do you get for {label}?",
    "Work out how many {label} the image contains.",
    "Count up {label} in this photo.",
    "In total, how many {label} are visible?",
    "Go through the image and count {label}.",
)

TEMPLATES = {
    "long_caption": LONG_CAPTION_PROMPTS,
    "pointing": POINTING_PROMPTS,
    "point_count": POINT_COUNT_PROMPTS,
}
"""Wordings by style, for examples that bring no question of their own."""


def resolve_style(style: object) -> str | None:
    """The style the model knows `style` by, or None for none.

    Raises:
        OLMoInputError: not a plain one-line name.
    """
    if style is None:
        return None
    if not isinstance(style, str) or not style.strip() or len(style.splitlines()) != 1:
        raise OLMoInputError(f"style must be a one-line name such as {', '.join(KNOWN_STYLES[:4])}; got {style!r}")
    return STYLE_ALIASES.get(style, style)


def choose_prompt(style: str, label: str | None, rng: np.random.Generator | None) -> str:
    """A wording for `style`, filled with `label`.

    Args:
        style: one of the styles in `TEMPLATES`.
        label: what to point at or to count.
        rng: draws the wording; None takes the first.

    Raises:
        OLMoInputError: the wordings need a label and there is none.
    """
    wordings = TEMPLATES[style]
    wording = wordings[0] if rng is None else wordings[int(rng.integers(len(wordings)))]
    if "{label}" not in wording:
        return wording
    if not label:
        raise OLMoInputError(f"an example of style {style!r} needs a question or a 'label' that says what to point at")
    return wording.replace("{label}", label)
