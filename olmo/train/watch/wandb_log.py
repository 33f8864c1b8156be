"""Metrics of a run to Weights & Biases. Needs the extra `wandb`. A run that goes on stays one run there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olmo.exceptions import OLMoConfigurationError
from olmo.io import write_atomic
from olmo.train.watch.base import Watcher
from olmo.train.watch.config import WandbConfig
from olmo.train.watch.tensorboard_log import tag_of

ID_FILE = "wandb_id.txt"


class WandbLog(Watcher):
    """Logs scalars and the recipe; a warning becomes an alert.

    Args:
        config: project, entity, name and mode.
        run_dir: folder of the run; its files and the id of the run lie there.

    Raises:
        OLMoConfigurationError: the package `wandb` is not installed.
    """

    def __init__(self, config: WandbConfig, run_dir: str | Path) -> None:
        try:
            import wandb
        except ImportError:
            raise OLMoConfigurationError(
                "needs the package wandb: pip install 'molmo[wandb]', or set watch.wandb=null", "watch.wandb"
            ) from None
        self._wandb: Any = wandb
        self._run: Any = None
        self._config, self._run_dir = config, Path(run_dir)

    def on_start(self, facts: Mapping[str, Any]) -> None:
        """Start the run there, or go on with the one that this folder began.

        What was logged of steps that are taken again stays; the new values of these steps, the same ones where nothing
        was changed, are not taken by Weights & Biases.
        """
        self._run_dir.mkdir(parents=True, exist_ok=True)
        id_file = self._run_dir / ID_FILE
        known = id_file.read_text(encoding="utf-8").strip() if id_file.is_file() else None
        self._run = self._wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            name=self._config.name or self._run_dir.name,
            mode=self._config.mode.value,
            dir=str(self._run_dir),
            id=known,
            resume="allow",
            config=dict(facts.get("config") or {}),
        )
        write_atomic(id_file, f"{self._run.id}\n")

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """One point of every curve, under the names that TensorBoard gets."""
        self._run.log({tag_of(name): value for name, value in metrics.items()}, step=step)

    def on_evaluation(self, step: int, results: Mapping[str, float]) -> None:
        """One point of every curve of the section `evaluation`."""
        self._run.log({f"evaluation/{name}": value for name, value in results.items()}, step=step)

    def on_warning(self, step: int, message: str) -> None:
        """Raise an alert, which Weights & Biases can send by mail."""
        self._run.alert(title=f"step {step}", text=message)

    def on_end(self, reason: str) -> None:
        """Close the run, as failed where it ended otherwise than it was meant to."""
        if self._run is not None:
            self._run.finish(exit_code=0 if reason.startswith(("finished", "stopped")) else 1)
