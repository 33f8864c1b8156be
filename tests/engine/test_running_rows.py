"""Rows that come and go decode as they would alone."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from olmo.engine.running_rows import RunningRows
from olmo.models.generate import CachedStep, prefill
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.models.text_inputs import text_inputs
from olmo.nn.llm_config import LlmConfig


@pytest.fixture(scope="module")
def model() -> Molmo:
    llm = LlmConfig(
        d_model=32, n_heads=4, n_kv_heads=2, n_layers=2, mlp_hidden_size=48, vocab_size=90, max_sequence_length=200,
        init_std=0.3,
    )  # fmt: skip
    return Molmo(MolmoConfig(llm=llm, vision_backbone=None)).eval()


def prompt(seed: int, length: int) -> Tensor:
    return torch.randint(0, 90, (length,), generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def started(model: Molmo, *prompts: Tensor, side: str = "right") -> tuple[CachedStep, Tensor]:
    longest = max(map(len, prompts))
    rows = []
    for ids in prompts:
        fill = ids.new_full((longest - len(ids),), -1)
        rows.append(torch.cat((ids, fill) if side == "right" else (fill, ids)))
    return prefill(model, text_inputs(torch.stack(rows), model.config.llm), 1)


@torch.no_grad()
def alone(model: Molmo, ids: Tensor, n: int) -> list[Tensor]:
    """Logits of n greedy steps."""
    step, logits = started(model, ids)
    found = [logits[0]]
    for _ in range(n):
        logits = step(logits.argmax(dim=-1))
        found.append(logits[0])
    return found


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_rows_join_and_leave_at_any_step(model: Molmo, side: str) -> None:
    """Row 0 runs all the time; 1 and 2 join together after 3 steps, 3 joins after 5; 1 leaves after 6, 0 after 8."""
    prompts = [prompt(0, 12), prompt(1, 5), prompt(2, 20), prompt(3, 9)]
    wanted = [alone(model, ids, 14) for ids in prompts]
    running = RunningRows(model.llm)
    rows: list[int] = []
    done = dict.fromkeys(range(4), 0)
    newest: list[Tensor] = []

    def join(*numbers: int) -> None:
        step, logits = started(model, *(prompts[i] for i in numbers), side=side)
        running.join(step)
        rows.extend(numbers)
        newest.extend(logits)

    join(0)
    for step in range(12):
        if step == 3:
            join(1, 2)
        if step == 5:
            join(3)
        for number, leaves_at in ((1, 6), (0, 8)):
            if step == leaves_at:
                stays = [i for i, row in enumerate(rows) if row != number]
                running.keep(stays)
                rows, newest = [rows[i] for i in stays], [newest[i] for i in stays]
        for row, logits in zip(rows, newest, strict=True):
            torch.testing.assert_close(logits, wanted[row][done[row]], atol=2e-5, rtol=1e-4)
        newest = list(running(torch.stack([logits.argmax() for logits in newest])))
        for row in rows:
            done[row] += 1
    assert rows == [2, 3] and done == {0: 8, 1: 3, 2: 9, 3: 7}


@torch.no_grad()
def test_slots_that_nobody_needs_are_given_back(model: Molmo) -> None:
    running = RunningRows(model.llm)
    running.join(started(model, prompt(0, 60))[0])
    running.join(started(model, prompt(1, 7))[0])
    assert running.length == 60 and len(running) == 2
    running.keep([1])
    assert running.length == 7
    running.keep([0, 0, 0])
    assert len(running) == 3
    logits = running(torch.tensor([4, 4, 5]))
    assert torch.equal(logits[0], logits[1]) and not torch.equal(logits[0], logits[2])
    running.keep([])
    assert len(running) == 0 and running.length == 0
    running.join(started(model, prompt(2, 4))[0])
    assert len(running) == 1 and running.length == 4
