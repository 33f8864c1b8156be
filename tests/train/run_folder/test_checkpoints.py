from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from toy_run import ToyRun, assert_same, opened, steps_in

from olmo.checkpoint.native import load_checkpoint
from olmo.config import BaseConfig
from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.train.run_folder.checkpoint_config import CheckpointConfig
from olmo.train.run_folder.checkpoints import RunCheckpoints

ASYNC = pytest.mark.parametrize("is_async", [False, True], ids=["waiting", "in the background"])


@ASYNC
def test_ten_and_ten_steps_equal_twenty_bit_for_bit(tmp_path: Path, is_async: bool) -> None:
    straight = ToyRun().train(20)
    expected = straight.tensors()
    first = ToyRun().train(10)
    with opened(tmp_path, is_async=is_async) as checkpoints:
        first.save(checkpoints)
        if is_async:
            first.train(1)  # goes on while the copy is written
    torch.manual_seed(99)
    with opened(tmp_path) as checkpoints:
        second = ToyRun(seed=5).resume(checkpoints).train(10)
    assert second.losses == straight.losses
    assert_same(second.tensors(), expected)


def test_nothing_to_resume(tmp_path: Path) -> None:
    with opened(tmp_path / "new") as checkpoints:
        assert checkpoints.load_latest(ToyRun().module, ToyRun().optimizer) is None


@ASYNC
def test_the_last_checkpoints_stay(tmp_path: Path, is_async: bool) -> None:
    run = ToyRun()
    (tmp_path / "step-notes").mkdir()
    with opened(tmp_path, keep_last=2, is_async=is_async) as checkpoints:
        for _ in range(4):
            run.train(1).save(checkpoints)
    assert steps_in(tmp_path) == [3, 4]
    with opened(tmp_path, keep_last=0) as checkpoints:
        run.train(1).save(checkpoints)
    assert steps_in(tmp_path) == [3, 4, 5]
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.startswith(".")) == [
        "step-notes", "step00000003", "step00000004", "step00000005",
    ]  # fmt: skip


def test_an_old_checkpoint_that_cannot_be_removed_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = ToyRun()
    with opened(tmp_path, keep_last=1) as checkpoints:
        run.train(1).save(checkpoints)
        monkeypatch.setattr("olmo.checkpoint.store.FolderStore.remove", lambda self, name: 1 / 0)
        with pytest.warns(UserWarning, match="cannot be removed: division by zero"):
            run.train(1).save(checkpoints)
    assert steps_in(tmp_path) == [1, 2]


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoints:
        run = ToyRun().train(2)
        run.save(checkpoints)
        before = (tmp_path / "step00000002" / "COMPLETE").stat().st_mtime_ns
        run.save(checkpoints)
        assert (tmp_path / "step00000002" / "COMPLETE").stat().st_mtime_ns == before


