"""Which columns of a published dataset mean what, as data. Adding a dataset is adding an entry to `FIELD_MAPS`.

Sources: the dataset cards on the Hugging Face hub, and for styles, point scales and weights the mixtures of Molmo v1.
The repositories named here are those that hold plain files, because `datasets` runs no loading scripts any more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from olmo.data.videos import VideoFolder

_HUMAN, _MACHINE = 7_398, 20_901
"""Training rows of ChartQA that people wrote, and that a program did."""


@dataclass(frozen=True, kw_only=True)
class ConversationFields:
    """Columns that make up one conversation; None: the dataset has no such column.

    Attributes:
        style: style of the conversation.
        messages: a list of `{"role", "content"}`, or as LLaVA writes it of `{"from", "value"}`.
        question: what is asked.
        answer: the answer's text, or a list of texts of which one is drawn for each row and pass.
        answers: what several people answered: texts, or records with the text under `answer` or `raw_answer`; or
            several columns with a text each.
        options: choices of a multiple-choice question, as a list, or in a column each.
        answer_idx: the right choice: an index from 0 (also as text), or a letter.
        answer_option: the right choice by its text, in place of `answer_idx`.
        label: what is pointed at.
        points: a list of `{"x", "y"}`, or one record of lists.
        point_scale: coordinate of the far edge (100: percent); None: points are in pixels.
    """

    style: str | None = None
    messages: str | None = None
    question: str | None = None
    answer: str | None = None
    answers: str | tuple[str, ...] | None = None
    options: str | tuple[str, ...] | None = None
    answer_idx: str | None = None
    answer_option: str | None = None
    label: str | None = None
    points: str | None = None
    point_scale: float | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it reads."""
        several = [c for given in (self.answers, self.options) for c in columns_of(given)]
        named = (self.messages, self.question, self.answer, *several, self.answer_idx, self.answer_option)
        return tuple(c for c in (*named, self.label, self.points) if c is not None)


def columns_of(given: str | tuple[str, ...] | None) -> tuple[str, ...]:
    """Columns that are named alone or together."""
    return () if given is None else (given,) if isinstance(given, str) else given


@dataclass(frozen=True, kw_only=True)
class FieldMap:
    """How rows of a dataset become examples.

    Attributes:
        repository: hub id.
        subset: configuration of the repository, where it has several.
        image: column of the picture: a picture, a path, or a URL that `molmo data download` has fetched.
        images: column of a list of pictures, in place of `image`.
        video: column of a video, in place of a picture: a path or name, bytes, or `{"bytes", "path"}`.
        start_s: column of the time that the part of the video begins at, in seconds.
        end_s: column of the time that it ends at.
        subtitles: column of the path or name of a subtitle file.
        video_folders: where below the root videos may lie; see `olmo.data.videos.find_video`.
        subtitle_folders: where subtitles may lie.
        subsets: parts of the repository that belong together, each with its `video_folders`; a source that names no
            subset takes them all, and `category` in the metadata says which a row is of.
        may_lack: columns that some parts of the dataset do not have.
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
    video: str | None = None
    start_s: str | None = None
    end_s: str | None = None
    subtitles: str | None = None
    video_folders: tuple[VideoFolder, ...] = (VideoFolder(""),)
    subtitle_folders: tuple[str, ...] = ("",)
    subsets: Mapping[str, tuple[VideoFolder, ...]] = field(default_factory=dict)
    may_lack: tuple[str, ...] = ()
    image_hash: str | None = None
    conversations: tuple[ConversationFields, ...]
    group_by: str | None = None
    group_size: int = 1
    weight: str | None = None
    weight_of: tuple[str, Mapping[int | str, float]] | None = None
    keep: tuple[str, ...] = field(default=())

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it reads; those to keep and those in `may_lack` may be missing."""
        shown = [self.image, self.images, self.video, self.start_s, self.end_s, self.subtitles]
        named = [*shown, self.group_by, self.weight, self.weight_of[0] if self.weight_of else None]
        return (*(c for c in named if c is not None), *(c for part in self.conversations for c in part.columns))


_CHOICE_STYLE = "a_okvqa_mc"
"""Style of the released models for choices: the answer is a letter."""


def _llava_video(style: str | None) -> FieldMap:
    """A kind of rows of LLaVA-Video-178K. Paths are below the folder of a subset, where its archives are unpacked.

    Columns (`id`, `conversations`, `data_source`, `video`), subsets (`0_30_s_academic_v0_1`) and their splits
    (`caption`, `open_ended`, `multi_choice`): listing of the repository, and what those who train on it read.
    """
    return FieldMap(
        repository="lmms-lab/LLaVA-Video-178K",
        image=None,
        video="video",
        conversations=(ConversationFields(style=style, messages="conversations"),),
        group_by="video",
        keep=("id", "data_source"),
    )


