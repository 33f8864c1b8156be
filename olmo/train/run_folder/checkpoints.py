"""The checkpoints of a run: found, loaded, saved and thinned out.

    with RunCheckpoints(config.run_dir, config.checkpoint, recipe=config) as checkpoints:
        state = checkpoints.load_latest(module, optimizer, {"ema": ...}) or {"step": 0}
        ...
        if checkpoints.is_due(step) or step == max_steps:
            checkpoints.save(step, module, optimizer, {"tokens": n}, {"ema": ...})

Every process of a run makes one and calls the same methods in the same order. It holds the run folder for this run
alone, from the constructor to `finish`. A checkpoint is a folder `step00000200` (see `training_checkpoint`) that is
complete or not there; the newest complete one wins.
"""

from __future__ import annotations

import re
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from olmo.checkpoint.manifest import Manifest
from olmo.checkpoint.processes import Processes
from olmo.checkpoint.remote import is_url, open_store
from olmo.checkpoint.store import write_checkpoint
from olmo.checkpoint.training_checkpoint import Snapshot, read_values, restore
from olmo.config import BaseConfig
from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.train.run_folder.checkpoint_config import CheckpointConfig
from olmo.train.run_folder.lock import RunLock
from olmo.train.run_folder.recipe_changes import check_recipe

STEP_PATTERN = "step" + "[0-9]" * 8
"""Names of the folders of checkpoints; other folders in the run folder are never touched."""

RECIPE_FILE = "config.yaml"

_STEP = re.compile(r"step(\d{8})")


