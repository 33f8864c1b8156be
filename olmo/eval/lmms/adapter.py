"""The adapter by which `lmms-eval` asks our models.

`LmmsAnswers` holds all of it and needs nothing of `lmms-eval`; `lmms_model_class` joins it with the base class there.
Source of the interface: `lmms_eval.api.model.lmms` and the model guide of that project, versions 0.2 to 0.6.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from olmo.engine.bulk import BulkAnswer, answer_all
from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.models.auto import from_pretrained
from olmo.models.base import ModelBase
from olmo.models.bundled import BUNDLED_MODEL, bundled_model_folder, is_bundled

DEFAULT_MAX_NEW_TOKENS = 448
"""Most tokens of an answer where a benchmark asks for no number."""

_PASSED_ON = ("max_new_tokens", "min_new_tokens", "top_p", "top_k", "num_beams", "repetition_penalty", "length_penalty")


class LmmsAnswers:
    """Answers the requests of `lmms-eval` with one of our models.

    Args:
        pretrained: folder or hub id; molmo-nano, molmo-nano-he and molmo-nano-video are bundled.
        device: where the model runs.
        dtype: number format of the weights.
        batch_size: questions decoded together; `lmms-eval` hands it over as text.
        max_batch_size: never more than this.
        style: style that questions are asked in, `vqa2` for short answers; None asks as a user would.

    Attributes:
        model: the loaded model.
        task_dict: documents by task and split; `lmms-eval` fills it.
    """

    task_dict: Mapping[str, Mapping[str, Any]]
    cache_hook: Any

    def __init__(
        self,
        pretrained: str = BUNDLED_MODEL,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int | str = 1,
        max_batch_size: int | str | None = None,
        style: str | None = None,
    ) -> None:
        self.pretrained, self.style = pretrained, style  # the base class names its cache by the first
        super().__init__()
        self.batch_size = _batch_size(batch_size, max_batch_size)
        folder = bundled_model_folder(pretrained) if is_bundled(pretrained) else pretrained
        self.model: ModelBase = from_pretrained(folder, device=device or "cpu", dtype=dtype)

    def generate_until(self, requests: Sequence[Any]) -> list[str]:
        """Answers to requests, each with `args` (context, settings, doc_to_visual, doc_id, task, split).

        Raises:
            OLMoInputError: a request with a video, or settings that contradict themselves.
        """
        answers: dict[int, str] = {}
        groups: dict[str, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(i)
        for members in groups.values():

            def take(answer: BulkAnswer, members: list[int] = members) -> None:
                i = members[answer.index]
                answers[i] = answer.text
                self.cache_hook.add_partial("generate_until", tuple(requests[i].args[:2]), answer.text)

            answer_all(
                self.model,
                (self._example(requests[i]) for i in members),
                generation=generation_options(requests[members[0]].args[1]),
                batch_size=self.batch_size,
                on_done=take,
            )
        return [answers[i] for i in range(len(requests))]

    def loglikelihood(self, requests: Sequence[Any]) -> list[tuple[float, bool]]:
        """Not offered: choose a benchmark that lets the model write its answer (`output_type: generate_until`)."""
        raise OLMoInputError("this adapter does not give likelihoods of answers; choose a task that generates them")

    def generate_until_multi_round(self, requests: Sequence[Any]) -> list[str]:
        """Not offered: benchmarks of several rounds have no document to read the rounds from here."""
        raise OLMoInputError("this adapter does not answer in several rounds; choose a task of one round")

    def _example(self, request: Any) -> dict[str, Any]:
        context, _, doc_to_visual, doc_id, task, split = request.args
        example: dict[str, Any] = {"prompt": context.replace("<image>", " ").strip(), "style": self.style}
        example["metadata"] = {"place": f"{task} {split} {doc_id}"}
        if images := _visuals(doc_to_visual, self.task_dict[task][split][doc_id], str(task)):
            example["images"] = images
        return example


def generation_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of our `generate` from the settings of a benchmark.

    Args:
        given: `max_new_tokens`, `temperature`, `do_sample`, `until` and the like; what is None is left out.
    """
    options: dict[str, Any] = {"max_new_tokens": DEFAULT_MAX_NEW_TOKENS}
    options |= {name: given[name] for name in _PASSED_ON if given.get(name) is not None}
    temperature = given.get("temperature") or 0
    if given.get("do_sample", temperature > 0) and temperature > 0:
        options |= {"do_sample": True, "temperature": temperature, "seed": 0}
    else:
        options.pop("top_p", None)
        options.pop("top_k", None)
    until = given.get("until") or ()
    stops = tuple(text for text in ((until,) if isinstance(until, str) else until) if text)
    return options | ({"stop_strings": stops} if stops else {})


def lmms_model_class() -> type:
    """Our model class for `lmms-eval`.

    Raises:
        OLMoConfigurationError: `lmms-eval` is not installed.
    """
    try:
        from lmms_eval.api.model import lmms
    except ImportError as error:
        raise OLMoConfigurationError(f"lmms-eval is not installed ({error}); install the package lmms-eval") from None

    class MolmoForLmms(LmmsAnswers, lmms):
        """`LmmsAnswers` as `lmms-eval` wants it."""

    return MolmoForLmms


def _batch_size(given: int | str, most: int | str | None) -> int:
    try:
        size = min(int(given), int(given if most is None else most))
    except ValueError:
        raise OLMoInputError(f"batch_size={given!r} is not a whole number; give one, 'auto' is not offered") from None
    return size


def _visuals(doc_to_visual: Callable[[Any], Any], document: Any, task: str) -> list[Any]:
    """Pictures of a document, however deep they are nested."""
    found, waiting = [], [doc_to_visual(document)]
    while waiting:
        one = waiting.pop(0)
        if isinstance(one, list | tuple):
            waiting = [*one, *waiting]
        elif isinstance(one, str) and one.lower().endswith((".mp4", ".avi", ".mov", ".mkv", ".webm")):
            raise OLMoInputError(f"task {task} shows a video ({one}); this adapter shows pictures only")
        elif one is not None:
            found.append(one)
    return found
