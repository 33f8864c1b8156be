"""The training loop: steps taken, watched, evaluated, saved. What is learned is the task's business.

Same configuration, same seed: same batches and losses, bit for bit on the CPU, also across a restart. All that a run
carries from step to step is weights, moments, averages and a few counts; batches and dropout follow from the step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from olmo.checkpoint.distributed_state import is_split
from olmo.data.loader import StepBatch, StepLoader
from olmo.exceptions import OLMoTrainingError
from olmo.torch_util import bfloat16_slowdown
from olmo.train.evaluation import evaluate, is_due
from olmo.train.optim.adamw import build_optimizer, component_configs, freeze, set_learning_rates, trained_parameters
from olmo.train.optim.ema import MovingAverage
from olmo.train.optim.unfreeze import UnfreezeSchedule, parse_phases
from olmo.train.parallel.processes import Parallel
from olmo.train.run_folder.bad_batch import save_bad_batch
from olmo.train.run_folder.checkpoints import RunCheckpoints
from olmo.train.step import StepSums, run_micro_batches, what_is_wrong
from olmo.train.stop_request import StopRequest
from olmo.train.task import TrainTask
from olmo.train.train_config import BadStepPolicy, Precision, TrainConfig
from olmo.train.watch.base import Watcher
from olmo.train.watch.build import build_watchers, stop_reason

SLOW_BFLOAT16 = 3.0
"""So many times the time of float32 and bfloat16 on a CPU is worth a warning."""


class Trainer:
    """Runs a task to its last step, resuming from the run folder when there is something to resume.

    Args:
        config: the recipe.
        task: what is trained.
        parallel: the processes of the run.
        allow_changes: dotted keys of the recipe that may differ from those of the checkpoint that is resumed from.

    Attributes:
        step: steps taken.
        max_steps: steps in all.
        stopped_by: the signal that ended `fit` before the last step; None where none did.
    """

    def __init__(
        self, config: TrainConfig, task: TrainTask, parallel: Parallel, allow_changes: Sequence[str] = ()
    ) -> None:
        self.config, self.task, self.parallel = config, task, parallel
        self.allow_changes = allow_changes
        self.run_dir = Path(config.run_dir)
        self.max_steps = config.n_steps(task.stream.n_rows)
        self.step = 0
        self.n_bad_in_row = 0
        self.n_bad_examples = 0
        self.watchers: list[Watcher] = []
        self.schedule = UnfreezeSchedule(parse_phases(config.unfreeze_schedule), task.n_vit_blocks)
        self.stopped_by: str | None = None
        self._checkpoints: RunCheckpoints | None = None
        self._is_shared = parallel.world_size > 1

    # -- a run -----------------------------------------------------------------------------------------------------

    def fit(self) -> None:
        """Train to the end, then export to `<run_dir>/final`.

        A first SIGTERM or Ctrl-C lets the step finish and writes a checkpoint; `stopped_by` then names it, and nothing
        is exported.
        """
        reason = "an error"
        try:
            self.start()
            with StopRequest() as request:
                reason = self._loop(request)
            if self.stopped_by is None:
                self._export()
        except KeyboardInterrupt:
            reason = "interrupted"
            raise
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise
        finally:
            self.close(reason)

    def start(self) -> None:
        """Take the run folder, spread the model over the processes and resume. Nothing is read or written before.

        Raises:
            OLMoCheckpointError: another run is at work in the folder, or its newest checkpoint does not fit.
        """
        config, task = self.config, self.task
        if config.n_threads:
            torch.set_num_threads(config.n_threads)
        self._checkpoints = RunCheckpoints(
            self.run_dir,
            config.checkpoint,
            recipe=config,
            allow_changes=self.allow_changes,
            write_extra=task.write_configuration,
        )
        freeze(task.components(), config.optimizer)
        task.module = self.parallel.wrap(
            task.module, activation_checkpointing=config.activation_checkpointing, compile=config.compile
        )
        task.module.train()
        self.optimizer = build_optimizer(task.components(), config.optimizer)
        self.learning = trained_parameters(self.optimizer)
        named = {name: p for part in self.learning.values() for name, p in part.items()}
        self.average = None if config.ema_decay is None else MovingAverage(named, config.ema_decay)
        state = self._checkpoints.load_latest(task.module, self.optimizer, self._extra_tensors()) or {}
        self.step = int(state.get("step", 0))
        self.n_bad_in_row = int(state.get("n_bad_in_row", 0))
        self.n_bad_examples = int(state.get("n_bad_examples", 0))
        self.watchers = build_watchers(config.watch, self.run_dir, self.parallel.is_main)
        self._tell_start()

    def close(self, reason: str = "finished") -> None:
        """Tell the watchers, wait for a checkpoint that is being written, and give the run folder back."""
        watchers, self.watchers = self.watchers, []
        try:
            for watcher in watchers:
                watcher.on_end(reason)
        finally:
            if self._checkpoints is not None:
                self._checkpoints.finish()
                self._checkpoints = None

    def _loop(self, request: StopRequest) -> str:
        """Take steps; returns why they ended."""
        since = time.perf_counter()
        for batch in self.batches():
            metrics = self.train_step(batch)
            now = time.perf_counter()
            since, metrics["step_s"] = now, now - since
            for watcher in self.watchers:
                watcher.on_step(self.step, metrics)
            wish = self._evaluate() if is_due(self.config.evaluation, self.step, self.max_steps) else None
            self.stopped_by = self._stop_signal(request)
            assert self._checkpoints is not None, "the run has started"
            if self._checkpoints.is_due(self.step) or self.step == self.max_steps or wish or self.stopped_by:
                self.save()
            if self.stopped_by:
                return f"stopped by {self.stopped_by}"
            if wish:
                return wish
            since = time.perf_counter()  # evaluations and checkpoints are no part of a step
        return "finished"

    def _stop_signal(self, request: StopRequest) -> str | None:
        """The signal that asks for an end, to whichever process it came; None in the last step, which ends anyway."""
        has_come = self.parallel.max(int(request.name is not None)) if self._is_shared else request.name is not None
        return (request.name or "a signal") if has_come and self.step < self.max_steps else None

    def batches(self) -> Iterator[StepBatch]:
        """This process's batches of the steps still to be taken."""
        config, parallel = self.config, self.parallel
        loader = StepLoader(
            self.task.stream,
            self.task.prepare,
            self.task.collate,
            batch_size=config.batch_size,
            micro_batch_size=config.micro_batch_size or config.batch_size,
            max_steps=self.max_steps,
            first_step=self.step,
            first_example=config.first_example,
            rank=parallel.data_rank,
            world_size=parallel.data_world_size,
            pack=config.pack,
            sequence_length=self.task.sequence_length,
            seed=config.seed,
            n_workers=config.n_workers,
            on_bad_example=config.on_bad_example,
            pin_memory=parallel.device.type == "cuda",
        )
        yield from loader

    # -- a step ----------------------------------------------------------------------------------------------------

    def train_step(self, batch: StepBatch) -> dict[str, float]:
        """One optimizer step.

        Returns:
            What watchers are told of it.

        Raises:
            OLMoTrainingError: loss or gradient is not finite, and the recipe says to stop then.
        """
        config = self.config
        seed_step(config.seed, self.step, self.parallel.data_rank)
        self.task.begin_step(self.step, self.max_steps)
        rates = set_learning_rates(self.optimizer, config.optimizer, self.step, self.max_steps)
        self.optimizer.zero_grad(set_to_none=True)
        self._freeze_for_now()
        sums = run_micro_batches(self.task, batch.micro_batches, self.parallel, precision=config.precision)
        norms = self.parallel.clip(self.learning, config.optimizer.clip_norm)
        metrics = self._metrics(batch, sums, rates, norms)
        why = what_is_wrong(sums, norms)
        if why is None:
            self.optimizer.step()
            self.task.end_step(self.parallel.sum)
            if self.average is not None:
                self.average.update()
            self.n_bad_in_row = 0
        else:
            self._bad_step(batch, why)
            del metrics["loss"]
        self.step += 1
        return metrics

    def _freeze_for_now(self) -> None:
        """Let autograd leave out what does not learn yet; without a gradient there is no movement and no moment."""
        for component, named in self.learning.items():
            for name, parameter in named.items():
                parameter.requires_grad_(self._learns(component, name))

    def _learns(self, component: str, name: str) -> bool:
        """Whether a parameter learns in the step about to be taken."""
        if self.step < component_configs(self.config.optimizer)[component].first_step:
            return False
        return component != "vit" or self.schedule.learns(name, self.step)

    def _bad_step(self, batch: StepBatch, why: str) -> None:
        """Leave the weights alone, or end the run."""
        self.n_bad_in_row += 1
        self.optimizer.zero_grad(set_to_none=True)
        config = self.config
        if config.on_nan is BadStepPolicy.skip and self.n_bad_in_row < config.max_bad_steps:
            self._warn(f"step {self.step} was skipped, the weights are unchanged: {why}")
            return
        rank = self.parallel.rank if self._is_shared else None
        path = save_bad_batch(self.run_dir, self.step, batch.micro_batches, why, rank)
        many = f" ({self.n_bad_in_row} bad steps in a row)" if self.n_bad_in_row > 1 else ""
        raise OLMoTrainingError(
            f"step {self.step}{many}: {why}. The batch is in {path}; look at its examples, lower the learning rates, "
            "or pass over such steps with on_nan=skip. The last checkpoint is untouched"
        )

    def _metrics(
        self, batch: StepBatch, sums: StepSums, rates: dict[str, float], norms: dict[str, float]
    ) -> dict[str, float]:
        n_examples, n_bad = self.parallel.sum([float(batch.n_examples), float(len(batch.bad))])
        if n_bad:
            self.n_bad_examples += int(n_bad)
            here = f"; among them {batch.bad[0]}" if batch.bad else ""
            self._warn(f"{int(n_bad)} examples of step {self.step} cannot be used and were left out{here}")
        return {
            "loss": sums.loss,
            **sums.averages,
            **{f"lr_{name}": rate for name, rate in rates.items()},
            **{f"grad_norm_{name}": norm for name, norm in norms.items()},
            **sums.counts,
            "n_examples": n_examples,
            "wait_s": batch.wait_s,
        }

    # -- around the steps ------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write a checkpoint that this run resumes from."""
        assert self._checkpoints is not None, "the run has started"
        state = {"step": self.step, "n_bad_in_row": self.n_bad_in_row, "n_bad_examples": self.n_bad_examples}
        self._checkpoints.save(self.step, self.task.module, self.optimizer, state, self._extra_tensors())

    def _extra_tensors(self) -> dict[str, torch.Tensor]:
        return {} if self.average is None else {f"ema/{n}": t for n, t in self.average.tensors().items()}

    def _evaluate(self) -> str | None:
        """Evaluate and tell; returns why the run should end, if a watcher thinks so."""
        if self.average is None:
            results = evaluate(self.task, self.config, self.parallel)
        else:
            with self.average.in_place():
                results = evaluate(self.task, self.config, self.parallel)
        for watcher in self.watchers:
            watcher.on_evaluation(self.step, results)
        reason = stop_reason(self.watchers)
        if self.parallel.max(int(reason is not None)):
            return reason or "the main process asked for it"
        return None

    def _export(self) -> None:
        if self.average is None:
            self._export_weights()
        else:
            with self.average.in_place():
                self._export_weights()

    def _export_weights(self) -> None:
        self.parallel.join()
        if self.parallel.is_main or is_split(self.task.module):  # what is split only all can write together
            self.task.export(self.run_dir / "final")
        self.parallel.barrier()

    def _warn(self, message: str) -> None:
        for watcher in self.watchers:
            watcher.on_warning(self.step, message)

    def _tell_start(self) -> None:
        is_half = self.config.precision is Precision.amp_bf16
        facts: dict[str, Any] = {
            "step": self.step,
            "max_steps": self.max_steps,
            "run_dir": str(self.run_dir),
            "device": str(self.parallel.device),
            "dtype": "bfloat16" if is_half else "float32",
            "n_devices": self.parallel.world_size,
            "n_params": sum(p.numel() for part in self.task.components().values() for p in part.values()),
            "config": self.config.asdict(),
        }
        for watcher in self.watchers:
            watcher.on_start(facts)
        if is_half and self.parallel.device.type == "cpu" and (times := bfloat16_slowdown()) > SLOW_BFLOAT16:
            self._warn(
                f"this processor has no units for bfloat16: a product takes {times:.0f} times as long as in float32. "
                "Stop and start again with precision=fp32"
            )


def seed_step(seed: int, step: int, data_rank: int = 0) -> None:
    """Seed what is random inside the model, which is dropout. Processes that share data draw the same."""
    torch.manual_seed((seed * 1_000_003 + step) * 65_537 + data_rank)