class RunCheckpoints:
    """Saves and restores a run.

    Args:
        run_dir: folder of the run, on a file system that all processes share.
        config: when to save, what to keep, where to.
        recipe: configuration of the run; stored with each checkpoint and compared when resuming.
        allow_changes: dotted keys of the recipe that may differ from those of the checkpoint.
        write_extra: called with the folder of each new checkpoint, in the main process, to add files such as the
            model's config.yaml; with `is_async`, from another thread.

    Raises:
        OLMoCheckpointError: another run is at work in the folder.
        OLMoConfigurationError: `run_dir` is a URL.
    """

    def __init__(
        self,
        run_dir: str | Path,
        config: CheckpointConfig,
        *,
        recipe: BaseConfig | None = None,
        allow_changes: Sequence[str] = (),
        write_extra: Callable[[Path], None] | None = None,
    ) -> None:
        if is_url(str(run_dir)):
            raise OLMoConfigurationError(
                f"must be a folder on this machine, got {run_dir}; to keep checkpoints behind a URL set "
                "checkpoint.folder to it",
                "run_dir",
            )
        self.run_dir, self.config = Path(run_dir), config
        self.recipe, self.allow_changes, self.write_extra = recipe, tuple(allow_changes), write_extra
        place = config.folder if config.folder is not None else str(run_dir)
        self.store = open_store(place, config.staging_folder)
        self._processes = Processes.join()
        # What is written in the background sends its messages over a group of its own.
        self._writers = Processes.join() if config.is_async else self._processes
        folders = {self.run_dir.absolute()} | (set() if is_url(place) else {Path(place).absolute()})
        self._locks = [RunLock(folder) for folder in sorted(folders)]
        with self._processes.together(f"taking {run_dir}"):
            if self._processes.is_main:
                self._take()
        self._last_save_s = time.monotonic()
        self._last_step: int | None = None
        self._writing: threading.Thread | None = None
        self._failure: BaseException | None = None

    def __enter__(self) -> RunCheckpoints:
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint should be saved after `step` steps; the same answer in every process."""
        if step % self.config.every_steps == 0:
            return True
        if not self.config.every_seconds:
            return False
        return bool(self._processes.from_main(time.monotonic() - self._last_save_s >= self.config.every_seconds))

    def load_latest(
        self, module: nn.Module, optimizer: Optimizer, extra_tensors: Mapping[str, Tensor] | None = None
    ) -> dict[str, Any] | None:
        """Restore the newest checkpoint bit for bit.

        A checkpoint with a damaged file is set aside with a warning, and the one before it is taken.

        Args:
            module: everything that is trained, wrapped and split as it will be trained.
            optimizer: its optimizer.
            extra_tensors: tensors to fill, by the names that `save` was given.

        Returns:
            The `state` that was saved, with its "step"; None where there is nothing to resume.

        Raises:
            OLMoConfigurationError: the recipe differs in more than is harmless or allowed.
            OLMoCheckpointError: the checkpoint belongs to another model, or every checkpoint is damaged.
        """
        names = self._processes.from_main([name for name in self.store.names() if _STEP.fullmatch(name)])
        aside: list[str] = []
        for name in reversed(names):
            values = self._load(name, module, optimizer, extra_tensors or {}, aside)
            if values is not None:
                self._last_step = int(values["step"])
                self._write_recipe()
                return {"step": self._last_step, **values["state"]}
        if aside:
            raise OLMoCheckpointError(
                f"every checkpoint of this run is damaged ({', '.join(aside)}); copy one again, or remove them to "
                "start afresh"
            )
        self._write_recipe()
        return None

    def save(
        self,
        step: int,
        module: nn.Module,
        optimizer: Optimizer,
        state: Mapping[str, Any],
        extra_tensors: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write the checkpoint of `step`; does nothing where it is already there.

        With `is_async` this returns when the state is copied, after waiting for the one before to be written.

        Args:
            step: steps taken.
            module: everything that is trained.
            optimizer: its optimizer.
            state: plain JSON values to get back from `load_latest`.
            extra_tensors: further tensors by name, such as the average of the weights.

        Raises:
            OLMoCheckpointError: this or the last checkpoint cannot be written, for example on a full disk. What was
                complete before is intact.
        """
        self._wait()
        if step == self._last_step:
            return
        values = {
            "format": 1,
            "step": step,
            "processes": self._processes.size,
            "state": dict(state),
            "recipe": self.recipe.asdict() if self.recipe is not None else None,
        }
        snapshot = Snapshot.take(module, optimizer, extra_tensors or {}, values, is_copied=self.config.is_async)
        self._last_save_s = time.monotonic()
        if self.config.is_async:
            # Not a daemon: the interpreter waits for it, so a checkpoint that was begun is finished.
            self._writing = threading.Thread(target=self._write_later, args=(step, snapshot), name="checkpoint")
            self._writing.start()
        else:
            self._write(step, snapshot)

    def finish(self) -> None:
        """Wait for a checkpoint that is still being written, and give the run folder back.

        Raises:
            OLMoCheckpointError: that checkpoint could not be written.
        """
        try:
            self._wait()
        finally:
            if self._writers is not self._processes:
                self._writers.leave()
            self._processes.leave()
            for lock in self._locks:
                lock.release()

    def _take(self) -> None:
        """Lock the folders; clear what an interrupted save has left."""
        taken: list[RunLock] = []
        try:
            for lock in self._locks:
                lock.acquire()
                taken.append(lock)
            self.store.clean(STEP_PATTERN)
        except BaseException:
            for lock in taken:
                lock.release()
            raise

    def _load(
        self,
        name: str,
        module: nn.Module,
        optimizer: Optimizer,
        extra_tensors: Mapping[str, Tensor],
        aside: list[str],
    ) -> dict[str, Any] | None:
        """Restore one checkpoint; None where it is damaged, and then its place is added to `aside`."""
        with self.store.fetched(name, self._processes) as folder:
            damage = self._damage(name, folder)
            if not damage:
                values = read_values(folder)
                if self.recipe is not None and values["recipe"] is not None:
                    check_recipe(self.recipe, values["recipe"], self.allow_changes, f"{self.store.location}/{name}")
                restore(folder, module, optimizer, extra_tensors, self._processes.rank)
                return values
        with self._processes.together(f"setting {name} aside"):
            where = self.store.set_aside(name) if self._processes.is_main else ""
        aside.append(self._processes.from_main(where))
        warnings.warn(f"{name} is damaged ({damage[0]}) and was set aside as {aside[-1]}", stacklevel=3)
        return None

    def _damage(self, name: str, folder: Path) -> list[str]:
        """What is wrong with a checkpoint; each process looks at a share of the files."""
        found: list[str] = []
        try:
            manifest = self.store.manifest(name)
            if not self.config.is_verified:
                manifest = Manifest(manifest.files)
            found = manifest.damage(folder, sorted(manifest.files)[self._processes.rank :: self._processes.size])
        except OLMoCheckpointError as error:
            found = [str(error)]
        return [line for part in self._processes.gather(found) for line in part]

    def _write_later(self, step: int, snapshot: Snapshot) -> None:
        try:
            self._write(step, snapshot)
        except BaseException as error:
            self._failure = error

    def _write(self, step: int, snapshot: Snapshot) -> None:
        writers = self._writers
        write_checkpoint(
            self.store,
            f"step{step:08d}",
            writers,
            lambda folder: snapshot.write_shared(folder, writers),
            lambda folder: snapshot.write_own(folder, writers, self.write_extra),
        )
        self._last_step = step
        if writers.is_main and self.config.keep_last:
            self._thin_out(step)

    def _thin_out(self, step: int) -> None:
        """Remove all but the last checkpoints up to `step`, which is complete."""
        try:
            steps = sorted(int(found.group(1)) for name in self.store.names() if (found := _STEP.fullmatch(name)))
            for old in [s for s in steps if s <= step][: -self.config.keep_last]:
                self.store.remove(f"step{old:08d}")
        except Exception as error:
            # A network file system keeps files that are open, a bucket may forbid it: not a reason to end a run, least
            # of all in one process alone.
            warnings.warn(f"old checkpoints in {self.store.location} cannot be removed: {error}", stacklevel=2)

    def _wait(self) -> None:
        """Wait for the checkpoint that is being written; raise what went wrong with it."""
        if self._writing is not None:
            self._writing.join()
            self._writing = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure

    def _write_recipe(self) -> None:
        if self.recipe is not None and self._processes.is_main:
            self.recipe.save(self.run_dir / RECIPE_FILE)
