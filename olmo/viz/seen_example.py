"""An example as a model sees it in training, together with what was cut and what was wrong with it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.preprocessor import IGNORE_LABEL, Preprocessor


@dataclass(frozen=True)
class SeenExample:
    """One example for the data page.

    Attributes:
        place: where a person finds it, `train.jsonl:17`.
        given: the example before preprocessing; empty where it could not be read.
        inputs: what the preprocessor made of it, with labels; None where it could not be used.
        n_uncut: its tokens if there were no limit.
        error: why it cannot be used; empty where it can.
    """

    place: str
    given: Mapping[str, Any] = field(default_factory=dict)
    inputs: Mapping[str, Any] | None = None
    n_uncut: int = 0
    error: str = ""

    @property
    def n_tokens(self) -> int:
        """Tokens of the sequence."""
        return 0 if self.inputs is None else len(self.inputs["input_ids"])

    @property
    def n_cut(self) -> int:
        """Tokens of text that did not fit."""
        return max(0, self.n_uncut - self.n_tokens)

    @property
    def n_learned(self) -> int:
        """Tokens that a loss is taken at."""
        if self.inputs is None:
            return 0
        return int(((self.inputs["labels"] != IGNORE_LABEL) & (self.inputs["loss_masks"] > 0)).sum())

    @property
    def weight(self) -> float:
        """Sum of the loss weights: its say in a step."""
        return 0.0 if self.inputs is None else float(self.inputs["loss_masks"].clamp(min=0).sum())

    @property
    def n_crops(self) -> int:
        """Crops of all pictures."""
        return 0 if self.inputs is None or "images" not in self.inputs else len(self.inputs["images"])


def see_example(
    place: str, read: Callable[[], Mapping[str, Any]], preprocess: Preprocessor, seed: tuple[int, int]
) -> SeenExample:
    """Read an example and preprocess it as training does.

    Args:
        place: where a person finds it.
        read: gives the raw example.
        preprocess: preprocessor for training, with `include_image`.
        seed: seed of the run and index of the example in its stream, from which wordings and prefixes are drawn.

    Returns:
        The example, with an error in place of `inputs` where it cannot be used.
    """
    given: Mapping[str, Any] = {}
    try:
        given = read()
        inputs = preprocess(given, rng=np.random.default_rng(seed))
        n_uncut = len(inputs["input_ids"])
        if preprocess.max_seq_len is not None and n_uncut >= preprocess.max_seq_len:
            unlimited = copy.copy(preprocess)
            unlimited.max_seq_len = None
            n_uncut = len(unlimited(given, rng=np.random.default_rng(seed))["input_ids"])
    except (OLMoInputError, OSError) as error:
        return SeenExample(place, given, error=str(error))
    return SeenExample(place, given, inputs, n_uncut)
