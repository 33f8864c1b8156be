"""Answers on disk: a line each, written as they come, so that a run that was stopped goes on where it was.

A folder holds `settings.json`, which says what the answers are answers to, and `predictions.jsonl`. Answers of another
model, or to other questions, are never mixed in. Knows nothing of metrics.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from olmo.exceptions import OLMoInputError
from olmo.io import write_atomic

SETTINGS_FILE, PREDICTIONS_FILE = "settings.json", "predictions.jsonl"
_SAMPLES = 256


@dataclass(frozen=True)
class Prediction:
    """One answer, as it stands in the file.

    Attributes:
        row: row of the source.
        question: place among the questions of the row.
        n_questions: how many the row has.
        prompt: the question.
        prediction: the answer.
        image_size: (width, height) of the first picture or frame, px, or None.
        frame_seconds: times of the frames that were shown of each video; empty for pictures.
    """

    row: int
    question: int
    n_questions: int
    prompt: str
    prediction: str
    image_size: tuple[int, int] | None = None
    frame_seconds: tuple[tuple[float, ...], ...] = ()


class Predictions:
    """The answers of one folder: those already there, and those that are added.

    Attributes:
        found: answers by (row, question).
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path = self.folder / PREDICTIONS_FILE
        self.found: dict[tuple[int, int], Prediction] = {}

    def begin(self, settings: Mapping[str, Any], fresh: bool = False) -> Self:
        """Open the folder for one set of questions.

        Args:
            settings: plain values that decide the answers: the model, its weights, the data, the way of asking.
            fresh: forget what is there.

        Raises:
            OLMoInputError: the folder holds answers that were made with other settings.
        """
        file, settings = self.folder / SETTINGS_FILE, dict(settings)
        if fresh:
            self.path.unlink(missing_ok=True)
        elif file.is_file() and self.path.is_file():
            _require_same(_read_settings(file), settings, self.folder)
        write_atomic(file, json.dumps(settings, indent=1) + "\n")
        return self.load()

    def load(self) -> Self:
        """Read the answers that are there. A line that was cut off when a run was killed is dropped from the file."""
        self.found = {}
        if not self.path.is_file():
            return self
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            with self.path.open("r+b") as file:
                file.truncate(len(whole))
        for number, line in enumerate(whole.decode("utf-8").splitlines(), start=1):
            prediction = _read_line(line, f"{self.path}:{number}")
            self.found[prediction.row, prediction.question] = prediction
        return self

    def is_answered(self, row: int) -> bool:
        """Whether every question of a row is answered."""
        first = self.found.get((row, 0))
        if first is None:
            return False
        return all((row, question) in self.found for question in range(first.n_questions))

    def __enter__(self) -> Self:
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def add(self, prediction: Prediction) -> None:
        """Write one answer, inside a `with` block; it is in the file when this returns."""
        self.found[prediction.row, prediction.question] = prediction
        values = asdict(prediction)
        if not prediction.frame_seconds:
            del values["frame_seconds"]
        self._file.write(json.dumps(values, ensure_ascii=False) + "\n")
        self._file.flush()


def weights_fingerprint(model: nn.Module) -> str:
    """A short name for the weights of a model: equal for equal weights, in all likelihood different for others.

    Reads a few hundred values of each tensor, so it takes no time even for large models.
    """
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, len(flat) // _SAMPLES)].to(device="cpu", dtype=torch.float32)
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(sample.contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise OLMoInputError(
            f"cannot read {file}: {error}; start anew with --fresh, or choose another folder"
        ) from None
    return settings if isinstance(settings, dict) else {}


def _require_same(before: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    # Through JSON, as the earlier settings went: a tuple comes back as a list.
    before, now = _flat(before), _flat(json.loads(json.dumps(now)))
    missing = object()
    differing = [key for key in {**before, **now} if before.get(key, missing) != now.get(key, missing)]
    if differing:
        told = "; ".join(f"{key} was {before.get(key)!r:.80} and is {now.get(key)!r:.80}" for key in differing)
        raise OLMoInputError(
            f"{folder} holds answers that were made otherwise ({told}); choose another folder, or --fresh to drop them"
        )


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by dotted names, so that a message can name the one that differs among many."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _read_line(line: str, where: str) -> Prediction:
    try:
        values = json.loads(line)
        size = values.pop("image_size", None)
        values["frame_seconds"] = tuple(tuple(map(float, times)) for times in values.pop("frame_seconds", ()))
        prediction = Prediction(**values, image_size=None if size is None else (int(size[0]), int(size[1])))
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise OLMoInputError(
            f"{where} is not an answer ({error}); remove the line, or start anew with --fresh"
        ) from None
    return prediction
