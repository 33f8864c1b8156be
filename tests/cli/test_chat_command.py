from __future__ import annotations

import io

import pytest

from olmo.models.molmo.molmo import Molmo


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

    monkeypatch.setattr(Molmo, "stream", stream)
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

    monkeypatch.setattr(Molmo, "stream", stream)
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