def _mvbench_folders() -> dict[str, tuple[VideoFolder, ...]]:
    """Folders of the twenty parts of MVBench. Source: its loaders in VideoChat2 and in lmms-eval.

    The four parts with start and end are there twice: whole, and cut (`_segment`). Not sure: whether archives are
    unpacked beside the lists or below `video/`; both are tried.
    """
    cut, whole, clevrer, perception = (
        ("star/Charades_segment", True), ("star/Charades_v1_480", False), ("clevrer/video_validation", False),
        ("perception/videos", False),
    )  # fmt: skip
    places: dict[str, tuple[tuple[str, bool], ...]] = {
        "action_sequence": (cut, whole), "action_prediction": (cut, whole), "object_interaction": (cut, whole),
        "action_localization": (("sta/sta_video_segment", True), ("sta/sta_video", False)),
        "episodic_reasoning": (("tvqa/video_fps3_hq_segment", True),),
        "moving_count": (clevrer,), "moving_direction": (clevrer,), "moving_attribute": (clevrer,),
        "counterfactual_inference": (clevrer,), "object_existence": (clevrer,),
        "character_order": (perception,), "object_shuffle": (perception,), "state_change": (perception,),
        "action_count": (perception,),
        "fine_grained_pose": (("nturgbd_convert", False), ("nturgbd", False)),
        "egocentric_navigation": (("vlnqa", False),),
        "fine_grained_action": (("Moments_in_Time_Raw/videos", False),),
        "scene_transition": (("scene_qa/video", False),),
        "action_antonym": (("ssv2_video_mp4", False), ("ssv2_video", False)),
        "unexpected_action": (("FunQA_test/test", False),),
    }  # fmt: skip
    return {
        name: tuple(
            VideoFolder(f"{top}{path}", is_cut) for path, is_cut in given for top in ("", "video/", "data0613/")
        )
        for name, given in places.items()
    }


_CHOICE_OF_OPTIONS = ConversationFields(
    style=_CHOICE_STYLE, question="question", options="options", answer_idx="answer"
)
# Columns: the loader in lmms-eval. A video is named by its number. Not sure: the folder in its archive.
_NEXT_QA = FieldMap(
    repository="lmms-lab/NExTQA",
    subset="MC",
    image=None,
    video="video",
    video_folders=(VideoFolder(""), VideoFolder("NExTVideo"), VideoFolder("videos")),
    conversations=(
        ConversationFields(
            style=_CHOICE_STYLE, question="question", options=("a0", "a1", "a2", "a3", "a4"), answer_idx="answer"
        ),
    ),
    group_by="video",
    keep=("qid", "type"),
)
_VIDEO_MME = FieldMap(
    repository="lmms-lab/Video-MME",
    image=None,
    video="videoID",
    video_folders=(VideoFolder(""), VideoFolder("data"), VideoFolder("videos")),
    conversations=(_CHOICE_OF_OPTIONS,),
    keep=("question_id", "duration", "domain", "sub_category", "task_type"),
)

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
    "llava_video_cap": _llava_video("long_caption"),
    "llava_video_oe": _llava_video("user_qa"),
    # The choices stand in the question, and the answer is a letter with its text.
    "llava_video_mc": _llava_video(None),
    # Rows name the right choice by its text; only some parts have a start and an end. Source: as for the folders.
    "mvbench": FieldMap(
        repository="OpenGVLab/MVBench",
        image=None,
        video="video",
        start_s="start",
        end_s="end",
        subsets=_mvbench_folders(),
        conversations=(
            ConversationFields(style=_CHOICE_STYLE, question="question", options="candidates", answer_option="answer"),
        ),
        may_lack=("start", "end"),
    ),
    "next_qa": _NEXT_QA,
    "next_qa_open": replace(
        _NEXT_QA,
        subset="OE",
        conversations=(
            ConversationFields(style="vqa2", question="question", answers=("answer", "additional_ref_answer")),
        ),
        may_lack=("additional_ref_answer",),
    ),
    # Columns: the loader in lmms-eval. The repository without `_Val` has the test questions, without their answers.
    "perception_test": FieldMap(
        repository="lmms-lab/PerceptionTest_Val",
        subset="mc_question_val",
        image=None,
        video="video_name",
        video_folders=(VideoFolder(""), VideoFolder("videos")),
        conversations=(
            ConversationFields(style=_CHOICE_STYLE, question="question", options="options", answer_idx="answer_id"),
        ),
        keep=("question_id", "area", "reasoning", "tag"),
    ),
    # Columns and folders: the loader in lmms-eval. Choices are written with their letter, which is taken off.
    "video_mme": _VIDEO_MME,
    "video_mme_subtitles": replace(_VIDEO_MME, subtitles="videoID", subtitle_folders=("subtitle", "subtitles")),
}
"""Field maps by name."""

_CONVERSATION_ROLES = ("messages", "question", "answer", "answers", "options", "answer_idx", "label", "points")

COLUMN_ROLES = ("image", "images", "video", "start_s", "end_s", "subtitles", *_CONVERSATION_ROLES, "weight")
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
        video=columns.get("video"),
        start_s=columns.get("start_s"),
        end_s=columns.get("end_s"),
        subtitles=columns.get("subtitles"),
        conversations=(conversation,),
        weight=columns.get("weight"),
    )
