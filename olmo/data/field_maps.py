"""Which columns of a published dataset mean what, as data. Adding a dataset is adding an entry to `FIELD_MAPS`.

Sources: the dataset cards on the Hugging Face hub, and for styles, point scales and weights the mixtures of Molmo v1.
The repositories named here are those that hold plain files, because `datasets` runs no loading scripts any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_HUMAN, _MACHINE = 7_398, 20_901
"""Training rows of ChartQA that people wrote, and that a program did."""


@dataclass(frozen=True, kw_only=True)
class ConversationFields:
    """Columns that make up one conversation; None: the dataset has no such column.

    Attributes:
        style: style of the conversation.
        messages: a list of `{"role", "content"}`.
        question: what is asked.
        answer: the answer's text, or a list of texts of which one is drawn for each row and pass.
        answers: what several people answered: texts, or records with the text under `answer` or `raw_answer`.
        options: choices of a multiple-choice question.
        answer_idx: the right choice: an index from 0 (also as text), or a letter.
        label: what is pointed at.
        points: a list of `{"x", "y"}`, or one record of lists.
        point_scale: coordinate of the far edge (100: percent); None: points are in pixels.
    """

    style: str | None = None
    messages: str | None = None
    question: str | None = None
    answer: str | None = None
    answers: str | None = None
    options: str | None = None
    answer_idx: str | None = None
    label: str | None = None
    points: str | None = None
    point_scale: float | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""
        named = (self.messages, self.question, self.answer, self.answers, self.options, self.answer_idx)
        return tuple(c for c in (*named, self.label, self.points) if c is not None)


@dataclass(frozen=True, kw_only=True)
class FieldMap:
    """How rows of a dataset become examples.

    Attributes:
        repository: hub id.
        subset: configuration of the repository, where it has several.
        image: column of the picture: a picture, a path, or a URL that `molmo data download` has fetched.
        images: column of a list of pictures, in place of `image`.
        image_hash: column of the SHA-256 of the file behind a URL.
        conversations: one for each conversation that a row gives.
        group_by: column whose equal values mean the same picture.
        group_size: most rows of one picture that become one example.
        weight: column of a loss weight.
        weight_of: a column, and the loss weight that goes with each of its values.
        keep: columns that go into the example's metadata.
    """

    repository: str | None = None
    subset: str | None = None
    image: str | None = "image"
    images: str | None = None
    image_hash: str | None = None
    conversations: tuple[ConversationFields, ...]
    group_by: str | None = None
    group_size: int = 1
    weight: str | None = None
    weight_of: tuple[str, Mapping[int | str, float]] | None = None
    keep: tuple[str, ...] = field(default=())

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that must be there; those to keep may be missing."""
        named = [self.image, self.images, self.group_by, self.weight, self.weight_of[0] if self.weight_of else None]
        return (*(c for c in named if c is not None), *(c for part in self.conversations for c in part.columns))


_CAPTION = ConversationFields(style="long_caption", answer="caption")

FIELD_MAPS: dict[str, FieldMap] = {
    "pixmo_cap": FieldMap(
        repository="allenai/pixmo-cap", image="image_url", conversations=(_CAPTION,), keep=("image_url",)
    ),
    # Caption pretraining: the caption and one of the spoken descriptions it was made from, as a tree.
    "pixmo_cap_with_transcripts": FieldMap(
        repository="allenai/pixmo-cap",
        image="image_url",
        conversations=(_CAPTION, ConversationFields(style="transcript", answer="transcripts")),
        keep=("image_url",),
    ),
    # The card calls the points pixels; they are percent of width and height, and v1 reads them so.
    "pixmo_points": FieldMap(
        repository="allenai/pixmo-points",
        image="image_url",
        image_hash="image_sha256",
        conversations=(ConversationFields(style="pointing", label="label", points="points", point_scale=100.0),),
        group_by="image_url",
        group_size=16,
        keep=("image_url", "collection_method"),
    ),
    # Points are in pixels here, and only the training split has them.
    "pixmo_count": FieldMap(
        repository="allenai/pixmo-count",
        image="image_url",
        image_hash="image_sha256",
        conversations=(ConversationFields(style="point_count", label="label", points="points"),),
        keep=("image_url", "count", "label"),
    ),
    "pixmo_ask_model_anything": FieldMap(
        repository="allenai/pixmo-ask-model-anything",
        image="image_url",
        image_hash="image_sha256",
        conversations=(ConversationFields(style="user_qa", question="question", answer="answer"),),
        group_by="image_url",
        group_size=16,
        keep=("image_url",),
    ),
    # This repository has no training split; one in the same columns is read as well.
    "vqa2": FieldMap(
        repository="lmms-lab/VQAv2",
        conversations=(ConversationFields(style="vqa2", question="question", answers="answers"),),
        group_by="image_id",
        group_size=16,
        keep=("image_id", "question_id", "answers", "answer_type"),
    ),
    # Weights make both parts count the same. The column is 0 for people and 1 for the program.
    "chart_qa": FieldMap(
        repository="HuggingFaceM4/ChartQA",
        conversations=(ConversationFields(style="chart_qa", question="query", answers="label"),),
        weight_of=(
            "human_or_machine",
            {0: 2 * _MACHINE / (_HUMAN + _MACHINE), 1: 2 * _HUMAN / (_HUMAN + _MACHINE)},
        ),
        keep=("human_or_machine", "label"),
    ),
    "doc_qa": FieldMap(
        repository="HuggingFaceM4/DocumentVQA",
        conversations=(ConversationFields(style="doc_qa", question="question", answers="answers"),),
        keep=("questionId", "answers"),
    ),
    "text_vqa": FieldMap(
        repository="lmms-lab/textvqa",
        conversations=(ConversationFields(style="text_vqa", question="question", answers="answers"),),
        keep=("image_id", "question_id", "answers"),
    ),
    # The hub has the test split in this form.
    "ai2d": FieldMap(
        repository="lmms-lab/ai2d",
        conversations=(
            ConversationFields(style="ai2_diagram", question="question", options="options", answer_idx="answer"),
        ),
        keep=("options", "answer"),
    ),
}
"""Field maps by name."""

_CONVERSATION_ROLES = ("messages", "question", "answer", "answers", "options", "answer_idx", "label", "points")

COLUMN_ROLES = ("image", "images", *_CONVERSATION_ROLES, "weight")
"""What a column of a person's own dataset may hold."""


def own_field_map(columns: Mapping[str, str], style: str | None, point_scale: float | None) -> FieldMap:
    """The field map of a dataset whose columns a recipe names.

    Args:
        columns: column by role; the roles are `COLUMN_ROLES`.
        style: style of the conversations; points alone default to `pointing`.
        point_scale: coordinate of the far edge; None: points are in pixels.
    """
    conversation = ConversationFields(
        style=style or ("pointing" if "points" in columns else None),
        point_scale=point_scale,
        **{role: columns[role] for role in _CONVERSATION_ROLES if role in columns},
    )
    return FieldMap(
        image=columns.get("image"),
        images=columns.get("images"),
        conversations=(conversation,),
        weight=columns.get("weight"),
    )
