"""A batch that broke a run, kept for a person to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file

from olmo.train.task import Batch


def save_bad_batch(run_dir: Path, step: int, micro_batches: Sequence[Batch], why: str, rank: int | None = None) -> Path:
    """Write the micro-batches of one process to `bad_batch_<step>.safetensors`, tensors as `<micro-batch>/<key>`.

    Args:
        run_dir: folder of the run.
        step: the step, from 0.
        micro_batches: what this process computed.
        why: what was wrong; stands in the file's metadata.
        rank: number of the process, where there are several.

    Returns:
        The file.
    """
    of_process = "" if rank is None else f"_rank{rank}"
    path = run_dir / f"bad_batch_{step}{of_process}.safetensors"
    tensors = {
        f"{i}/{key}": value.detach().cpu().contiguous()
        for i, batch in enumerate(micro_batches)
        for key, value in batch.items()
        if isinstance(value, torch.Tensor)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"step": str(step), "why": why})
    return path
