"""Examples with several conversations as several rows, each with one of them.

Where what a row keeps of its picture depends on the question, a row can ask only one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from olmo.train.task import Batch, Collate, Prepare

ROWS = "rows"
"""Key of a prepared example: its rows."""

IS_REPEAT = "is_repeat"
"""Key of a micro-batch: rows whose pictures another row before them has, bool `[B]`."""


class PrepareQuestions:
    """Examples as rows with one conversation each; which ones is drawn.

    Args:
        prepare: makes tensors of an example.
        most: rows of an example; one with fewer conversations has fewer.
    """

    def __init__(self, prepare: Prepare, most: int) -> None:
        self.prepare, self.most = prepare, most

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> Mapping[str, Any]:
        """The rows of an example, in a list."""
        conversations = example.get("message_list")
        if not isinstance(conversations, list | tuple) or len(conversations) < 2:
            return {ROWS: [self.prepare(example, rng)]}
        drawn = rng.permutation(len(conversations))[: self.most].tolist()
        styles, rows = example.get("styles"), []
        for i in drawn:
            one: dict[str, Any] = {**example, "message_list": [conversations[i]]}
            if isinstance(styles, list | tuple) and len(styles) == len(conversations):
                one["styles"] = [styles[i]]
            rows.append(self.prepare(one, rng))
        return {ROWS: rows}


class CollateQuestions:
    """The rows of all examples in one micro-batch.

    Args:
        collate: makes a micro-batch of rows.
    """

    def __init__(self, collate: Collate) -> None:
        self.collate = collate

    def __call__(self, examples: Sequence[Any]) -> Batch:
        """A micro-batch, with which of its rows repeat a picture."""
        batch = self.collate([row for example in examples for row in example[ROWS]])
        is_repeat = [i > 0 for example in examples for i in range(len(example[ROWS]))]
        return {**batch, IS_REPEAT: torch.tensor(is_repeat)}
