from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from untrained import POINTS

import olmo.cli.session
from olmo.cli.errors import EXIT_BUG
from olmo.models.base import ModelBase
from olmo.models.molmo.molmo import Molmo

SHORT = ("--max-new-tokens", 3)


def test_an_answer_is_streamed_as_text(molmo, tiny, picture, says):
    calls = says("two", " cats")
    result = molmo("ask", picture, "How many cats?", "--model", tiny)
    assert result == (0, "two cats\n", "")
    assert calls[0]["images"].shape[0] == 1
    assert "How many cats?" in calls[0]["text"]
    assert not {"max_new_tokens", "do_sample", "temperature", "seed"} & set(calls[0]), "what is not given is not passed"


def test_json_is_one_object_with_points_in_percent_and_pixels(molmo, tiny, picture, says):
    says(POINTS[:20], POINTS[20:])
    result = molmo("ask", picture, "Point to the cats.", "--model", tiny, "--json")
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out) == {
        "image": str(picture),
        "model": str(tiny),
        "text": POINTS,
        "points": [
            {"label": "cats", "x": 10.0, "y": 25.0, "x_px": 6.0, "y_px": 10.0},
            {"label": "cats", "x": 50.5, "y": 75.0, "x_px": 30.3, "y_px": 30.0},
        ],
    }


def test_a_real_model_answers_alike_streamed_and_as_json(molmo, tiny, picture):
    streamed = molmo("ask", picture, "hi", "--model", tiny, *SHORT)
    as_json = molmo("ask", picture, "hi", "--model", tiny, *SHORT, "--json")
    assert (streamed.code, as_json.code) == (0, 0)
    assert streamed.out == json.loads(as_json.out)["text"] + "\n"


def test_settings_reach_the_model(molmo, tiny, says):
    calls = says("x")
    molmo("ask", "hi", "--model", tiny, "--max-new-tokens", 7, "--temperature", 0.5, "--seed", 3)
    settings = {k: v for k, v in calls[0].items() if k not in ("input_ids", "text")}
    assert settings == {"max_new_tokens": 7, "do_sample": True, "temperature": 0.5, "seed": 3}


def test_a_seed_repeats_an_answer(molmo, tiny):
    drawn = ("--max-new-tokens", 8, "--temperature", 1.5)
    answers = [molmo("ask", "hi", "--model", tiny, *drawn, "--seed", seed).out for seed in (1, 1, 2)]
    assert answers[0] == answers[1] != answers[2]


