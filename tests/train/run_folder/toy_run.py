"""A run of a few hundred numbers: dropout, a schedule, moments, an average of the weights. Deterministic by step."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from olmo.train.run_folder.checkpoint_config import CheckpointConfig
from olmo.train.run_folder.checkpoints import RunCheckpoints


class ToyRun:
    """What a trainer does, in few lines. The generator runs on from step to step, so it must be restored too."""

    def __init__(self, seed: int = 0, width: int = 6) -> None:
        torch.manual_seed(seed)
        self.module: nn.Module = nn.Sequential(
            nn.Linear(5, width), nn.Tanh(), nn.Dropout(0.3), nn.Linear(width, 3), nn.LayerNorm(3), nn.Linear(3, 1)
        )
        self.module.register_buffer("seen", torch.tensor([0, 0]))
        self.step = 0
        self.losses: list[float] = []
        self.finish_setup()

    def finish_setup(self) -> None:
        """Optimizer and average over the module as it is now."""
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=0.01, fused=True)
        self.average = {name: p.detach().clone() for name, p in self.parameters().items()}

    def parameters(self) -> dict[str, nn.Parameter]:
        """By their names in the bare module."""
        return {name.removeprefix("module."): p for name, p in self.module.named_parameters()}

    def train(self, n_steps: int) -> ToyRun:
        """Take steps."""
        for _ in range(n_steps):
            generator = torch.Generator().manual_seed(self.step)
            batch = torch.randn(8, 5, generator=generator)
            for group in self.optimizer.param_groups:
                group["lr"] = 0.01 / (1 + self.step)
            loss = (self.module(batch).squeeze(-1) - batch.sum(-1)).square().mean()
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
            self.losses.append(float(loss.detach()))
            self.step += 1
            with torch.no_grad():
                for name, p in self.parameters().items():
                    self.average[name].lerp_(p, 0.1)
        return self

    def save(self, checkpoints: RunCheckpoints) -> None:
        """Save the step that was reached."""
        checkpoints.save(self.step, self.module, self.optimizer, {"losses": self.losses}, self.average)

    def resume(self, checkpoints: RunCheckpoints) -> ToyRun:
        """Continue from the newest checkpoint."""
        state = checkpoints.load_latest(self.module, self.optimizer, self.average)
        if state is not None:
            self.step, self.losses = state["step"], state["losses"]
        return self

    def tensors(self) -> dict[str, Tensor]:
        """Copies of all it consists of."""
        found = {f"weight {k.removeprefix('module.')}": v for k, v in self.module.state_dict().items()}
        found |= {f"average {k}": v for k, v in self.average.items()}
        for name, parameter in self.parameters().items():
            found |= {f"{k} {name}": v for k, v in self.optimizer.state.get(parameter, {}).items()}
        found["generator"] = torch.get_rng_state()
        return {k: v.detach().clone() for k, v in found.items()}


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    """Same names, types, devices and bits."""
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert (tensor.dtype, tensor.device) == (second[name].dtype, second[name].device), name
        assert torch.equal(tensor, second[name]), name


def steps_in(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, complete or not."""
    return sorted(int(p.name[4:]) for p in folder.glob("step*") if p.name[4:].isdigit())


def opened(run_dir: Path | str, /, **settings: object) -> RunCheckpoints:
    """Checkpoints in a folder."""
    return RunCheckpoints(run_dir, CheckpointConfig(**settings))
