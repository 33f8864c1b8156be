"""The sharded form is one that several processes share: written by one and read by two, and the other way round."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing, nn
from torch.distributed import checkpoint as dcp
from torch.distributed.fsdp import fully_shard

from olmo.checkpoint.native import COMPLETE, SHARDS_FOLDER, load_checkpoint, save_checkpoint


def build(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(*(nn.Linear(16, 16) for _ in range(3)))


def work(rank: int, folder: str) -> None:
    """Read what one process wrote in both forms, then write a model whose tensors are split over two."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    for weights in (f"{folder}/one/{SHARDS_FOLDER}", f"{folder}/plain"):
        model = build(1)
        fully_shard(model)
        dcp.load(model.state_dict(), storage_reader=dcp.HuggingFaceStorageReader(weights))
        for ours, theirs in zip(model.parameters(), build(0).parameters(), strict=True):
            assert torch.equal(ours.full_tensor(), theirs)
    model = build(2)
    fully_shard(model)
    writer = dcp.HuggingFaceStorageWriter(f"{folder}/two/{SHARDS_FOLDER}", save_distributed=True)
    dcp.save(model.state_dict(), storage_writer=writer)
    dist.barrier()
    time.sleep(0.5)  # both are past the barrier before either closes its sockets
    # Seen once in many runs: gloo's threads still alive while the interpreter unloads them, which aborts the process.
    os._exit(0)


@pytest.mark.slow  # two fresh processes import torch
def test_one_and_two_processes_read_what_the_other_wrote(tmp_path):
    save_checkpoint(build(0), tmp_path / "one", sharded=True, max_shard_bytes=1500)
    save_checkpoint(build(0), tmp_path / "plain", sharded=False)
    (tmp_path / "two" / SHARDS_FOLDER).mkdir(parents=True)
    multiprocessing.spawn(work, args=(str(tmp_path),), nprocs=2)
    files: list[Path] = sorted((tmp_path / "two").rglob("*.safetensors"))
    assert len(files) == 2
    sizes = {file.relative_to(tmp_path / "two").as_posix(): file.stat().st_size for file in files}
    (tmp_path / "two" / COMPLETE).write_text(json.dumps({"files": sizes}))
    model = build(3)
    assert not load_checkpoint(model, tmp_path / "two")
    for ours, theirs in zip(model.parameters(), build(2).parameters(), strict=True):
        assert torch.equal(ours, theirs)