def test_dtype_and_device_reach_the_weights(molmo, tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(ModelBase, "stream", lambda self, **_: seen.append((self.dtype, self.device.type)) or iter("x"))
    assert molmo("ask", "hi", "--model", tiny, "--dtype", "bfloat16", "--device", "cpu").code == 0
    assert [(str(dtype), device) for dtype, device in seen] == [("torch.bfloat16", "cpu")]


def test_quantised_weights_and_guesses_reach_the_model(molmo, tiny, monkeypatch):
    seen = []

    def stream(self, **settings):
        seen.append((self.config.quantization.scheme.value, settings["prompt_lookup"]))
        return iter("x")

    monkeypatch.setattr(ModelBase, "stream", stream)
    assert molmo("ask", "hi", "--model", tiny, "--quantize", "int8", "--prompt-lookup", 4).code == 0
    assert seen == [("int8", 4)]


def test_a_map_of_devices_reaches_the_model(molmo, tiny):
    plain = molmo("ask", "hi", "--model", tiny)
    spread = molmo("ask", "hi", "--model", tiny, "--device-map", "auto")
    assert (spread.code, spread.out) == (0, plain.out)
    wrong = molmo("ask", "hi", "--model", tiny, "--device-map", "everywhere")
    assert wrong.code == 1 and "'everywhere' is not 'auto'" in wrong.err


def test_one_process_alone_has_nobody_to_answer_with(molmo, tiny):
    result = molmo("ask", "hi", "--model", tiny, "--tensor-parallel")
    assert (result.code, result.out) == (1, "")
    assert "torchrun --standalone --nproc-per-node 2" in result.err


@pytest.mark.parametrize("option", [("--tensor-parallel",), ("--device-map", "auto")])
def test_an_adapter_is_merged_on_one_device(molmo, tiny, tmp_path, option):
    result = molmo("ask", "hi", "--model", tiny, "--adapter", tmp_path, *option)
    assert result.code == 1 and "merged on one device" in result.err


def test_several_pictures_are_one_question(molmo, tiny, picture, says):
    calls = says(POINTS)
    result = molmo("ask", picture, picture, "Which is larger?", "--model", tiny, "--json")
    answer = json.loads(result.out)
    assert answer["image"] == [str(picture)] * 2
    assert answer["points"][0]["x_px"] == 6.0
    assert calls[0]["images"].shape[0] == 2


def test_a_question_needs_no_picture(molmo, tiny, says):
    calls = says(POINTS)
    answer = json.loads(molmo("ask", "What is a cat?", "--model", tiny, "--json").out)
    assert answer["image"] is None
    assert answer["points"][0] == {"label": "cats", "x": 10.0, "y": 25.0}
    assert "images" not in calls[0]


@pytest.fixture
def folder(tmp_path: Path, picture: Path) -> Path:
    album = tmp_path / "album"
    album.mkdir()
    for name in ("b.png", "a.PNG"):
        shutil.copy(picture, album / name)
    (album / "notes.txt").write_text("no picture")
    return album


def test_each_picture_of_a_folder_is_asked_about(molmo, tiny, folder, says):
    says("two\n", "cats")
    result = molmo("ask", folder, "How many?", "--model", tiny)
    assert result == (0, "a.PNG: two cats\nb.png: two cats\n", "")


def test_a_folder_gives_one_json_object_a_line_and_a_folder_of_pictures(molmo, tiny, folder, says, tmp_path):
    says(POINTS)
    result = molmo("ask", folder, "Point.", "--model", tiny, "--json", "--save", tmp_path / "drawn")
    answers = [json.loads(line) for line in result.out.splitlines()]
    assert [a["image"] for a in answers] == [str(folder / "a.PNG"), str(folder / "b.png")]
    assert [len(a["points"]) for a in answers] == [2, 2]
    assert sorted(p.name for p in (tmp_path / "drawn").iterdir()) == ["a.PNG.png", "b.png.png"]


def test_a_broken_picture_in_a_folder_leaves_the_others(molmo, tiny, folder, says):
    (folder / "aa.png").write_bytes((folder / "b.png").read_bytes()[:200])
    says("x")
    result = molmo("ask", folder, "What?", "--model", tiny)
    assert (result.code, result.out) == (1, "a.PNG: x\nb.png: x\n")
    assert result.err.startswith("error: aa.png: ") and result.err.count("\n") == 1


def test_points_are_drawn_on_the_saved_picture(molmo, tiny, picture, says, tmp_path):
    says(POINTS)
    target = tmp_path / "deep" / "out.png"
    before = picture.read_bytes()
    result = molmo("ask", picture, "Point.", "--model", tiny, "--save", target)
    assert (result.code, result.out) == (0, POINTS + "\n")
    assert result.err == f"2 point(s) drawn on {target}\n"
    drawn, plain = np.array(Image.open(target)), np.array(Image.open(picture))
    assert drawn.shape == plain.shape
    assert 0.02 < (drawn != plain).any(-1).mean() < 0.9
    assert picture.read_bytes() == before


@pytest.mark.parametrize("size", [(1, 1), (10, 2000), (2000, 10)])
def test_odd_pictures_are_answered(molmo, tiny, tmp_path, size):
    Image.new("RGB", size, "red").save(tmp_path / "odd.png")
    result = molmo("ask", tmp_path / "odd.png", "What?", "--model", tiny, *SHORT, "--save", tmp_path / "out.png")
    assert result.code == 0
    assert Image.open(tmp_path / "out.png").size == size


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((), "Missing argument"),
        (("{picture}",), "the question comes last"),
        (("photo.jpg",), "the question comes last"),
        (("{folder}",), "the question comes last"),
        (("{folder}", "{picture}", "What?"), "one folder alone"),
        (("What?", "--save", "x.png"), "no picture to draw on"),
        (("What?", "--seed", "-1"), "--seed"),
        (("What?", "--max-new-tokens", "many"), "--max-new-tokens"),
        (("What?", "--modle", "x"), "--modle"),
    ],
)
def test_wrong_usage_exits_with_2(molmo, picture, folder, words, expected):
    result = molmo("ask", *(word.format(picture=picture, folder=folder) for word in words))
    assert (result.code, result.out) == (2, "")
    assert expected in " ".join(result.err.replace("│", " ").split())


