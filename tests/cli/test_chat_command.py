from __future__ import annotations

import io

import pytest
from clips import clip_frames, save_clip

from olmo.models.base import ModelBase
from olmo.preprocessing.video.animation_source import AnimationSource


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_turns_are_kept_and_pictures_stay(molmo, tiny, picture, says):
    calls = says("A", " cat.")
    result = molmo("chat", picture, "--model", tiny, stdin="What is this?\n\nAre you sure?\n")
    assert result == (0, "A cat.\nA cat.\n", "")
    assert "What is this?" in calls[1]["text"] and "A cat." in calls[1]["text"] and "Are you sure?" in calls[1]["text"]
    assert [c["images"].shape[0] for c in calls] == [1, 1]


def test_clear_begins_anew_with_the_same_pictures(molmo, tiny, picture, says):
    calls = says("Yes.")
    molmo("chat", picture, "--model", tiny, stdin="first\n/clear\nsecond\n")
    assert "first" not in calls[1]["text"]
    assert "images" in calls[1]


def test_image_changes_the_pictures_and_begins_anew(molmo, tiny, picture, says, tmp_path):
    blank = tmp_path / "with blanks in it.png"
    blank.write_bytes(picture.read_bytes())
    calls = says("Yes.")
    lines = ("first", f"/image {picture} {picture}", "second", f"/image {blank}", "third", "/image", "fourth")
    assert molmo("chat", picture, "--model", tiny, stdin="\n".join(lines)).code == 0
    assert [len(c.get("images", ())) for c in calls] == [1, 2, 1, 0]
    assert "first" not in calls[1]["text"]


def test_quit_leaves(molmo, tiny, says):
    calls = says("Yes.")
    assert molmo("chat", "--model", tiny, stdin="one\n/quit\ntwo\n").out == "Yes.\n"
    assert len(calls) == 1


def test_an_error_is_one_line_and_the_talk_goes_on(molmo, tiny, picture, says):
    calls = says("Yes.")
    long = "word " * 3000
    stdin = f"one\n/image {picture.parent}/none.png\n/nonsense\n{long}\n/image 'x\ntwo\n"
    result = molmo("chat", picture, "--model", tiny, stdin=stdin)
    assert (result.code, result.out) == (1, "Yes.\nYes.\n")
    errors = result.err.splitlines()
    assert len(errors) == 4 and all(line.startswith("error: ") for line in errors)
    assert "one" in calls[1]["text"] and "word" not in calls[1]["text"]


def test_a_real_model_talks(molmo, tiny, picture):
    result = molmo("chat", picture, "--model", tiny, "--max-new-tokens", 3, stdin="one\ntwo\n")
    assert (result.code, result.err) == (0, "")
    assert len(result.out.splitlines()) >= 2


def test_ctrl_c_in_a_pipe_stops_the_program(molmo, tiny, monkeypatch):
    def stream(self, **_):
        yield "half"
        raise KeyboardInterrupt

    monkeypatch.setattr(ModelBase, "stream", stream)
    assert molmo("chat", "--model", tiny, stdin="one\n").code == 130


def test_ctrl_c_at_a_terminal_stops_the_answer_alone(molmo, tiny, monkeypatch):
    prompts = []

    def stream(self, **inputs):
        prompts.append(self.tokenizer.decode(inputs["input_ids"].tolist()))
        yield "half"
        if len(prompts) == 1:
            raise KeyboardInterrupt

    typed = iter(["one", KeyboardInterrupt, "two", EOFError])

    def read(prompt):
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr(ModelBase, "stream", stream)
    monkeypatch.setattr("builtins.input", read)
    result = molmo("chat", "--model", tiny, stdin=Terminal())
    assert result.code == 0
    assert "one" in prompts[1] and "half" in prompts[1], "what was said before the stop is kept"
    assert "/quit" in result.err and "stopped" in result.err


def test_a_missing_picture_is_an_error_at_once(molmo):
    result = molmo("chat", "none.png", stdin="hi\n")
    assert result.code == 1
    assert "does not exist" in result.err


@pytest.mark.parametrize("answer", ["", " "])
def test_a_question_without_an_answer_is_forgotten(molmo, tiny, says, answer):
    calls = says(answer)
    assert molmo("chat", "--model", tiny, stdin="one\ntwo\n").code == 0
    assert "one" not in calls[1]["text"]


def test_a_video_is_talked_about_and_decoded_once(molmo, tiny_video, clip, picture, says, monkeypatch):
    decoded = []
    read = AnimationSource.iter_frames

    def iter_frames(self, indices):
        decoded.append(list(indices))
        return read(self, indices)

    monkeypatch.setattr(AnimationSource, "iter_frames", iter_frames)
    calls = says("left")
    lines = ("first", "second", f"/video {clip}", "third", "/clear", "fourth", f"/image {picture}", "fifth")
    result = molmo("chat", clip, "--model", tiny_video, "--max-frames", 3, stdin="\n".join(lines))
    assert result == (0, "left\n" * 5, "")
    assert decoded == [[0, 6, 11]] * 2, "once for the first conversation, once for the second"
    assert [len(call["images"]) for call in calls] == [3, 3, 3, 3, 1]
    assert "first" in calls[1]["text"] and "second" not in calls[2]["text"] and "third" not in calls[3]["text"]


def test_a_model_for_pictures_takes_a_video_too(molmo, tiny, clip, picture, says):
    calls = says("left")
    lines = ("one", f"/video {clip}", "two", "three", f"/image {clip}", "four", f"/image {picture} {clip}", "five")
    result = molmo("chat", picture, "--model", tiny, stdin="\n".join(lines))
    assert [len(call["images"]) for call in calls] == [1, 12, 12, 12, 12], "a failed change leaves the video"
    assert "four" in calls[4]["text"]
    warning, error = result.err.splitlines()
    assert warning.startswith("warning: ") and "not both" in error and result.code == 1


def test_a_folder_of_frames_is_a_video_by_command_and_by_option(molmo, tiny_video, tmp_path, says):
    calls = says("left")
    folder = save_clip(clip_frames(4), tmp_path / "frames", "")
    chat = ("chat", "--model", tiny_video, "--fps", 2)
    assert molmo(*chat, stdin=f"/video {folder}\none").code == 0
    assert molmo(*chat, folder, "--as-video", stdin="one").code == 0
    assert [len(call["images"]) for call in calls] == [4, 4]


@pytest.mark.parametrize("line", ["/video", "/video none.mp4", "/video {picture}"])
def test_a_bad_video_is_one_line_and_the_talk_goes_on(molmo, tiny_video, picture, says, line):
    calls = says("yes")
    result = molmo("chat", "--model", tiny_video, stdin=f"one\n{line.format(picture=picture)}\ntwo")
    assert (result.code, result.out) == (1, "yes\nyes\n")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1
    assert "one" in calls[1]["text"]


@pytest.mark.parametrize("option", [("--start", "1"), ("--end", "1"), ("--subtitles", "x.srt"), ("--as-video",)])
def test_what_belongs_to_a_clip_needs_one(molmo, picture, option):
    words = (picture,) if option[0] != "--as-video" else ()
    result = molmo("chat", *words, *option, stdin="hi")
    assert result.code == 2 and option[0] in result.err


def test_the_start_of_a_clip_is_forgotten_with_it(molmo, tiny_video, clip, says):
    calls = says("yes")
    lines = ("one", f"/video {clip}", "two")
    chat = ("chat", clip, "--model", tiny_video, "--start", 2, "--max-fps", 4)
    assert molmo(*chat, stdin="\n".join(lines)).code == 0
    assert [len(call["images"]) for call in calls] == [4, 6]