def test_every_file_is_in_the_marker_and_none_is_a_pickle(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoints:
        ToyRun().train(1).save(checkpoints)
    folder = tmp_path / "step00000001"
    names = {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}
    marker = json.loads((folder / "COMPLETE").read_text())
    assert set(marker["files"]) == set(marker["sha256"]) == names - {"COMPLETE"}
    assert {Path(n).suffix for n in names} == {".safetensors", ".json", ""}
    assert {n.split("/")[0] for n in names} == {"model", "optimizer", "extra", "generators", "train.json", "COMPLETE"}


def test_the_weights_load_as_a_native_checkpoint(tmp_path: Path) -> None:
    run = ToyRun().train(1)
    with opened(tmp_path) as checkpoints:
        run.save(checkpoints)
    fresh = ToyRun(seed=3)
    load_checkpoint(fresh.module, tmp_path / "step00000001")
    for name, tensor in run.module.state_dict().items():
        assert torch.equal(tensor, fresh.module.state_dict()[name])


def test_a_part_that_has_not_learnt_has_no_moments_after_a_resume(tmp_path: Path) -> None:
    run = ToyRun()
    run.module[0].requires_grad_(False)
    run.train(3)
    with opened(tmp_path) as checkpoints:
        run.save(checkpoints)
        again = ToyRun(seed=1).resume(checkpoints)
    assert set(again.optimizer.state) == {p for n, p in again.module.named_parameters() if not n.startswith("0.")}
    assert_same(again.tensors(), run.tensors())


def test_a_wrapped_module_saves_under_plain_names(tmp_path: Path) -> None:
    run = ToyRun().train(1)
    expected = run.tensors()
    run.module[0] = checkpoint_wrapper(run.module[0])
    assert "0._checkpoint_wrapped_module.weight" in dict(run.module.named_parameters())
    with opened(tmp_path) as checkpoints:
        run.save(checkpoints)
        assert_same(ToyRun(seed=1).resume(checkpoints).tensors(), expected)
        again = ToyRun(seed=1)
        again.module[0] = checkpoint_wrapper(again.module[0])
        again.resume(checkpoints)
    again.module[0] = again.module[0]._checkpoint_wrapped_module
    assert_same(again.tensors(), expected)


@pytest.mark.parametrize("what", ["weights", "moments", "json", "marker", "missing"])
def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(tmp_path: Path, what: str) -> None:
    run = ToyRun()
    with opened(tmp_path) as checkpoints:
        run.train(1).save(checkpoints)
        good = run.tensors()
        run.train(1).save(checkpoints)
    newest = tmp_path / "step00000002"
    file = {
        "weights": next(newest.glob("model/*")), "moments": next(newest.glob("optimizer/*")),
        "json": newest / "train.json", "marker": newest / "COMPLETE", "missing": next(newest.glob("extra/*")),
    }[what]  # fmt: skip
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    content[2] ^= 1
    file.write_bytes(content)
    if what == "missing":
        file.unlink()
    with opened(tmp_path) as checkpoints:
        with pytest.warns(UserWarning, match=r"step00000002 is damaged .* set aside as .*step00000002\.damaged"):
            again = ToyRun(seed=1).resume(checkpoints)
        assert again.step == 1
        assert_same(again.tensors(), good)
        again.train(1).save(checkpoints)
    assert steps_in(tmp_path) == [1, 2]


def test_all_damaged_is_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoints:
        ToyRun().train(1).save(checkpoints)
    (tmp_path / "step00000001" / "train.json").write_text("{}")
    with opened(tmp_path) as checkpoints, pytest.warns(UserWarning), pytest.raises(OLMoCheckpointError, match="every"):
        ToyRun().resume(checkpoints)


def test_the_checkpoint_of_another_model_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as checkpoints:
        ToyRun().train(1).save(checkpoints)
        other = ToyRun(width=7)
        before = other.tensors()
        with pytest.raises(OLMoCheckpointError, match=r"shape differs: 0\.weight"):
            other.resume(checkpoints)
        assert_same(other.tensors(), before)


def test_an_average_switched_on_later_is_named(tmp_path: Path) -> None:
    run = ToyRun().train(1)
    with opened(tmp_path) as checkpoints:
        checkpoints.save(1, run.module, run.optimizer, {})
        with pytest.raises(OLMoCheckpointError, match="average of weights was switched on or off"):
            run.resume(checkpoints)


def test_what_an_interrupted_save_left_is_cleared(tmp_path: Path) -> None:
    run = ToyRun().train(1)
    with opened(tmp_path) as checkpoints:
        run.save(checkpoints)
    (tmp_path / ".step00000009.saving" / "model").mkdir(parents=True)
    (tmp_path / "step00000008").mkdir()
    (tmp_path / "step00000008" / "train.json").write_text("{}")
    with opened(tmp_path) as checkpoints:
        assert ToyRun().resume(checkpoints).step == 1
    assert steps_in(tmp_path) == [1]
    assert not list(tmp_path.glob(".step*"))


def test_due_by_steps_and_by_the_clock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("olmo.train.run_folder.checkpoints.time.monotonic", lambda: now)
    with opened(tmp_path, every_steps=10) as checkpoints:
        assert [s for s in range(1, 31) if checkpoints.is_due(s)] == [10, 20, 30]
    with opened(tmp_path, every_steps=1000, every_seconds=60) as checkpoints:
        assert not checkpoints.is_due(1)
        now += 60
        assert checkpoints.is_due(2)
        ToyRun().train(2).save(checkpoints)
        assert not checkpoints.is_due(3)


def test_a_save_in_the_background_lets_training_go_on_and_is_finished(tmp_path: Path) -> None:
    gate = threading.Event()
    run = ToyRun().train(1)
    config = CheckpointConfig(is_async=True)
    checkpoints = RunCheckpoints(tmp_path, config, write_extra=lambda folder: bool(gate.wait(10)))
    run.save(checkpoints)
    saved = run.tensors()
    run.train(2)
    assert steps_in(tmp_path) == []
    gate.set()
    checkpoints.finish()
    with opened(tmp_path) as checkpoints:
        assert_same(ToyRun(seed=1).resume(checkpoints).tensors(), saved)


def test_what_goes_wrong_in_the_background_is_raised_at_the_next_chance(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        raise OSError(28, "No space left on device")

    checkpoints = RunCheckpoints(tmp_path, CheckpointConfig(is_async=True), write_extra=fail)
    run = ToyRun().train(1)
    run.save(checkpoints)
    with pytest.raises(OLMoCheckpointError, match="no room for step00000001"):
        run.train(1).save(checkpoints)
    checkpoints.finish()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_leaving_without_finish_loses_nothing(tmp_path: Path) -> None:
    if (child := os.fork()) == 0:
        checkpoints = RunCheckpoints(
            tmp_path, CheckpointConfig(is_async=True), write_extra=lambda folder: time.sleep(0.3)
        )
        ToyRun().train(3).save(checkpoints)
        threading._shutdown()  # what the interpreter does at its end
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert steps_in(tmp_path) == [3]


@dataclass(kw_only=True)
class Inner(BaseConfig):
    lr: float = 0.1
    decay: float = 0.0


@dataclass(kw_only=True)
class Recipe(BaseConfig):
    max_steps: int = 10
    seed: int = 1
    inner: Inner = field(default_factory=Inner)
    groups: list[Inner] = field(default_factory=list)


def with_recipe(folder: Path, recipe: Recipe, *allow: str) -> RunCheckpoints:
    return RunCheckpoints(folder, CheckpointConfig(), recipe=recipe, allow_changes=allow)


def test_a_changed_recipe_is_listed_and_can_be_allowed(tmp_path: Path) -> None:
    with with_recipe(tmp_path, Recipe(groups=[Inner()])) as checkpoints:
        assert checkpoints.load_latest(ToyRun().module, ToyRun().optimizer) is None
        ToyRun().train(1).save(checkpoints)
    assert Recipe.load(tmp_path / "config.yaml") == Recipe(groups=[Inner()])
    with with_recipe(tmp_path, Recipe(max_steps=20, groups=[Inner()])) as checkpoints:
        assert ToyRun().resume(checkpoints).step == 1
    assert Recipe.load(tmp_path / "config.yaml").max_steps == 20
    changed = Recipe(seed=2, inner=Inner(lr=0.2), groups=[Inner(decay=0.5)])
    with with_recipe(tmp_path, changed) as checkpoints, pytest.raises(OLMoConfigurationError) as caught:
        ToyRun().resume(checkpoints)
    for line in ("seed: 1 -> 2", "inner.lr: 0.1 -> 0.2", "groups.0.decay: 0.0 -> 0.5", "--allow-changes seed"):
        assert line in str(caught.value)
    with with_recipe(tmp_path, changed, "seed", "inner", "groups") as checkpoints:
        assert ToyRun().resume(checkpoints).step == 1


def test_a_field_that_is_newer_than_the_checkpoint_counts_with_its_default(tmp_path: Path) -> None:
    with with_recipe(tmp_path, Recipe()) as checkpoints:
        ToyRun().train(1).save(checkpoints)
    values = json.loads((tmp_path / "step00000001" / "train.json").read_text())
    del values["recipe"]["seed"], values["recipe"]["inner"]["lr"]
    (tmp_path / "step00000001" / "train.json").write_text(json.dumps(values))
    marker = tmp_path / "step00000001" / "COMPLETE"
    listed = json.loads(marker.read_text())
    listed["files"]["train.json"] = (tmp_path / "step00000001" / "train.json").stat().st_size
    del listed["sha256"]["train.json"]
    marker.write_text(json.dumps(listed))
    with with_recipe(tmp_path, Recipe()) as checkpoints:
        assert ToyRun().resume(checkpoints).step == 1
    with with_recipe(tmp_path, Recipe(seed=4)) as checkpoints, pytest.raises(OLMoConfigurationError, match="seed"):
        ToyRun().resume(checkpoints)


@pytest.mark.parametrize(
    "setting", [{"every_steps": 0}, {"every_seconds": -1}, {"keep_last": -1}], ids=lambda s: next(iter(s))
)
def test_bad_settings_name_the_field(setting: dict[str, int]) -> None:
    with pytest.raises(OLMoConfigurationError, match=next(iter(setting))):
        CheckpointConfig(**setting)


def test_a_url_as_run_folder_says_where_it_belongs() -> None:
    with pytest.raises(OLMoConfigurationError, match=r"checkpoint\.folder"):
        opened("s3://bucket/run")


@pytest.mark.parametrize("scheme", ["memory", "file"])
@ASYNC
def test_checkpoints_behind_a_url(tmp_path: Path, scheme: str, is_async: bool) -> None:
    place = f"memory://{tmp_path.name}" if scheme == "memory" else f"file://{tmp_path}/far"
    settings = {"folder": place, "staging_folder": str(tmp_path / "staging"), "keep_last": 1, "is_async": is_async}
    run = ToyRun()
    with opened(tmp_path / "run", **settings) as checkpoints:
        assert checkpoints.load_latest(run.module, run.optimizer) is None
        for _ in range(2):
            run.train(1).save(checkpoints)
    expected = run.tensors()
    with opened(tmp_path / "elsewhere", **settings) as checkpoints:
        assert checkpoints.store.names() == ["step00000002"]
        assert_same(ToyRun(seed=1).resume(checkpoints).tensors(), expected)
    assert not list((tmp_path / "staging").iterdir())
    assert not steps_in(tmp_path / "run")
