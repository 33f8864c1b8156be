from __future__ import annotations

import json
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest
from small_clips import write_clip

from olmo.cli import data
from olmo.data.pictures import downloaded_file

GOOD = {"image": "noise.png", "question": "What is this?", "answer": "Noise."}


@pytest.fixture
def rows(tmp_path, picture):
    def write(*given: dict | str, name: str = "train.jsonl"):
        path = tmp_path / name
        path.write_text("".join((g if isinstance(g, str) else json.dumps(g)) + "\n" for g in given))
        return path

    return write


@pytest.fixture
def web(tmp_path):
    """A server of the files in `tmp_path / "web"`."""
    folder = tmp_path / "web"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_help_lists_the_commands(molmo):
    result = molmo("data", "--help")
    assert result.code == 0
    assert all(name in result.out for name in data.COMMANDS)
    assert "Usage: molmo data check" in molmo("data", "check", "--help").out
    assert molmo("data", "chekc").code == 2


def test_looking_at_rows_waits_for_no_torch(rows):
    code = f"import sys; from olmo.cli.main import run; run(['data', 'check', {str(rows(GOOD))!r}])"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120).returncode == 0


def test_a_good_file(molmo, rows):
    path = rows(GOOD, "", {**GOOD, "style": "vqa2"}, GOOD)
    result = molmo("data", "check", path)
    assert result == (
        0,
        "train: 3 rows, 0 bad; 3 conversations (style: none 2, vqa2 1)\n"
        "train: 1 rows say just what an earlier one says\n",
        "",
    )


def test_bad_rows_by_line(molmo, rows):
    path = rows(GOOD, "{", {**GOOD, "image": "no.png"}, {"question": "?"}, {**GOOD, "anwser": 1})
    result = molmo("data", "check", path)
    assert result.code == 1 and result.err == ""
    lines = result.out.splitlines()
    assert [line.split(": ")[0] for line in lines[:4]] == [f"{path}:{n}" for n in (2, 3, 4, 5)]
    assert "does not exist" in lines[1] and "no answer to learn from" in lines[2] and "'answer'" in lines[3]
    assert lines[4].startswith("train: 5 rows, 4 bad; 1 conversations")
    few = molmo("data", "check", path, "--show", 1).out.splitlines()
    assert len(few) == 3 and few[1] == "and 3 more bad rows (--show 4 prints all)"
    assert molmo("data", "check", path, "--limit", 1).code == 0


def test_pictures_are_decoded_unless_it_is_to_be_quick(molmo, rows, picture):
    picture.write_bytes(picture.read_bytes()[:100])
    assert "damaged or truncated" in molmo("data", "check", rows(GOOD)).out
    assert molmo("data", "check", rows(GOOD), "--quick").code == 0


def test_questions_may_lack_answers(molmo, rows):
    path = rows({"image": "noise.png", "question": "What is this?"})
    assert molmo("data", "check", path).code == 1
    assert molmo("data", "check", path, "--questions").code == 0


def test_a_folder_of_pictures(molmo, tmp_path, picture):
    (tmp_path / "noise.txt").write_text("Noise.")
    (tmp_path / "other.png").write_bytes(picture.read_bytes())
    result = molmo("data", "check", tmp_path)
    assert result.code == 0
    assert f"{tmp_path.name}: 1 rows, 0 bad" in result.out and "1 files have no .txt or .json" in result.out


def test_every_source_of_a_recipe(molmo, rows, tmp_path):
    rows(GOOD)
    rows({"question": "?"}, name="bad.jsonl")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "task: language\ndata:\n  sources:\n    - {kind: scenes}\n    - {kind: jsonl, path: train.jsonl}\n"
        "    - {kind: jsonl, path: bad.jsonl}\n"
    )
    result = molmo("data", "check", recipe)
    assert result.code == 1
    assert "scenes: drawn on the spot" in result.out and "train: 1 rows, 0 bad" in result.out
    assert "bad: 1 rows, 1 bad" in result.out


