"""A HeMolmo on the command line: how much it keeps, and what it kept."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import olmo.cli.session
from olmo.models.base import ModelBase
from olmo.models.he_molmo.he_molmo import HeMolmo
from olmo.viz.selection import EDGE

SHORT = ("--max-new-tokens", 3)
N_TOKENS = 36


@pytest.fixture(scope="session")
def tiny_he(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a token selector that needs no training."""
    folder = tmp_path_factory.mktemp("models") / "tiny-he"
    HeMolmo.from_pretrained(tiny, overrides=["token_scorer.scorer=norm", "max_frames=6"]).save_checkpoint(folder)
    return folder


@pytest.mark.parametrize(("options", "ratio", "kept"), [((), 0.25, 9), (("--selection-ratio", 0.5), 0.5, 18)])
def test_json_says_how_much_was_kept(molmo, tiny_he, picture, options, ratio, kept):
    result = molmo("ask", picture, "What?", "--model", tiny_he, *SHORT, "--json", *options)
    assert (result.code, result.err) == (0, "")
    assert json.loads(result.out)["selection"] == {"ratio": ratio, "kept": kept, "total": N_TOKENS}


def test_text_is_streamed_as_from_any_model(molmo, tiny, tiny_he, picture):
    whole = ("--selection-ratio", 1)
    streamed = molmo("ask", picture, "What?", "--model", tiny_he, *SHORT, *whole)
    as_json = molmo("ask", picture, "What?", "--model", tiny_he, *SHORT, *whole, "--json")
    assert streamed.out == json.loads(as_json.out)["text"] + "\n"
    assert streamed == molmo("ask", picture, "What?", "--model", tiny, *SHORT), "with all tokens it is that Molmo"
    answer = json.loads(molmo("ask", "What?", "--model", tiny_he, *SHORT, "--json").out)
    assert answer["selection"] == {"ratio": 0.25, "kept": 0, "total": 0}


def test_what_was_kept_is_drawn(molmo, tiny_he, picture, tmp_path):
    target, before = tmp_path / "deep" / "kept.png", picture.read_bytes()
    ask = ("ask", picture, "What?", "--model", tiny_he, *SHORT, "--save-selection", target)
    result = molmo(*ask)
    assert (result.code, result.err) == (0, f"9 of 36 picture tokens kept, shown on {target}\n")
    drawn = np.asarray(Image.open(target))
    whole = np.asarray(Image.open(picture)).repeat(8, axis=0).repeat(8, axis=1)  # 60 x 40, enlarged to 480 x 320
    is_edge = (drawn[:320, :480] == EDGE).all(axis=-1)
    is_kept = (drawn[:320, :480] == whole).all(axis=-1) | is_edge
    # The tiny model stretches a picture over 6 x 6 patches, one token a patch.
    corners = [(slice(round(y * 320 / 6), round((y + 1) * 320 / 6)), slice(x * 80, x * 80 + 80))
               for y in range(6) for x in range(6)]  # fmt: skip
    shares = np.array([is_kept[corner].mean() for corner in corners])
    assert (shares > 0.99).sum() == 9 and (shares < 0.1).sum() == N_TOKENS - 9
    assert molmo(*ask, "--selection-ratio", 1).err.startswith("36 of 36")
    assert picture.read_bytes() == before


def test_a_clip_becomes_a_sheet_of_frames(molmo, tiny_he, clip, tmp_path):
    target = tmp_path / "kept.png"
    result = molmo("ask", clip, "What?", "--model", tiny_he, *SHORT, "--json", "--save-selection", target,
                   "--selection-ratio", 0.5)  # fmt: skip
    assert result.code == 0, result.err
    selection = json.loads(result.out)["selection"]
    assert selection["kept"] == selection["total"] / 2 > 0
    assert Image.open(target).width > 480
    points = molmo("ask", clip, "What?", "--model", tiny_he, *SHORT, "--save", tmp_path / "seen.png",
                   "--save-selection", tmp_path / "kept.jpg")  # fmt: skip
    assert points.err.count("\n") == 2 and (tmp_path / "seen.png").is_file() and (tmp_path / "kept.jpg").is_file()


def test_each_picture_of_a_folder_is_cut_alike(molmo, tiny_he, picture, tmp_path):
    album = tmp_path / "album"
    album.mkdir()
    for name in ("a.png", "b.png"):
        shutil.copy(picture, album / name)
    result = molmo("ask", album, "What?", "--model", tiny_he, *SHORT, "--json", "--selection-ratio", 0.5)
    assert [json.loads(line)["selection"]["kept"] for line in result.out.splitlines()] == [18, 18]


def test_a_talk_keeps_as_much_as_was_asked_for(molmo, tiny_he, picture, monkeypatch):
    ratios = []
    monkeypatch.setattr(
        ModelBase, "stream", lambda self, **_: ratios.append(self.config.selection_ratio) or iter(["yes"])
    )
    for options in ((), ("--selection-ratio", 0.5)):
        assert molmo("chat", picture, "--model", tiny_he, *options, stdin="one\ntwo\n").out == "yes\nyes\n"
    assert ratios == [0.25, 0.25, 0.5, 0.5]


