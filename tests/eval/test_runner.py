from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from olmo.data.row_source import RowSource
from olmo.data.scenes.moving.dataset import MovingScenesSource
from olmo.data.source_config import SourceConfig
from olmo.eval.asking import AskingOptions
from olmo.eval.html_report import write_report
from olmo.eval.predictions import Predictions, weights_fingerprint
from olmo.eval.runner import EvalResult, evaluate, run_task
from olmo.eval.scene_test import SceneTest
from olmo.eval.scenes_eval import evaluate_scenes
from olmo.eval.tasks import TASKS, EvalTask, task_of, with_data
from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.models.molmo.molmo import Molmo, MolmoConfig

FEW = AskingOptions(batch_size=2, generation={"max_new_tokens": 4})


class Rows(RowSource):
    """Rows with one or two questions each, and counts of how often each was read."""

    def __init__(self, n: int = 6) -> None:
        self.name, self.n, self.read = "rows", n, [0] * n

    def __len__(self) -> int:
        return self.n

    def _example(self, row: int, epoch: int) -> dict[str, Any]:
        self.read[row] += 1
        talks = [{"question": f"How many in {row}, {k}?", "answer": str(k)} for k in range(1 + row % 2)]
        return {"message_list": talks}


def count_task(source: RowSource, **changes: Any) -> EvalTask:
    return EvalTask(name="rows", source=source, metrics=("exact", "count"), **changes)


