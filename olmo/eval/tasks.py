"""Evaluation tasks: which data, asked how, scored how. Adding one is adding an entry to `TASKS`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from olmo.data.scenes.moving.dataset import MovingScenesSource
from olmo.data.shown import has_video
from olmo.data.source import Source, find_path, open_source
from olmo.data.source_config import SourceConfig, SourceKind
from olmo.eval.metrics.caption import CaptionJudge
from olmo.eval.metrics.named import METRICS, Metric, metric_named
from olmo.eval.scene_test import SceneTest
from olmo.exceptions import OLMoConfigurationError, OLMoInputError

N_LOOKED_AT = 64
"""Rows of a `hub` dataset that are looked at to see whether a task shows videos: a column of it holds them or not."""

_MIXED = (SourceKind.jsonl, SourceKind.folder)
"""Kinds of source in which any row may show a video; reading a row opens neither pictures nor videos."""


@dataclass(frozen=True, kw_only=True)
class EvalTask:
    """One evaluation.

    Attributes:
        name: what reports and files call it.
        about: one line for people.
        source: the data, described or open.
        metrics: names in `METRICS`, the one that counts most first.
        style: ask in this style, whatever the data names; None leaves it.
        max_new_tokens: most tokens of an answer; None: what the metrics need.
        limit: rows taken, from the start; None: all.
    """

    name: str
    about: str = ""
    source: SourceConfig | Source
    metrics: tuple[str, ...]
    style: str | None = None
    max_new_tokens: int | None = None
    limit: int | None = None

    def open(self, base_dir: str | Path | None = None) -> Source:
        """The data; relative paths start from `base_dir`, or from the working directory."""
        return open_source(self.source, base_dir) if isinstance(self.source, SourceConfig) else self.source

    def n_rows(self, source: Source) -> int:
        """Rows of `source` that are asked about."""
        return len(source) if self.limit is None else min(self.limit, len(source))

    def shows_video(self, source: Source) -> bool:
        """Whether a row of `source` shows a video; rows that cannot be read are told of later."""
        for row in range(self._n_telling(source)):
            with suppress(OLMoInputError):
                if has_video(source.at(row)):
                    return True
        return False

    def _n_telling(self, source: Source) -> int:
        """How many rows, from the start, tell whether there are videos; one does where they are drawn."""
        if not isinstance(self.source, SourceConfig):
            return 1
        n_rows = self.n_rows(source)
        return n_rows if self.source.kind in _MIXED else min(n_rows, N_LOOKED_AT)

    def answer_tokens(self) -> int:
        """Most tokens of an answer."""
        return self.max_new_tokens or max(METRICS[name].max_new_tokens for name in self.metrics)


def _hub(name: str, about: str, metrics: Sequence[str], split: str, path: str | None = None) -> EvalTask:
    """A published data set under the name of its field map, every question asked apart."""
    source = SourceConfig(kind=SourceKind.hub, fields=name, name=name, path=path, split=split, group_size=1)
    return EvalTask(name=name, about=about, source=source, metrics=tuple(metrics))


_ALL = (
    EvalTask(
        name="scenes",
        about="drawn pictures, one question of each kind",
        source=SceneTest(),
        metrics=("scene",),
        limit=500,
    ),
    EvalTask(
        name="moving_scenes",
        about="drawn clips: actions, order, counts over time",
        source=MovingScenesSource(split="test"),
        metrics=("moving_scene",),
        limit=500,
    ),
    _hub("vqa2", "questions about photographs", ["vqa"], "validation"),
    _hub("text_vqa", "reading words in photographs", ["vqa"], "validation"),
    _hub("chart_qa", "reading charts", ["relaxed"], "test"),
    _hub("doc_qa", "reading documents", ["anls"], "validation"),
    _hub("ai2d", "school diagrams, multiple choice", ["ai2d"], "test"),
    _hub("pixmo_count", "counting things in photographs", ["count"], "test"),
    _hub("pixmo_points", "pointing in photographs, by nearness", ["points"], "train"),
    _hub("pixmo_cap", "long captions, by common words", ["caption_words"], "train"),
    _hub("mvbench", "twenty kinds of questions about videos, multiple choice", ["choice_by_kind"], "train"),
    _hub("next_qa", "causes and order in videos, multiple choice", ["choice_by_kind"], "test"),
    _hub("next_qa_open", "the same in a word or two, by common words", ["words"], "test"),
    _hub("perception_test", "memory, physics, meaning of videos, multiple choice", ["choice_by_kind"], "validation"),
    _hub("video_mme", "videos of seconds to an hour, multiple choice", ["choice_by_kind"], "test"),
    _hub("video_mme_subtitles", "the same with subtitles", ["choice_by_kind"], "test"),
)
TASKS: dict[str, EvalTask] = {task.name: task for task in _ALL}
"""Every task by its name. Data sets of the hub are taken from its cache, or from a folder that you name."""


def task_of(text: str, base_dir: str | Path | None = None) -> EvalTask:
    """The task that a person means.

    Args:
        text: a name in `TASKS`, or a file and the metrics to score it with: `mine.jsonl:vqa,exact`.
        base_dir: folder that a relative path starts from; where nothing is there, and for None, the working directory.

    Raises:
        OLMoConfigurationError: no such task, file or metric.
    """
    if text in TASKS:
        return TASKS[text]
    file, colon, listed = text.rpartition(":")
    if colon and file.endswith((".jsonl", ".ndjson")):
        names = tuple(name.strip() for name in listed.split(","))
        for name in names:
            if name not in METRICS:
                raise OLMoConfigurationError(
                    f"{name!r} in {text!r} is not a metric; there are {', '.join(sorted(METRICS))}"
                )
        found = find_path(file, Path(base_dir or "."))
        if not found.is_file():
            raise OLMoConfigurationError(f"there is no file {file!r} (current folder: {Path.cwd()})")
        source = SourceConfig(kind=SourceKind.jsonl, path=str(found))
        return EvalTask(name=Path(file).stem, about=file, source=source, metrics=names)
    if text.endswith((".jsonl", ".ndjson")):
        raise OLMoConfigurationError(
            f"{text!r} says no metric; write {text}:exact, or another of {', '.join(sorted(METRICS))}"
        )
    near = difflib.get_close_matches(text, TASKS, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise OLMoConfigurationError(
        f"{text!r} is not a task{hint} There are {', '.join(TASKS)}; or give a file with the metric to score it with: "
        "mine.jsonl:exact"
    )


def with_data(
    task: EvalTask, path: str | None = None, image_root: str | None = None, split: str | None = None
) -> EvalTask:
    """The same task on other data: a folder or file of the same columns, another split, files kept elsewhere.

    Raises:
        OLMoConfigurationError: the task draws its pictures itself.
    """
    changes = {k: v for k, v in (("path", path), ("image_root", image_root), ("split", split)) if v is not None}
    if not changes:
        return task
    if not isinstance(task.source, SourceConfig):
        raise OLMoConfigurationError(f"{task.name} draws its pictures itself and has no data to choose")
    return replace(task, source=task.source.replace(**changes))


def metrics_of(task: EvalTask, judge: CaptionJudge | None = None) -> list[Metric]:
    """The metrics of a task.

    Args:
        task: the task.
        judge: compares captions, for `cap_f1`.

    Raises:
        OLMoConfigurationError: a metric that is not known, or one that needs a judge.
    """
    if not task.metrics:
        raise OLMoConfigurationError(f"task {task.name!r} has no metric; there are {', '.join(sorted(METRICS))}")
    return [metric_named(name, judge) for name in task.metrics]