def test_an_evaluation_does_not_mix_ratios(molmo, tiny_he, picture, tmp_path):
    row = {"image": picture.name, "question": "What?", "answer": "yes"}
    (tmp_path / "mine.jsonl").write_text(json.dumps(row) + "\n")
    common = ("eval", tiny_he, f"{tmp_path / 'mine.jsonl'}:exact", "-o", tmp_path / "out", *SHORT, "--json")
    seen: list[int] = []
    selector = HeMolmo.choose_pictures

    def counted(self, *arguments, **settings):
        found = selector(self, *arguments, **settings)
        seen.append(int(found.aux["selection_mask"].sum()))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(HeMolmo, "choose_pictures", counted)
        assert molmo(*common, "--selection-ratio", 0.5).code == 0
        other = molmo(*common, "--selection-ratio", 0.75)
        assert other.code == 1 and "--fresh" in other.err
        assert molmo(*common, "--selection-ratio", 0.75, "--fresh").code == 0
    assert seen == [18, 27]
    settings = json.loads((tmp_path / "out" / "tiny-he" / "mine" / "settings.json").read_text())
    assert settings["generation"]["selection_ratio"] == 0.75


@pytest.mark.parametrize(
    "words",
    [
        ("ask", "{picture}", "What?", "--model", "{tiny}", "--selection-ratio", 0.5),
        ("ask", "{picture}", "What?", "--selection-ratio", 0.5),
        ("ask", "{picture}", "What?", "--model", "{tiny}", "--save-selection", "{folder}/kept.png"),
        ("ask", "{clip}", "What?", "--model", "{tiny_video}", "--selection-ratio", 0.5),
        ("chat", "{picture}", "--model", "{tiny}", "--selection-ratio", 0.5),
        ("eval", "{tiny}", "scenes", "--limit", 1, "--selection-ratio", 0.5, "-o", "{folder}/out"),
    ],
)
def test_other_models_are_refused_before_they_are_loaded(
    molmo, tiny, tiny_video, picture, clip, tmp_path, monkeypatch, words
):
    monkeypatch.setattr(olmo.cli.session, "from_pretrained", lambda *a, **k: pytest.fail("loaded the model"))
    places = {"picture": picture, "clip": clip, "tiny": tiny, "tiny_video": tiny_video, "folder": tmp_path}
    result = molmo(*(str(word).format(**places) for word in words), stdin="one\n")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("error: --s") and result.err.count("\n") == 1
    assert "is for a HeMolmo" in result.err and "--model" in result.err
    assert not (tmp_path / "kept.png").exists()


@pytest.mark.parametrize("ratio", [0, 1.5, -1])
def test_a_ratio_is_a_share(molmo, tiny_he, picture, ratio):
    result = molmo("ask", picture, "What?", "--model", tiny_he, "--selection-ratio", ratio)
    assert (result.code, result.out) == (1, "")
    assert "selection_ratio: must be above 0 and at most 1" in result.err and result.err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        (("What?", "--save-selection", "{folder}/x.png"), 2, "no picture to draw on"),
        (("{folder}", "What?", "--save-selection", "{folder}/x.png"), 2, "shows one question"),
        (("{picture}", "What?", "--save-selection", "{picture}"), 1, "--save-selection"),
        (("{picture}", "What?", "--save-selection", "{folder}/x.txt"), 1, ".png, .jpg or .webp"),
        (("{picture}", "What?", "--save", "{folder}/x.png", "--save-selection", "{folder}/x.png"), 1, "own"),
    ],
)
def test_a_bad_name_to_save_to_is_refused(molmo, tiny_he, picture, words, code, expected):
    before = picture.read_bytes()
    places = {"picture": picture, "folder": picture.parent}
    result = molmo("ask", *(word.format(**places) for word in words), "--model", tiny_he)
    assert (result.code, result.out) == (code, "")
    assert expected in " ".join(result.err.replace("│", " ").split())
    assert picture.read_bytes() == before and [p.name for p in picture.parent.iterdir()] == [picture.name]


def test_info_says_what_is_kept(molmo, tiny, tiny_he):
    found = json.loads(molmo("info", tiny_he, "--json").out)["selection"]
    assert found["ratio"] == 0.25 and found["picture_tokens"]["640x480"] == {"kept": 9, "total": N_TOKENS}
    shown = " ".join(molmo("info", tiny_he).out.split())
    assert "of its 36 patch tokens 9 are kept" in shown and "0.25 of a row's picture tokens" in shown
    plain = molmo("info", tiny)
    assert "kept" not in plain.out and "selection" not in json.loads(molmo("info", tiny, "--json").out)