def test_a_dataset_file(molmo, tmp_path, picture):
    datasets = pytest.importorskip("datasets")
    rows = [{"image": str(picture), "question": "?", "answers": a} for a in (["b"], None)]
    datasets.Dataset.from_list(rows).to_parquet(str(tmp_path / "rows.parquet"))
    result = molmo("data", "check", tmp_path / "rows.parquet", "--fields", "doc_qa")
    assert result.code == 1 and "doc_qa, row 1: there is no answer" in result.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "no.jsonl"), "file no.jsonl does not exist"),
        (("check", "no.parquet", "--split", "test"), "--split goes with --fields"),
        (("check", ".", "--image-root", "."), "--image-root goes with a JSONL file or --fields"),
        (("check", "recipe.yaml", "--image-root", "."), "a recipe says image_root itself"),
        (("check", "x", "--fields", "pixmo"), "fields: 'pixmo' is not one of ai2d"),
        (("download", "pixmo", "there"), "pixmo is neither a file here nor one of the field maps"),
        (("download", "no.jsonl", "there"), "no.jsonl is neither a file here nor"),
    ],
)
def test_mistakes_are_one_line(molmo, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = molmo("data", *arguments)
    assert result.code == 1 and result.err.startswith("error: ") and message in " ".join(result.err.split())


def test_pictures_of_a_file_are_fetched_and_then_found(molmo, rows, web, tmp_path, picture):
    folder, url = web
    (folder / "a.png").write_bytes(picture.read_bytes())
    path = rows(*({**GOOD, "image": f"{url}/{name}"} for name in ("a.png", "b.png", "a.png")))
    target = tmp_path / "pictures"
    refused = molmo("data", "download", path, target)
    assert refused.code == 0 and "2: private address" in refused.out
    result = molmo("data", "download", path, target, "--allow-private", "--retry-skipped")
    assert result.code == 0
    assert f"{target}: 2 pictures wanted, 0 were there, 1 downloaded, 1 missing" in result.out
    assert "1: status 404" in result.out and "report.json lists them" in result.out
    assert downloaded_file(f"{url}/a.png", target).read_bytes() == picture.read_bytes()
    checked = molmo("data", "check", path, "--image-root", target)
    assert checked.code == 1 and "train: 3 rows, 1 bad" in checked.out
    assert f"{path}:2: the picture {url}/b.png is not on this machine" in checked.out


def test_pictures_of_a_dataset(molmo, web, tmp_path, picture):
    datasets = pytest.importorskip("datasets")
    folder, url = web
    (folder / "a.png").write_bytes(picture.read_bytes())
    rows = [{"image_url": f"{url}/{n}", "caption": "c", "transcripts": ["t"]} for n in ("a.png", "b.png")]
    path = tmp_path / "rows.parquet"
    datasets.Dataset.from_list(rows).to_parquet(str(path))
    arguments = ("--fields", "pixmo_cap", "--allow-private")
    assert "say with --fields" in molmo("data", "download", path, tmp_path / "p").err
    assert "1 downloaded, 1 missing" in molmo("data", "download", path, tmp_path / "p", *arguments).out
    assert "1 were there" in molmo("data", "download", path, tmp_path / "p", *arguments).out
    checked = molmo("data", "check", path, "--fields", "pixmo_cap", "--image-root", tmp_path / "p")
    assert checked.code == 0 and "pixmo_cap: 1 rows, 0 bad" in checked.out and "1 rows are left out" in checked.out


def test_check_finds_broken_videos(molmo, tmp_path):
    write_clip(tmp_path / "good.mp4")
    whole = write_clip(tmp_path / "cut.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "text.mp4").write_text("no video at all " * 40)
    (tmp_path / "empty.mp4").write_bytes(b"")
    names = ("good", "cut", "text", "empty", "missing")
    rows = [{"video": f"{name}.mp4", "question": "What?", "answer": "A square."} for name in names]
    rows.append({**rows[0], "start_s": 60})
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = molmo("data", "check", tmp_path / "rows.jsonl")
    assert result.code == 1 and "rows: 6 rows, 5 bad" in result.out, result.out
    for number, said in ((2, "cut.mp4"), (3, "text.mp4"), (4, "is empty"), (5, "does not exist"), (6, "60")):
        (line,) = (line for line in result.out.splitlines() if line.startswith(f"{tmp_path / 'rows.jsonl'}:{number}:"))
        assert said in line
    quick = molmo("data", "check", tmp_path / "rows.jsonl", "--quick")
    assert "6 rows, 1 bad" in quick.out
