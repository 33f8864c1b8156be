"""Every task on rows in the layout of its data set: a right answer scores 1, a wrong one 0."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from small_clips import write_clip

from olmo.data.pictures import downloaded_file
from olmo.data.source_config import SourceConfig
from olmo.eval.items import items_of
from olmo.eval.scoring import score_item, summarise
from olmo.eval.tasks import TASKS, metrics_of, with_data

datasets = pytest.importorskip("datasets")
URL = "https://example.org/1.jpg"


def people(*texts: str) -> list[dict[str, Any]]:
    return [{"answer": t, "answer_confidence": "yes", "answer_id": i} for i, t in enumerate(texts)]


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "vqa2": (
        {"image": None, "image_id": 1, "question_id": 1, "question": "What?", "answers": people(*["net"] * 10),
         "answer_type": "other"},
        "Net.",
    ),
    "text_vqa": (
        {"image": None, "image_id": "1", "question_id": 1, "question": "What?", "answers": ["nous"] * 10},
        "nous",
    ),
    "chart_qa": ({"image": None, "query": "How much?", "label": ["14"], "human_or_machine": 0}, "14.5"),
    "doc_qa": ({"image": None, "questionId": "1", "question": "Who?", "answers": ["Paul", "paul"]}, "PAUL"),
    "ai2d": ({"image": None, "question": "Which?", "options": ["cat", "dog", "eel", "fox"], "answer": "2"}, "C"),
    "pixmo_count": (
        {"image_url": URL, "image_sha256": "0" * 64, "count": 3, "label": "people", "points": None},
        "Counting shows a total of 3.",
    ),
    "pixmo_points": (
        {"image_url": URL, "image_sha256": "0" * 64, "points": [{"x": 10.0, "y": 20.0}], "count": 1, "label": "cats",
         "collection_method": "pointing"},
        '<point x="11.0" y="21.0" alt="cats">cats</point>',
    ),
    "mvbench": (
        {"video": "v.mp4", "question": "What next?", "candidates": ["ran", "sat"], "answer": "sat"},
        "B",
    ),
    "next_qa": (
        {"video": 7, "question": "why", "answer": 3, "qid": 0, "type": "CW", "a0": "fun", "a1": "fear", "a2": "rain",
         "a3": "late", "a4": "sport"},
        "(D)",
    ),
    "next_qa_open": (
        {"video": 7, "question": "what runs", "answer": "dog", "qid": 1, "type": "DO", "additional_ref_answer": "pup"},
        "pup",
    ),
    "perception_test": (
        {"video_name": "v", "question": "On?", "question_id": "0", "options": ["yes", "no", "unknown"],
         "answer_id": "1", "area": "physics", "reasoning": "descriptive", "tag": ["state"]},
        "B",
    ),
    **{
        name: (
            {"duration": "short", "domain": "Knowledge", "sub_category": "Law", "videoID": "v", "question_id": "1",
             "task_type": "OCR", "question": "How?", "options": ["A. Apples.", "B. Figs.", "C. Nuts."], "answer": "C"},
            "C",
        )
        for name in ("video_mme", "video_mme_subtitles")
    },
    "pixmo_cap": ({"image_url": URL, "caption": "A red square.", "transcripts": ["It is red."]}, "a red square"),
}  # fmt: skip
WRONG = "zzz 99"


def jpeg() -> bytes:
    content = io.BytesIO()
    Image.fromarray(np.zeros((20, 30, 3), dtype=np.uint8)).save(content, format="JPEG")
    return content.getvalue()


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.mark.parametrize("name", CASES)
def test_a_right_answer_scores_one(name: str, tmp_path: Path) -> None:
    row, right = CASES[name]
    row = dict(row)
    if "image" in row:
        row["image"] = {"bytes": jpeg(), "path": None}
    whole = datasets.Dataset.from_list([row, row])
    if "image" in row:
        whole = whole.cast_column("image", datasets.Image())
    elif row.get("points", 0) is None:
        whole = whole.cast_column("points", [{"x": datasets.Value("float64"), "y": datasets.Value("float64")}])
    for stem in ("v", "7"):
        write_clip(tmp_path / f"{stem}.mp4", n=2)
    file = tmp_path / "rows.parquet"
    whole.to_parquet(str(file))
    if name == "mvbench":  # a list for each of its parts, and a folder of videos for each
        (tmp_path / "json").mkdir()
        (tmp_path / "json" / "moving_count.json").write_text(json.dumps([row, row]))
        write_clip(tmp_path / "clevrer" / "video_validation" / "v.mp4", n=2)
        file = tmp_path
    picture = downloaded_file(URL, tmp_path / "pictures")
    picture.parent.mkdir(parents=True)
    picture.write_bytes(jpeg())
    images = str(tmp_path / "pictures") if "image_url" in row else None
    task = with_data(TASKS[name], path=str(file), image_root=images, split="train")
    source, metrics = task.open(), metrics_of(task)
    assert len(source) == 2, "questions about one picture are asked apart"
    main = f"{metrics[0].name}/{metrics[0].main}"
    # An answer that names no option counts as the one of nearest spelling, so a wrong one is another letter.
    wrong = "A" if metrics[0].name == "choice_by_kind" else WRONG
    for text, expected in ((right, 1.0), (wrong, 0.0)):
        scored = [
            score_item(item, text, metrics, source.place(row))
            for row in range(2)
            for item in items_of(source[row], row, task.style, source.place(row))
        ]
        assert len(scored) == 2
        assert summarise(scored, metrics)[0][main] == pytest.approx(expected)


def test_every_task_of_the_hub_is_here() -> None:
    assert set(CASES) == {name for name, task in TASKS.items() if isinstance(task.source, SourceConfig)}