def assert_one_error(result, expected: str) -> None:
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: ") and result.err.count("\n") == 1 and result.err.endswith("\n")
    assert expected in result.err


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.png", None, "does not exist"),
        ("text.png", b"not a picture at all", "not an image"),
        ("empty.png", b"", "is empty"),
        ("cut.png", "cut", "truncated"),
        ("bomb.png", "bomb", "too large"),
    ],
)
def test_a_bad_picture_is_one_line_before_the_model_is_loaded(
    molmo, picture, tmp_path, monkeypatch, name, content, expected
):
    monkeypatch.setattr(olmo.cli.session, "from_pretrained", lambda *a, **k: pytest.fail("loaded the model"))
    if content == "cut":
        content = picture.read_bytes()[:1000]
    elif content == "bomb":
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        content = picture.read_bytes()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert_one_error(molmo("ask", tmp_path / name, "What?"), expected)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("",), "empty prompt"),
        (("  ",), "empty prompt"),
        (("word " * 3000,), "shorten the text"),
        (("hi", "--max-new-tokens", 0), "max_new_tokens"),
        (("hi", "--temperature", -1), "temperature"),
        (("hi", "--dtype", "int7"), "int7"),
        (("hi", "--device", "toaster"), "toaster"),
        (("hi", "--quantize", "int3"), "int3"),
        (("hi", "--prompt-lookup", 65), "prompt_lookup"),
        (("hi", "--device", "meta"), "meta"),
    ],
)
def test_a_bad_question_or_setting_is_one_line(molmo, tiny, picture, options, expected):
    assert_one_error(molmo("ask", picture, *options, "--model", tiny), expected)


@pytest.mark.parametrize("save", ["out.txt", "out", "noise.png", "."])
def test_a_bad_name_to_save_to_is_refused_and_nothing_changes(molmo, tiny, picture, save):
    before = picture.read_bytes()
    result = molmo("ask", picture, "What?", "--model", tiny, "--save", picture.parent / save)
    assert_one_error(result, "save")
    assert picture.read_bytes() == before
    assert [p.name for p in picture.parent.iterdir()] == [picture.name]


def test_a_folder_is_not_saved_over(molmo, folder):
    for save in (folder, folder / "b.png", folder.parent / "new.png"):
        assert_one_error(molmo("ask", folder, "What?", "--save", save), "--save")
    assert sorted(p.name for p in folder.iterdir()) == ["a.PNG", "b.png", "notes.txt"]


def test_a_folder_without_pictures_is_an_error(molmo, tmp_path):
    assert_one_error(molmo("ask", tmp_path, "What?"), "no pictures")


def test_a_missing_model_is_one_line(molmo, tmp_path):
    assert_one_error(molmo("ask", "hi", "--model", tmp_path / "none"), "no such folder")
    assert_one_error(molmo("ask", "hi", "--model", "owner/name"), "hub")


def test_a_missing_shard_is_one_line(molmo, tiny, tmp_path):
    copy = shutil.copytree(tiny, tmp_path / "copy")
    next((copy / "model").glob("*.safetensors")).unlink()
    assert_one_error(molmo("ask", "hi", "--model", copy), "missing")


def test_a_cut_shard_is_one_line(molmo, tiny, tmp_path):
    copy = shutil.copytree(tiny, tmp_path / "copy")
    shard = next((copy / "model").glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-100])
    assert_one_error(molmo("ask", "hi", "--model", copy), "cut or changed")


def test_our_own_bugs_ask_for_a_report(molmo, tiny, monkeypatch):
    monkeypatch.setattr(ModelBase, "stream", lambda self, **_: {}["x"])
    result = molmo("ask", "hi", "--model", tiny)
    assert result.code == EXIT_BUG
    assert result.err.startswith("error: KeyError") and "MOLMO_DEBUG=1" in result.err and result.err.count("\n") == 1
    monkeypatch.setenv("MOLMO_DEBUG", "1")
    assert "Traceback" in molmo("ask", "hi", "--model", tiny).err


@pytest.mark.parametrize("names_model", [True, False])
def test_an_adapter_answers_with_the_model_it_was_made_for(molmo, tiny, adapter, picture, monkeypatch, names_model):
    seen = []

    def stream(self, **inputs):
        seen.append(self.state_dict()["llm.blocks.0.mlp.ff_out.weight"])
        yield "yes"

    monkeypatch.setattr(ModelBase, "stream", stream)
    chosen = ("--model", tiny) if names_model else ()
    result = molmo("ask", picture, "What?", *chosen, "--adapter", adapter, "--json")
    assert result.code == 0 and json.loads(result.out)["model"] == str(tiny)
    torch.testing.assert_close(seen[0], Molmo.from_pretrained(tiny).state_dict()["llm.blocks.0.mlp.ff_out.weight"] + 1)
