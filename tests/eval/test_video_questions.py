"""Questions about videos: asked, answered, resumed and shown; and choices by the likelihood of their letters."""

from __future__ import annotations

import base64
import io
import json
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_clips import square_frames, write_clip

from olmo.data.source_config import SourceConfig
from olmo.engine.bulk import answer_all, generated
from olmo.engine.choosing import letter_tokens, likeliest_letters
from olmo.eval.asking import AskingOptions, ChooseBy
from olmo.eval.html_report import write_report
from olmo.eval.predictions import PREDICTIONS_FILE, SETTINGS_FILE
from olmo.eval.report_frames import report_sheet
from olmo.eval.runner import evaluate, run_task
from olmo.eval.tasks import EvalTask
from olmo.exceptions import OLMoInputError
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.models.video_olmo.video_olmo import VideoOlmo, VideoOlmoConfig


@pytest.fixture(scope="session")
def video_model(tiny_config: MolmoConfig) -> VideoOlmo:
    """Three frames of each video."""
    return VideoOlmo(VideoOlmoConfig.from_molmo(tiny_config, max_frames=3, pooling_h=2, pooling_w=2)).eval()


@pytest.fixture
def task(tmp_path: Path) -> EvalTask:
    """Two questions about clips, one with choices, and one about a picture."""
    write_clip(tmp_path / "a.gif", n=8)
    Image.new("RGB", (30, 20)).save(tmp_path / "p.png")
    rows: list[dict[str, Any]] = [
        {"video": "a.gif", "question": "What moves?", "answer": "square", "metadata": {"type": "DO"}},
        {"video": "a.gif", "start_s": 1.0, "question": "Which?", "options": ["cat", "dog", "eel"], "answer_idx": 1},
        {"image": "p.png", "question": "What is it?", "answer": "black"},
    ]
    for row in rows:
        row.setdefault("metadata", {})["category"] = "drawn"
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return EvalTask(
        name="clips", source=SourceConfig(kind="jsonl", path=str(file)), metrics=("words",), max_new_tokens=4
    )


def without_choices(task: EvalTask) -> EvalTask:
    return replace(task, limit=1)


def test_answers_are_written_with_the_frames_that_were_shown(
    task: EvalTask, video_model: VideoOlmo, tmp_path: Path
) -> None:
    result = run_task(video_model, without_choices(task), tmp_path / "out")
    (line,) = (tmp_path / "out" / PREDICTIONS_FILE).read_text().splitlines()
    assert json.loads(line)["frame_seconds"] == [[0.0, 1.0, 1.75]], "of 8 frames, 4 a second"
    settings = json.loads((tmp_path / "out" / SETTINGS_FILE).read_text())
    assert settings["video"]["max_frames"] == 3 and settings["video"]["frame_sampling"] == "uniform"
    assert {"words/f1", "words/exact", "words/f1_drawn"} == set(result.scores)
    again = run_task(None, without_choices(task), tmp_path / "out")
    assert again.scores == result.scores
    assert again.scored[0].item.frame_seconds == ((0.0, 1.0, 1.75),)


def test_other_frames_are_other_questions(task: EvalTask, video_model: VideoOlmo, tmp_path: Path) -> None:
    run_task(video_model, without_choices(task), tmp_path / "out")
    more = VideoOlmo(VideoOlmoConfig.from_molmo(video_model.config, max_frames=4))
    more.load_state_dict(video_model.state_dict())
    with pytest.raises(OLMoInputError, match=r"\(video\.max_frames was 3 and is 4\)"):
        run_task(more.eval(), without_choices(task), tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [
        ({"temporal_aggregation": "mean", "temporal_stride": 2}, False),
        ({"frame_batch_size": 1, "checkpoint_frames": False}, True),
    ],
)
def test_settings_that_decide_answers_are_told_from_those_that_save_memory(
    changes: dict[str, Any], is_same: bool, task: EvalTask, video_model: VideoOlmo, tmp_path: Path
) -> None:
    run_task(video_model, without_choices(task), tmp_path / "out")
    other = VideoOlmo(VideoOlmoConfig.from_molmo(video_model.config, **changes))
    other.load_state_dict(video_model.state_dict())
    with nullcontext() if is_same else pytest.raises(OLMoInputError, match="answers that were made otherwise"):
        run_task(other.eval(), without_choices(task), tmp_path / "out")


def test_a_model_of_pictures_refuses_videos(task: EvalTask, tiny_model: Molmo) -> None:
    with pytest.raises(OLMoInputError, match=r"rows\.jsonl:1: this model reads pictures, not video"):
        evaluate(tiny_model, without_choices(task))


def test_random_frames_are_the_same_in_every_evaluation(task: EvalTask, video_model: VideoOlmo, tmp_path: Path) -> None:
    config = VideoOlmoConfig.from_molmo(video_model.config, frame_sampling="random")
    model = VideoOlmo(config).eval()
    shown = [run_task(model, without_choices(task), tmp_path / name).scored[0].item.frame_seconds for name in "ab"]
    assert shown[0] == shown[1] and len(shown[0][0]) == 3


def pictures_of(page: str) -> list[Image.Image]:
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


