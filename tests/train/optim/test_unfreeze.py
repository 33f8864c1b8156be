from __future__ import annotations

from pathlib import Path

import pytest
import torch
from stopped_run import stop_and_resume

from olmo.exceptions import OLMoConfigurationError
from olmo.train.optim.unfreeze import UnfreezeSchedule, parse_phases
from olmo.train.run import build_trainer


def test_blocks_open_from_the_end() -> None:
    schedule = UnfreezeSchedule(parse_phases([[2, 0], [10, 1], [20, "all"]]), n_blocks=3)
    assert [schedule.blocks_at(s) for s in (0, 2, 9, 10, 19, 20, 99)] == [0, 0, 0, 1, 1, None, None]
    names = [f"vision_backbone.image_vit.blocks.{i}.attention.wqkv.weight" for i in range(3)]
    table = "vision_backbone.image_vit.positional_embedding"
    assert [schedule.learns(n, 10) for n in (*names, table)] == [False, False, True, False]
    assert all(schedule.learns(n, 20) for n in (*names, table))
    assert all(UnfreezeSchedule((), 3).learns(n, 0) for n in (*names, table))


@pytest.mark.parametrize("bad", [[[0]], [5], [[-1, 0]], [[0, "some"]], [[0, True]], [[3, 1], [3, 2]]])
def test_other_forms_are_refused(bad: list[object]) -> None:
    with pytest.raises(OLMoConfigurationError, match="unfreeze_schedule"):
        parse_phases(bad)


def test_changed_blocks_equal_the_schedule(recipe: Path) -> None:
    """Promise 33: per phase, exactly the blocks that the schedule names change, to the bit, and keep no moments."""
    overrides = ["unfreeze_schedule=[[0,0],[2,1],[4,all]]", "optimizer.weight_decay=0.1", "max_steps=6"]
    trainer = build_trainer(recipe, overrides)
    trainer.start()
    vit = trainer.task.components()["vit"]

    def snapshot() -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in vit.items()}

    def groups_that_differ(before: dict[str, torch.Tensor]) -> set[str]:
        return {
            name.split("blocks.")[1][0] if "blocks." in name else "embeddings"
            for name, p in vit.items()
            if not torch.equal(p, before[name])
        }

    before, seen = snapshot(), {}
    for batch in trainer.batches():
        trainer.train_step(batch)
        if trainer.step in (2, 4, 6):
            seen[trainer.step] = groups_that_differ(before)
            before = snapshot()
            with_moments = {n for n, p in vit.items() if trainer.optimizer.state.get(p)}
            assert with_moments == {n for n in vit if trainer.schedule.learns(n, trainer.step - 1)}
    trainer.close()
    assert seen == {2: set(), 4: {"1"}, 6: {"0", "1", "embeddings"}}


def test_a_run_that_resumes_within_a_phase_is_the_same(recipe: Path, tmp_path: Path) -> None:
    overrides = ["unfreeze_schedule=[[0,0],[2,1],[4,all]]"]
    straight = build_trainer(recipe, [*overrides, f"run_dir={tmp_path / 'straight'}"])
    straight.fit()
    resumed = stop_and_resume(recipe, overrides, after=3)
    pairs = zip(straight.task.module.named_parameters(), resumed.task.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for (_, a), b in pairs)


def test_a_component_begins_at_its_first_step(recipe: Path) -> None:
    overrides = ["optimizer.llm.first_step=2", "optimizer.vit.first_step=4", "optimizer.weight_decay=0.1"]
    trainer = build_trainer(recipe, overrides)
    trainer.start()
    begins = {"connector": 0, "llm": 2, "vit": 4}
    for batch in trainer.batches():
        before = {k: {n: p.detach().clone() for n, p in v.items()} for k, v in trainer.learning.items()}
        metrics = trainer.train_step(batch)
        for component, named in trainer.learning.items():
            moved = any(not torch.equal(p, before[component][n]) for n, p in named.items())
            assert moved == (trainer.step > begins[component]), (component, trainer.step)
            assert any(trainer.optimizer.state.get(p) for p in named.values()) == moved
            assert (metrics[f"lr_{component}"] > 0) == moved
    trainer.close()