@pytest.fixture
def stops_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes the model break down at its n-th batch."""

    def install(n: int) -> None:
        whole, calls = Molmo.generate, iter(range(1_000_000))

        def generate(self: Molmo, *args: Any, **options: Any) -> Any:
            if next(calls) >= n:
                raise KeyboardInterrupt
            return whole(self, *args, **options)

        monkeypatch.setattr(Molmo, "generate", generate)

    return install


def figures(result: EvalResult) -> tuple[dict[str, float], list[str]]:
    return result.scores, [one.prediction for one in result.scored]


def test_in_two_stages_equals_direct(tiny_model: Molmo, tmp_path: Path) -> None:
    """P39: generate, then score what was written, equals scoring in memory."""
    task = count_task(Rows())
    direct = evaluate(tiny_model, task, options=FEW)
    first = run_task(tiny_model, task, tmp_path, options=FEW)
    second = run_task(None, task, tmp_path, options=FEW)
    assert direct == first.scores == second.scores
    assert figures(first) == figures(second)
    assert len(first.scored) == 9 and [one.item.key for one in first.scored][:3] == [(0, 0), (1, 0), (1, 1)]
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert (
        written["n_questions"] == 9
        and written["n_rows"] == 6
        and written["main"] == ["exact/accuracy", "count/correct"]
    )
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert {line["prompt"] for line in lines} >= {"How many in 0, 0?", "How many in 5, 1?"}


@pytest.mark.parametrize("n_batches", [0, 1, 3])
def test_a_stopped_run_goes_on(
    tiny_model: Molmo,
    tmp_path: Path,
    stops_after: Callable[[int], None],
    n_batches: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = run_task(tiny_model, count_task(Rows()), tmp_path / "whole", options=FEW)
    stops_after(n_batches)
    with pytest.raises(KeyboardInterrupt):
        run_task(tiny_model, count_task(Rows()), tmp_path / "part", options=FEW)
    answered = Predictions(tmp_path / "part").load().found
    assert len(answered) == 2 * n_batches
    assert not (tmp_path / "part" / "metrics.json").exists()
    monkeypatch.undo()
    asked = []
    monkeypatch.setattr(Predictions, "add", _noting(asked))
    again = run_task(tiny_model, count_task(Rows()), tmp_path / "part", options=FEW)
    assert figures(again) == figures(whole)
    assert len(asked) == 9 - len(answered) and not set(asked) & set(answered)


def _noting(asked: list[tuple[int, int]]) -> Callable[..., None]:
    add = Predictions.add

    def noting(self: Predictions, prediction: Any) -> None:
        asked.append((prediction.row, prediction.question))
        add(self, prediction)

    return noting


def test_a_line_that_was_cut_off_is_asked_again(tiny_model: Molmo, tmp_path: Path) -> None:
    whole = run_task(tiny_model, count_task(Rows()), tmp_path, options=FEW)
    path = tmp_path / "predictions.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    with pytest.raises(OLMoInputError, match=r"no answer to 1 of 6 rows .* without --score-only"):
        run_task(None, count_task(Rows()), tmp_path)
    again = run_task(tiny_model, count_task(Rows()), tmp_path, options=FEW)
    assert figures(again) == figures(whole) and len(path.read_bytes().splitlines()) == 9


def test_a_damaged_line_is_named(tiny_model: Molmo, tmp_path: Path) -> None:
    run_task(tiny_model, count_task(Rows(2)), tmp_path, options=FEW)
    path = tmp_path / "predictions.jsonl"
    path.write_text("{}\n" + path.read_text())
    with pytest.raises(OLMoInputError, match=r"predictions\.jsonl:1 is not an answer"):
        run_task(None, count_task(Rows(2)), tmp_path)


def test_more_rows_go_on_from_fewer(tiny_model: Molmo, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    first = run_task(tiny_model, count_task(Rows(), limit=2), tmp_path, options=FEW, progress=lambda *p: seen.append(p))
    assert len(first.scored) == 3 and seen[0] == (0, 2) and seen[-1] == (2, 2)
    seen.clear()
    run_task(tiny_model, count_task(Rows(), limit=4), tmp_path, options=FEW, progress=lambda *p: seen.append(p))
    assert seen[0] == (2, 4) and seen[-1] == (4, 4)
    source = Rows()
    fewer = run_task(tiny_model, count_task(source, limit=2), tmp_path, options=FEW)
    assert fewer.scores == first.scores and source.read == [1, 1, 0, 0, 0, 0], "only scored, nothing asked"


def test_answers_of_another_model_are_not_mixed_in(tiny_model: Molmo, tiny_config: MolmoConfig, tmp_path: Path) -> None:
    run_task(tiny_model, count_task(Rows(2)), tmp_path, options=FEW)
    other = Molmo(tiny_config, seed=1)
    assert weights_fingerprint(other) != weights_fingerprint(tiny_model) == weights_fingerprint(Molmo(tiny_config))
    with pytest.raises(OLMoInputError, match=r"made otherwise .weights was .* --fresh"):
        run_task(other, count_task(Rows(2)), tmp_path, options=FEW)
    with pytest.raises(OLMoInputError, match="style was None and is 'vqa2'"):
        run_task(tiny_model, count_task(Rows(2), style="vqa2"), tmp_path, options=FEW)
    run_task(other, count_task(Rows(2)), tmp_path, options=FEW, fresh=True)
    assert len(Predictions(tmp_path).load().found) == 3


def test_changed_questions_are_noticed(tiny_model: Molmo, tmp_path: Path) -> None:
    run_task(tiny_model, count_task(Rows(2)), tmp_path, options=FEW)
    path = tmp_path / "predictions.jsonl"
    path.write_text(path.read_text().replace("How many in 1, 0?", "What?"))
    with pytest.raises(OLMoInputError, match=r"rows, row 1: .* the data has changed"):
        run_task(tiny_model, count_task(Rows(2)), tmp_path, options=FEW)


def test_the_mode_of_the_model_stays(tiny_model: Molmo) -> None:
    tiny_model.train()
    try:
        evaluate(tiny_model, count_task(Rows(1)), options=FEW)
        assert tiny_model.training
    finally:
        tiny_model.eval()


def test_nothing_to_ask(tiny_model: Molmo, tmp_path: Path) -> None:
    with pytest.raises(OLMoInputError, match="nothing to ask: rows has 0 rows"):
        evaluate(tiny_model, count_task(Rows(0)))
    with pytest.raises(OLMoConfigurationError, match="has no metric"):
        evaluate(tiny_model, EvalTask(name="x", source=Rows(1), metrics=()))


def test_scenes_as_a_task_equal_the_evaluation_of_scenes(
    tiny_model: Molmo, items: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    n_rows = len({seed for seed, _ in items[:12]})
    some = [item for item in items if item[0] in {seed for seed, _ in items[:12]}]
    report = evaluate_scenes(tiny_model, some, batch_size=4)
    task = EvalTask(name="scenes", source=SceneTest(), metrics=("scene",), limit=n_rows, max_new_tokens=8)
    found = evaluate(tiny_model, task)
    points = {f"{task}_{figure}" for task in report.points for figure in ("precision", "recall", "f1")}
    assert set(report.tasks) | points == {name.removeprefix("scene/") for name in found} - {"accuracy"}
    row = SceneTest()[0]
    assert [(row["metadata"]["seed"], q) for q in row["metadata"]["questions"]] == [
        i for i in items if i[0] == items[0][0]
    ]


def picture_rows(folder: Path) -> Path:
    Image.new("RGB", (40, 20), (200, 30, 30)).save(folder / "a.png")
    rows = [
        {"image": "a.png", "question": "Where is <b>red</b>?", "points": [[10, 5]], "style": "pointing"},
        {"image": "a.png", "label": "dots", "points": [[10, 5]], "style": "pointing"},
    ]
    path = folder / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_of_ones_own_and_its_report(tiny_model: Molmo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture_rows(tmp_path)
    answers = iter(['<script>alert("x")</script>', '<point x="25.0" y="25.0" alt="dots">dots</point>'])

    def generate(self: Molmo, input_ids: torch.Tensor, **options: Any) -> Any:
        whole = Molmo.__mro__[1].generate(self, input_ids, **options)
        whole.text[:] = [next(answers)]
        return whole

    monkeypatch.setattr(Molmo, "generate", generate)
    task = task_of(f"{path}:contains,points")
    assert (task.name, task.metrics) == ("mine", ("contains", "points"))
    points = task_of(f"{path}:points")
    with pytest.raises(OLMoInputError, match=r"mine\.jsonl:1: metric 'contains': the row has no answer"):
        evaluate(tiny_model, task, options=AskingOptions(batch_size=1, generation={"max_new_tokens": 1}))
    answers = iter(['<script>alert("x")</script>', '<point x="25.0" y="25.0" alt="dots">dots</point>'])
    result = run_task(
        tiny_model, points, tmp_path / "out", options=AskingOptions(batch_size=1, generation={"max_new_tokens": 1})
    )
    write_report(result, points.open(), tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") == 2 and page.count("<article>") == 2
    assert "<script" not in page and "&lt;script&gt;" in page and "Where is &lt;b&gt;red&lt;/b&gt;?" in page
    assert "default-src &#x27;none&#x27;" in page or "default-src 'none'" in page
    assert page.index("Not right") < page.index("&lt;script") < page.index("<h2>Right") < page.index("dots&lt;/point")


def test_tasks_by_name() -> None:
    assert task_of("scenes") is TASKS["scenes"]
    with pytest.raises(OLMoConfigurationError, match=r"'chartqa' is not a task; did you mean 'chart_qa'"):
        task_of("chartqa")
    with pytest.raises(OLMoConfigurationError, match=r"says no metric; write mine\.jsonl:exact"):
        task_of("mine.jsonl")
    with pytest.raises(OLMoConfigurationError, match=r"'bleu' in 'mine\.jsonl:bleu' is not a metric"):
        task_of("mine.jsonl:bleu")
    with pytest.raises(OLMoConfigurationError, match=r"no file 'no_such\.jsonl'"):
        task_of("no_such.jsonl:exact")


def test_a_file_is_found_beside_the_recipe(tmp_path: Path) -> None:
    picture_rows(tmp_path)
    task = task_of("mine.jsonl:exact", base_dir=tmp_path)
    assert len(task.open()) == 2


def test_other_data_for_a_task() -> None:
    task = with_data(TASKS["chart_qa"], path="here", split="val")
    assert isinstance(task.source, SourceConfig) and (task.source.path, task.source.split) == ("here", "val")
    assert with_data(TASKS["chart_qa"]) is TASKS["chart_qa"]
    with pytest.raises(OLMoConfigurationError, match="draws its pictures itself"):
        with_data(TASKS["scenes"], path="here")


def test_every_task_has_known_metrics_and_room_for_an_answer() -> None:
    for task in TASKS.values():
        assert task.answer_tokens() >= 12 and task.about
        assert isinstance(task.source, SceneTest | MovingScenesSource) or task.source.fields == task.name