def test_the_report_shows_frames_with_their_times(task: EvalTask, video_model: VideoOlmo, tmp_path: Path) -> None:
    metrics = replace(task, metrics=("contains",))
    source = replace(metrics.source, limit=1)
    one = replace(metrics, source=source)
    result = run_task(video_model, one, tmp_path / "out")
    write_report(result, one.open(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    (sheet,) = pictures_of(page)
    assert 'class="frames"' in page and sheet.width > 2.5 * 48, "three frames side by side"


def test_the_frames_of_a_report_are_those_of_the_part(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "a.gif", n=8)
    shown = np.asarray(report_sheet(str(clip), [0.0, 0.5], 1.0, None))
    frames = square_frames(8)
    for number, index in enumerate((4, 6)):  # 1.0 s and 1.5 s of the clip
        left = 8 + number * (shown.shape[1] - 8) // 2
        assert np.abs(shown[8 + 24, left : left + 48, 0].astype(int) - frames[index][24, :, 0]).max() < 12
    assert report_sheet(str(clip), [], None, None).size[0] > 0
    with pytest.raises(OLMoInputError, match="does not exist"):
        report_sheet(str(tmp_path / "none.mp4"), [0.0], None, None)


def test_tasks_know_whether_they_show_videos(task: EvalTask, tmp_path: Path) -> None:
    assert task.shows_video(task.open())
    pictures = replace(task, source=SourceConfig(kind="jsonl", path=str(tmp_path / "rows.jsonl"), skip=2))
    assert not pictures.shows_video(pictures.open())
    file = tmp_path / "late.jsonl"
    file.write_text('{"question": "?", "answer": "!"}\n' * 200 + '{"video": "a.gif", "question": "?", "answer": "!"}\n')
    late = replace(task, source=SourceConfig(kind="jsonl", path=str(file)))
    assert late.shows_video(late.open()), "a video in the last row counts"
    early = replace(late, limit=200)
    assert not early.shows_video(early.open()), "one that is not asked about does not"


# -- likelihood --------------------------------------------------------------------------------------------------------


def question(n: int, **more: Any) -> dict[str, Any]:
    options = [f"thing {i}" for i in range(n)]
    return {"prompt": "Which?", "options": options, "metadata": {"n_options": n}, **more}


def test_letters_are_compared_as_answers(tiny_model: Molmo) -> None:
    """The choice is the letter whose tokens the model gives the highest likelihood, row by row."""
    letters = letter_tokens(tiny_model.tokenizer, 4)
    assert {len(ids) for ids in letters} == {1, 2}, "this tokenizer has both, which is the hard case"
    preprocess = tiny_model.config.build_preprocessor(for_inference=True)
    requests = [question(n, prompt=f"Which of {'many ' * n}?") for n in (4, 2, 3)]
    expected = []
    for request in requests:
        prompt = preprocess(request)["input_ids"]
        scores = []
        for ids in letters[: request["metadata"]["n_options"]]:
            whole = torch.cat([prompt, torch.tensor(ids)])
            with torch.no_grad():
                shares = tiny_model(whole[None]).logits[0].log_softmax(dim=-1)
            scores.append(sum(float(shares[len(prompt) - 1 + k, token]) for k, token in enumerate(ids)))
        expected.append("ABCD"[int(np.argmax(scores))])
    chosen = likeliest_letters(generated({"max_new_tokens": 1}))
    assert answer_all(tiny_model, requests, respond=chosen) == expected
    assert answer_all(tiny_model, requests, respond=chosen, batch_size=1) == expected
    assert not tiny_model.training


def test_the_likeliest_letter_wins_and_no_other_option_counts(tiny_config: MolmoConfig) -> None:
    model = Molmo(tiny_config)
    first, second, third, _, fifth = letter_tokens(model.tokenizer, 5)
    wanted = {first[0]: 1.0, second[0]: 9.0, third[0]: 2.0, second[1]: 8.0, fifth[1]: 10.0}  # E, then B, then C

    class Fixed:
        config, tokenizer, device, training = model.config, model.tokenizer, model.device, False

        def __call__(self, input_ids: torch.Tensor, **others: Any) -> Any:
            logits = torch.zeros(len(input_ids), 1, 1000)
            for token, value in wanted.items():
                logits[:, 0, token] = value
            return type("Out", (), {"logits": logits})

        def eval(self) -> None:
            """Nothing to switch."""

        def train(self, mode: bool) -> None:
            """Nothing to switch."""

    preprocess = model.config.build_preprocessor(for_inference=True)
    collate = model.config.build_collator(include_metadata=False)
    examples = [preprocess(question(n)) for n in (4, 5, 1)]
    assert likeliest_letters(generated({}))(Fixed(), collate, examples) == ["B", "E", "A"]  # type: ignore[arg-type]


def test_an_evaluation_may_choose_by_likelihood(task: EvalTask, video_model: VideoOlmo, tmp_path: Path) -> None:
    asked = replace(task, source=replace(task.source, skip=1, limit=1), metrics=("choice_by_kind",))
    options = AskingOptions(choose_by=ChooseBy.likelihood)
    result = run_task(video_model, asked, tmp_path / "out", options=options)
    assert result.scored[0].prediction in ("A", "B", "C")
    assert result.scores["choice_by_kind/named"] == 1.0
    with pytest.raises(OLMoInputError, match="choose_by was 'likelihood'"):
        run_task(video_model, asked, tmp_path / "out")
