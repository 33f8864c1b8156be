"""A file of requests and its answers: as if alone, in order, each mistake in its own line, resumed after a stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from local_server import data_url, picture_bytes
from PIL import Image

from olmo.exceptions import OLMoError, OLMoInputError
from olmo.models.molmo.molmo import Molmo
from olmo.models.video_olmo.video_olmo import VideoOlmo, VideoOlmoConfig
from olmo.preprocessing.image import load_image
from olmo.serve.answering import Answering
from olmo.serve.batch.rows import read_row
from olmo.serve.batch.run import BATCH_LIMITS, BatchCounts, run_batch
from olmo.serve.serve_config import ServeConfig

CONFIG = ServeConfig(**{**BATCH_LIMITS, "model_name": "tiny", "max_rows": 4, "default_max_tokens": 6})


def openai_line(key: str, url: str = "/v1/chat/completions", **body: Any) -> dict[str, Any]:
    whole = {"model": "tiny", "messages": [{"role": "user", "content": "what?"}], "max_tokens": 5, **body}
    return {"custom_id": key, "method": "POST", "url": url, "body": whole}


def written(folder: Path, *lines: Any) -> Path:
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (folder / "in.jsonl").write_text(text, encoding="utf-8")
    return folder / "in.jsonl"


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def alone(model: Any, example: dict[str, Any], n: int = 6) -> str:
    inputs = model.config.build_preprocessor(for_inference=True)(example)
    tensors = {k: v for k, v in inputs.items() if isinstance(v, torch.Tensor)}
    return str(model.generate(**tensors, max_new_tokens=n).text[0])


def test_answers_are_those_given_alone_in_the_order_of_the_rows(model: Molmo, tmp_path: Path) -> None:
    """Of very different lengths, so that later ones are done first."""
    asked = [{"prompt": f"question {i} " * (1 + i % 3), "max_tokens": 60 if i % 9 == 0 else 2} for i in range(40)]
    counts = run_batch(model, written(tmp_path, *asked), tmp_path / "out.jsonl", CONFIG)
    found = lines_of(tmp_path / "out.jsonl")
    assert counts == BatchCounts(40, 0, 0)
    assert [line["row"] for line in found] == list(range(40))
    assert [line["text"] for line in found] == [alone(model, row, row["max_tokens"]) for row in asked]
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["in.jsonl", "out.jsonl"], "nothing is left behind"


def test_files_are_found_from_the_folder_of_the_requests(model: Molmo, tmp_path: Path) -> None:
    data = picture_bytes(50, 30)
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a b.png").write_bytes(data)
    absolute = tmp_path / "p" / "a b.png"
    parts = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": "p/a b.png"}}]
    names = [
        "p/a b.png",
        str(absolute),
        "file:p/a%20b.png",
        f"file://{str(absolute).replace(' ', '%20')}",
        data_url(data),
    ]
    rows = [{"id": i, "prompt": "look", "image": name} for i, name in enumerate(names)]
    turns = [{"role": "user", "content": "look"}]
    run_batch(
        model,
        written(
            tmp_path,
            *rows,
            {"messages": turns, "images": ["p/a b.png"]},
            openai_line("o", messages=[{"role": "user", "content": parts}], max_tokens=6),
        ),
        tmp_path / "out.jsonl",
        CONFIG,
    )
    *short, last = lines_of(tmp_path / "out.jsonl")
    wanted = alone(model, {"prompt": "look", "image": load_image(data, 10**6)})
    assert [line["text"] for line in short] == [wanted] * 6
    assert [line["id"] for line in short] == [0, 1, 2, 3, 4, None]
    assert short[0]["image_sizes"] == [{"width": 50, "height": 30}] and short[0]["points"] == []
    assert last["response"]["body"]["choices"][0]["message"]["content"] == wanted


def test_lines_of_openai_are_answered_in_its_form(model: Molmo, tmp_path: Path) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "boolean"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    source = written(
        tmp_path,
        openai_line("json", response_format=wanted, max_tokens=30),
        openai_line("many", n=2, logprobs=True, seed=1),
        openai_line("points", "/v1/points"),
        openai_line("wrong", model="other"),
    )
    counts = run_batch(model, source, tmp_path / "out.jsonl", CONFIG)
    found = {line["custom_id"]: line for line in lines_of(tmp_path / "out.jsonl")}
    assert list(found) == ["json", "many", "points", "wrong"] and counts.n_failed == 1
    assert {line["response"]["status_code"] for line in found.values()} == {200, 404}
    choice = found["json"]["response"]["body"]["choices"][0]
    assert set(json.loads(choice["message"]["content"])) == {"a"}
    many = found["many"]["response"]["body"]
    assert (
        many["object"] == "chat.completion" and len(many["choices"]) == 2 and many["choices"][1]["logprobs"]["content"]
    )
    assert found["points"]["response"]["body"]["object"] == "points" and found["points"]["error"] is None
    assert found["wrong"]["error"]["code"] == "model_not_found"
    assert found["wrong"]["response"]["body"]["error"]["code"] == "model_not_found"
    assert len({line["id"] for line in found.values()}) == 4


@pytest.mark.parametrize(("line", "code", "match"), [
    ("{bad", "invalid_json", "not JSON"), ("[1]", "invalid_json", "not a JSON object"),
    ("\xff{}", "invalid_json", "JSON"),
    ("[" * 100_000, "invalid_json", ""), ({}, "invalid_value", "prompt or messages"),
    ({"prompt": "a", "messages": []}, "invalid_value", "one of them"), ({"prompt": 5}, "invalid_value", "messages"),
    ({"prompt": "a", "top_k": 3}, "invalid_value", "top_k"), ({"prompt": "a", "image": 3}, "invalid_value", "image:"),
    ({"prompt": "a", "images": "a.png"}, "invalid_value", "images: must be a list"),
    ({"messages": 3, "image": "a.png"}, "invalid_value", "messages: must be a list"),
    ({"prompt": "a", "stream": True}, "unsupported", "stream"),
    ({"prompt": "a", "n": 2}, "unsupported", "n and logprobs"),
    ({"custom_id": 3, "body": {}}, "invalid_value", "custom_id"),
    (openai_line("a", "/v1/embeddings"), "invalid_value", "url"),
    ({"custom_id": "a", "body": []}, "invalid_value", "body"), ({**openai_line("a"), "x": 1}, "invalid_value", "'x'"),
    ({"custom_id": "a", "body": {"messages": [{"role": "user", "content": "\ud800"}]}}, "invalid_json", "JSON"),
])  # fmt: skip
def test_a_wrong_line_says_what_is_wrong(line: Any, code: str, match: str) -> None:
    raw = line.encode("latin-1") if isinstance(line, str) else json.dumps(line).encode()
    row = read_row(3, raw, "tiny")
    assert row.request is None and row.error is not None
    told = row.failed(row.error)
    assert told["error"]["code"] == code and match in told["error"]["message"] and len(told["error"]["message"]) < 700


def test_what_cannot_be_read_or_answered_is_an_error_line_and_the_others_go_on(model: Molmo, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(picture_bytes()[:60])
    (tmp_path / "text.png").write_text("no picture")
    source = written(
        tmp_path,
        {"prompt": "a", "image": "none.png"},
        {"prompt": "a", "image": "http://127.0.0.1/a.png"},
        {"prompt": "a", "image": "broken.png"},
        {"prompt": "a", "image": "text.png"},
        {"prompt": "a", "image": "."},
        {"prompt": "a", "video": "a.mp4"},
        {"prompt": "why? " * 3000},
        "",
        {"id": "good", "prompt": "a"},
    )
    counts = run_batch(model, source, tmp_path / "out.jsonl", CONFIG)
    *wrong, good = lines_of(tmp_path / "out.jsonl")
    codes = [line["error"]["code"] for line in wrong]
    media = ["invalid_url", "unsupported_url", "invalid_media", "invalid_media", "invalid_url", "unsupported_media"]
    assert codes == [*media, "context_length_exceeded"]
    assert good == {**good, "row": 7, "id": "good", "text": alone(model, {"prompt": "a"}), "error": None}
    assert counts == BatchCounts(8, 7, 0)


class StoppedError(Exception):
    """Stands for a kill."""


def test_a_batch_goes_on_where_it_was_stopped(model: Molmo, tmp_path: Path) -> None:
    source = written(tmp_path, *({"prompt": f"question {i}"} if i != 2 else "{bad" for i in range(20)))
    run_batch(model, source, tmp_path / "whole.jsonl", CONFIG)
    target = tmp_path / "out.jsonl"

    def stop(n_done: int, _: int) -> None:
        if n_done == 7:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_batch(model, source, target, CONFIG, progress=stop)
    part = tmp_path / "out.jsonl.part"
    assert not target.exists() and len(lines_of(part)) == 1 + 7
    with part.open("ab") as file:
        file.write(b'{"row": 7, "text": "cut o')
    seen: list[tuple[int, int]] = []
    counts = run_batch(model, source, target, CONFIG, progress=lambda *told: seen.append(told))
    assert counts == BatchCounts(20, 1, 7) and seen == [(n, 20) for n in range(7, 21)]
    assert lines_of(target) == lines_of(tmp_path / "whole.jsonl") and not part.exists()


def test_answers_to_other_rows_or_of_another_model_are_not_mixed_in(model: Molmo, tmp_path: Path) -> None:
    source, target = written(tmp_path, {"prompt": "a"}, {"prompt": "b"}), tmp_path / "out.jsonl"

    def stop(n_done: int, _: int) -> None:
        if n_done == 1:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_batch(model, source, target, CONFIG, progress=stop)
    other = Molmo(model.config).eval()
    torch.nn.init.constant_(next(other.parameters()), 0.5)
    with pytest.raises(OLMoInputError, match="differs in weights;"):
        run_batch(other, source, target, CONFIG)
    source.write_text('{"prompt": "c"}\n')
    with pytest.raises(OLMoInputError, match=r"differs in rows;.*--fresh"):
        run_batch(model, source, target, CONFIG)
    assert run_batch(model, source, target, CONFIG, fresh=True) == BatchCounts(1, 0, 0)
    with pytest.raises(OLMoInputError, match="is there already"):
        run_batch(model, source, target, CONFIG)
    assert lines_of(target)[0]["text"] == alone(model, {"prompt": "c"})


def test_files_that_cannot_be_meant(model: Molmo, tmp_path: Path) -> None:
    source = written(tmp_path, {"prompt": "a"})
    for bad, target, match in (
        (tmp_path / "none.jsonl", tmp_path / "out.jsonl", "there is no file"),
        (source, source, "is the file that is read"),
        (source, tmp_path, "is a folder"),
    ):
        with pytest.raises(OLMoInputError, match=match):
            run_batch(model, bad, target, CONFIG, fresh=True)


def test_an_unexpected_error_is_one_line_and_a_failed_engine_stops_the_batch(
    model: Molmo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared, source = Answering._prepared, written(tmp_path, *({"prompt": text} for text in "abcd"))

    def broken(answering: Answering, example: dict[str, Any]) -> dict[str, Any]:
        if "b" in str(example):
            raise RuntimeError("a bug")
        return prepared(answering, example)

    with monkeypatch.context() as patched:
        patched.setattr(Answering, "_prepared", broken)
        assert run_batch(model, source, tmp_path / "one.jsonl", CONFIG).n_failed == 1
    assert [line["error"] is None for line in lines_of(tmp_path / "one.jsonl")] == [True, False, True, True]

    def dies(*_: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr("olmo.engine.continuous.ContinuousEngine._step", dies)
    with pytest.raises(OLMoError, match="goes on where it was"):
        run_batch(model, source, tmp_path / "two.jsonl", CONFIG)
    assert not (tmp_path / "two.jsonl").exists()
    monkeypatch.undo()
    assert run_batch(model, source, tmp_path / "two.jsonl", CONFIG).n_failed == 0


def test_videos_are_files_too(model: Molmo, tmp_path: Path) -> None:
    frames = [load_image(picture_bytes(40, 30, seed=i), 10**6) for i in range(4)]
    pictures = [Image.fromarray(frame) for frame in frames]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=400, lossless=True)
    video_model = VideoOlmo(VideoOlmoConfig.from_molmo(model.config, pooling_h=2, pooling_w=2, max_frames=3)).eval()
    source = written(tmp_path, {"prompt": "what happens?", "video": "a.webp"})
    run_batch(video_model, source, tmp_path / "out.jsonl", CONFIG)
    line = lines_of(tmp_path / "out.jsonl")[0]
    assert line["text"] == alone(video_model, {"prompt": "what happens?", "video": str(tmp_path / "a.webp")})
