"""What counts as a video, and `molmo ask` about one."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from clips import FPS, N_FRAMES, clip_frames, save_clip
from PIL import Image
from untrained import POINTS

import olmo.cli.session
from olmo.cli.options import Choices
from olmo.cli.session import about
from olmo.cli.subject import open_subject
from olmo.cli.video_options import VideoChoices
from olmo.cli.videos import is_video
from olmo.exceptions import OLMoInputError
from olmo.models.bundled import BUNDLED_VIDEO_MODEL
from olmo.preprocessing.video.kept_source import KeptSource

ONE_POINT = '<point x="50.0" y="50.0" alt="square">square</point>'
SHORT = ("--max-new-tokens", 3)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("clip.webp", "clip", True),
        ("clip.gif", "clip", True),
        ("clip.png", "clip", True),
        ("clip.npz", "clip", True),
        ("clip.npy", "clip", True),
        ("named.jpg", "clip.webp", True),
        ("one.gif", "picture", False),
        ("one.webp", "picture", False),
        ("one.png", "picture", False),
        ("one.mp4", "picture.png", False),
        ("film", b"\0\0\0\x18ftypmp42", True),
        ("film.bin", b"\x1a\x45\xdf\xa3\x01", True),
        ("film.avi", b"RIFF....AVI ", True),
        ("cut.gif", b"GIF89a", False),
        ("notes.txt", b"no picture", False),
        ("empty", b"", False),
        ("missing.mp4", None, True),
        ("missing.png", None, False),
    ],
)
def test_a_file_is_what_it_holds(tmp_path, name, content, expected):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        frames = clip_frames() if content.startswith("clip") else clip_frames()[:1]
        save_clip(frames, path, Path(content).suffix or path.suffix)
    assert is_video(path) is expected


def test_a_folder_is_no_video(tmp_path):
    (tmp_path / "frames.mp4").mkdir()
    assert not is_video(tmp_path / "frames.mp4")


@pytest.mark.parametrize(
    ("name", "options"),
    [("clip.gif", ()), ("clip.webp", ()), ("clip.npz", ()), ("clip.npy", ("--fps", FPS)), ("frames", ("--fps", FPS))],
)
def test_the_same_clip_in_any_form_is_shown_alike(molmo, tiny_video, tmp_path, says, name, options):
    calls = says("left")
    first = save_clip(clip_frames(), tmp_path / "clip.png", ".png")
    second = save_clip(clip_frames(), tmp_path / name, Path(name).suffix)
    question = ("What happens first?", "--model", tiny_video, "--json")
    results = molmo("ask", first, *question), molmo("ask", second, *question, *options, "--as-video")
    for path, result in zip((first, second), results, strict=True):
        assert (result.code, result.err) == (0, "")
        assert json.loads(result.out) == {
            "video": str(path),
            "frame_seconds": [0, 0.5, 1, 1.75, 2.25, 2.75],
            "model": str(tiny_video),
            "text": "left",
        }
    assert calls[0]["text"] == calls[1]["text"] and "What happens first?" in calls[0]["text"]
    for tensor in ("images", "frame_facts"):
        torch.testing.assert_close(calls[0][tensor], calls[1][tensor], atol=0, rtol=0)


def test_options_reach_the_preprocessor(molmo, tiny_video, clip, says, tmp_path):
    says("x")
    (tmp_path / "said.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nhello there\n")
    ask = ("ask", clip, "What?", "--model", tiny_video, "--json")

    def seconds(*options):
        return json.loads(molmo(*ask, *options).out)["frame_seconds"]

    assert seconds("--max-frames", 3) == [0, 1.5, 2.75]
    assert seconds("--max-fps", 1) == [0, 1, 1.75, 2.75]
    assert seconds("--start", 1, "--end", 2) == [0, 0.25, 0.5, 0.75], "as the model is told them"
    assert seconds("--frame-sampling", "random") != seconds() == seconds("--frame-sampling", "uniform")
    assert len(seconds("--frame-sampling", "adaptive")) == 6


def test_subtitles_stand_behind_the_frames(molmo, tiny_video, clip, says, tmp_path):
    calls = says("x")
    (tmp_path / "said.srt").write_text("1\n00:00:01,000 --> 00:00:02,000\nhello there\n")
    assert molmo("ask", clip, "What?", "--model", tiny_video, "--subtitles", tmp_path / "said.srt").code == 0
    assert "1.0 - 2.0 hello there" in calls[0]["text"]


def test_a_model_for_pictures_is_shown_a_video_with_a_warning(molmo, tiny, tiny_video, clip, picture):
    asked = molmo("ask", clip, "What?", "--model", tiny, *SHORT, "--max-frames", 6)
    taught = molmo("ask", clip, "What?", "--model", tiny_video, *SHORT)
    assert (asked.code, taught.code, taught.err) == (0, 0, "")
    assert asked.err.startswith("warning: ") and "is a model of pictures" in asked.err and asked.err.count("\n") == 1
    assert asked.out == taught.out, "the weights are the same"
    about_picture = [molmo("ask", picture, "What?", "--model", m, *SHORT) for m in (tiny, tiny_video)]
    assert about_picture[0] == about_picture[1] and about_picture[0].err == ""


def test_many_frames_fit_the_context_of_a_model_for_pictures(molmo, tiny, tmp_path, says):
    calls = says("x")
    save_clip(clip_frames(48), tmp_path / "long.npz", ".npz")
    for n in (16, 48):
        assert molmo("ask", tmp_path / "long.npz", "What?", "--model", tiny, "--max-frames", n).code == 0
    assert [len(call["images"]) for call in calls] == [16, 48]
    assert all(call["input_ids"].shape[-1] < 1000 for call in calls)


def test_several_videos_are_one_question(molmo, tiny_video, clip, says, tmp_path):
    says("x")
    sheet = tmp_path / "sheet.png"
    options = ("--model", tiny_video, "--max-frames", 2, "--json", "--save", sheet)
    result = molmo("ask", clip, clip, "Which is longer?", *options)
    answer = json.loads(result.out)
    assert answer["video"] == [str(clip)] * 2 and answer["frame_seconds"] == [[0, 2.75]] * 2
    assert result.err == f"4 frame(s) on {sheet}\n"


def test_the_sheet_shows_the_frames_that_the_model_saw(molmo, tiny_video, clip, says, tmp_path):
    says("left")
    sheet = tmp_path / "deep" / "sheet.png"
    result = molmo("ask", clip, "What?", "--model", tiny_video, "--save", sheet)
    assert result == (0, "left\n", f"6 frame(s) on {sheet}\n")
    with Image.open(sheet) as picture:
        pixels = np.array(picture)
    shown = [i for i, frame in enumerate(clip_frames()) if holds(pixels, frame)]
    assert shown == [0, 2, 4, 7, 9, 11]


def holds(sheet: np.ndarray, frame: np.ndarray) -> bool:
    """Whether a frame stands somewhere on a sheet, pixel for pixel."""
    starts = np.argwhere((sheet == frame[0, 0]).all(axis=-1))
    windows = (sheet[y : y + frame.shape[0], x : x + frame.shape[1]] for y, x in starts)
    return any(np.array_equal(window, frame) for window in windows)


def test_points_are_drawn_where_their_frame_is_known(molmo, tiny_video, clip, says, tmp_path):
    says(ONE_POINT)
    options = ("--model", tiny_video, "--max-frames", 1, "--save", tmp_path / "sheet.png")
    result = molmo("ask", clip, "Point.", *options)
    assert (result.code, result.err) == (0, f"1 point(s) drawn on 1 frame(s) on {tmp_path / 'sheet.png'}\n")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert len(np.unique(np.array(sheet).reshape(-1, 3), axis=0)) > 10, "the ring has colours"


def test_points_of_unknown_frames_are_an_error_that_says_why(molmo, tiny_video, clip, says, tmp_path):
    says(POINTS)
    result = molmo("ask", clip, "Point.", "--model", tiny_video, "--save", tmp_path / "sheet.png")
    assert (result.code, result.out) == (1, POINTS + "\n")
    assert result.err.count("\n") == 1 and "points name no frame" in result.err and "--max-frames 1" in result.err
    assert (tmp_path / "sheet.png").is_file()


def test_a_folder_without_the_flag_keeps_its_meaning(molmo, tiny_video, tmp_path, says):
    says("x")
    save_clip(clip_frames(3), tmp_path / "frames", "")
    result = molmo("ask", tmp_path / "frames", "What?", "--model", tiny_video)
    assert result.out.splitlines() == [f"frame_{i}.png: x" for i in range(3)]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("{picture}", "What?", "--max-frames", "3"), "--max-frames"),
        (("What?", "--start", "1", "--subtitles", "x.srt"), "--start, --subtitles"),
        (("{folder}", "What?", "--fps", "2"), "--fps"),
        (("What?", "--as-video"), "--as-video"),
        (("{clip}",), "the question comes last"),
        (("film.mp4",), "the question comes last"),
        (("{clip}", "What?", "--frame-sampling", "fps"), "--frame-sampling"),
        (("{clip}", "What?", "--max-frames", "0"), "--max-frames"),
    ],
)
def test_wrong_usage_exits_with_2(molmo, picture, clip, tmp_path, words, expected):
    folder = save_clip(clip_frames(2), tmp_path / "frames", "")
    result = molmo("ask", *(word.format(picture=picture, clip=clip, folder=folder) for word in words))
    assert (result.code, result.out) == (2, "")
    assert expected in " ".join(result.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("{picture}", "{clip}"), "pictures or videos, not both"),
        (("{clip}", "none.png"), "pictures or videos, not both"),
        (("none.mp4",), "does not exist"),
        (("{picture}", "--as-video"), "a single PNG picture"),
        (("cut.mp4",), "not a video that can be opened"),
        (("none.npz",), "no frames"),
        (("{clip}", "--subtitles", "none.srt"), "none.srt"),
        (("{clip}", "--fps", "-1", "--as-video", "--save", "sheet.gif"), "cannot save a picture"),
        (("empty", "--as-video"), "no pictures"),
    ],
)
def test_a_bad_video_is_one_line_before_the_model_is_loaded(
    molmo, picture, clip, tmp_path, monkeypatch, words, expected
):
    if expected.startswith("not a video"):
        pytest.importorskip("av")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(olmo.cli.session, "from_pretrained", lambda *a, **k: pytest.fail("loaded the model"))
    Path("cut.mp4").write_bytes(b"\0\0\0\x18ftypmp42 and then nothing")
    np.savez("none.npz", frames=np.zeros((0, 4, 4, 3), np.uint8))
    Path("empty").mkdir()
    named = [word.format(picture=picture, clip=clip) for word in words]
    n_paths = next((i for i, word in enumerate(named) if word.startswith("--")), len(named))
    assert_one_error(molmo("ask", *named[:n_paths], "What?", *named[n_paths:]), expected)


def assert_one_error(result, expected: str) -> None:
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1 and expected in result.err


def test_without_pyav_the_extra_is_named(molmo, tmp_path, monkeypatch):
    (tmp_path / "clip.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    monkeypatch.setitem(sys.modules, "av", None)
    assert_one_error(molmo("ask", tmp_path / "clip.mp4", "What?"), "molmo[video]")


def test_what_does_not_fit_the_context_says_what_would(molmo, tiny_video, tmp_path):
    save_clip(clip_frames(200), tmp_path / "long.npz", ".npz")
    result = molmo("ask", tmp_path / "long.npz", "What?", "--model", tiny_video, "--max-frames", 200)
    assert_one_error(result, "max_frames=")
    (fitting,) = re.findall(r"--max-frames (\d+)", result.err)
    assert molmo("ask", tmp_path / "long.npz", "What?", "--model", tiny_video, "--max-frames", fitting).code == 0
    assert_one_error(
        molmo("ask", tmp_path / "long.npz", "What?", "--model", tiny_video, "--max-frames", int(fitting) + 1),
        "--max-frames",
    )


def test_a_video_that_is_opened_is_closed_where_the_next_cannot_be(clip, tmp_path, monkeypatch):
    closed: list[str] = []
    monkeypatch.setattr(KeptSource, "close", lambda self: closed.append(self.name))
    with pytest.raises(OLMoInputError, match="does not exist"):
        open_subject([str(clip), str(tmp_path / "none.mp4")], VideoChoices())
    assert closed == [f"video {str(clip)!r}"]
    open_subject([str(clip), str(clip)], VideoChoices())
    assert len(closed) == 1, "what is asked about stays open"


def test_a_part_without_frames_says_what_there_is(molmo, tiny_video, clip):
    assert_one_error(molmo("ask", clip, "What?", "--model", tiny_video, "--start", 9), "no frame from 9 s")


def test_a_video_that_tells_no_times_is_warned_of_once(molmo, tiny_video, tmp_path, says):
    says("x")
    path = save_clip(clip_frames(), tmp_path / "clip.npy", ".npy")
    result = molmo("ask", path, "What?", "--model", tiny_video, "--json")
    assert result.err.startswith("warning: ") and "--fps" in result.err and result.err.count("\n") == 1
    assert json.loads(result.out)["frame_seconds"][-1] == (N_FRAMES - 1) / 2


def test_a_frame_that_is_read_is_not_written_over(molmo, tiny_video, tmp_path, clip):
    folder = save_clip(clip_frames(2), tmp_path / "frames", "")
    before = clip.read_bytes()
    for words in ((folder, "What?", "--as-video", "--save", folder / "frame_0.png"), (clip, "What?", "--save", clip)):
        assert_one_error(molmo("ask", *words, "--model", tiny_video), "is what is read")
    assert clip.read_bytes() == before and len(list(folder.iterdir())) == 2


def test_a_real_file(molmo, tiny_video, tmp_path, monkeypatch, says):
    pytest.importorskip("av")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "preprocessing" / "video"))
    from number_videos import write_video

    says("x")
    path = write_video(tmp_path / "clip.mp4", n=30)
    result = molmo("ask", path, "What?", "--model", tiny_video, "--max-frames", 3, "--json")
    assert json.loads(result.out)["frame_seconds"] == pytest.approx([0, 0.5, 0.967], abs=2e-3)


def test_a_video_is_shown_to_the_bundled_model_of_videos(tmp_path):
    clip = save_clip(clip_frames(), tmp_path / "clip.webp", ".webp")
    picture = tmp_path / "one.png"
    Image.new("RGB", (20, 20)).save(picture)
    video, still = open_subject([str(clip)], VideoChoices()), open_subject([str(picture)], VideoChoices())
    assert about(video, Choices()).model == BUNDLED_VIDEO_MODEL
    assert about(still, Choices()).model is None
    assert about(video, Choices(model="my-model")).model == "my-model"
    assert about(video, Choices(adapter="my-adapter")).model is None, "it belongs to the model that it was made for"


def test_the_bundled_model_of_videos_answers(molmo):
    clip = Path(__file__).resolve().parents[2] / "examples" / "clips" / "moving.webp"
    result = molmo("ask", clip, "What happens first?", "--json")
    assert (result.code, result.err) == (0, "")
    answer = json.loads(result.out)
    assert answer["model"] == BUNDLED_VIDEO_MODEL and answer["text"].startswith("the ")
    assert len(answer["frame_seconds"]) == 8
