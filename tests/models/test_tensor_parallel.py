"""Two processes on a CPU answer together what one answers, each with half of every layer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import build
from torch import multiprocessing
from two_askers import CASES, TOLERANCE, store, work

from olmo.exceptions import OLMoConfigurationError
from olmo.models.molmo.molmo import Molmo
from olmo.nn.head_shares import take_share
from olmo.nn.llm import Llm
from olmo.nn.llm_config import LlmConfig

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(make_config, tmp_path_factory) -> Path:
    """Folder with what each of two processes found, case by case."""
    folder = tmp_path_factory.mktemp("together")
    for case, (llm, _, _) in CASES.items():
        (folder / case).mkdir()
        store(case, make_config(**{f"llm__{name}": value for name, value in llm.items()}), folder / case / "stored")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(work, args=(port, str(folder)), nprocs=2)
    return folder


@pytest.mark.slow  # two fresh processes import torch
@pytest.mark.parametrize("case", CASES)
def test_two_processes_answer_as_one(found: Path, case: str) -> None:
    """Measured: logits at most 3.4e-6 off in float32."""
    results = [json.loads((found / case / f"{rank}.json").read_text()) for rank in range(2)]
    for result in results:
        assert "error" not in result, result["error"]
        assert result["off"] < TOLERANCE.get(case, 1e-5)
        assert result["same answer"] or case in TOLERANCE
        assert result["share of the blocks"] == pytest.approx(0.5, abs=0.05)
        assert result["share of the cache"] == 0.5
        assert len(result["refused"]) == 4 and "over 2 processes" in result["refused"][0]
    assert results[0]["drawn"] == results[1]["drawn"], "random answers are the same in both"


@pytest.mark.slow  # two fresh processes import torch
def test_the_command_prints_once_what_one_process_prints(tmp_path: Path) -> None:
    picture, question = str(ROOT / "olmo/cli/assets/demo.png"), "How many stars are there?"
    command = ["-m", "olmo.cli.main", "ask", picture, question]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    target = tmp_path / "points.png"
    together = [*torchrun, *command, "--tensor-parallel", "--save", str(target)]
    outputs = []
    for arguments in (command, together):
        done = subprocess.run(
            [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280
        )
        assert done.returncode == 0, done.stderr[-4000:]
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1] and outputs[0].strip()
    assert target.is_file() and done.stderr.count("drawn on") == 1


def test_one_process_alone_is_told_how_to_start_several(make_config, tmp_path):
    build(make_config()).save_checkpoint(tmp_path / "stored")
    with pytest.raises(OLMoConfigurationError, match="torchrun --standalone --nproc-per-node 2"):
        Molmo.from_pretrained(tmp_path / "stored", tensor_parallel=True)


LLM = {"d_model": 32, "n_heads": 4, "n_kv_heads": 2, "n_layers": 1, "mlp_hidden_size": 24, "vocab_size": 50}


@pytest.mark.parametrize("block_type", ["sequential", "olmoe"])
def test_shares_put_together_are_the_whole(block_type):
    config = LlmConfig(**LLM, block_type=block_type, n_experts=3, qk_norm=True, qkv_bias=True)
    whole = Llm(config)
    tensors = {name: p.detach().clone() for name, p in whole.named_parameters()}
    shares = []
    for rank in range(2):
        llm = Llm(config)
        llm.load_state_dict(tensors)
        cut = take_share(llm, rank, 2)
        shares.append(dict(llm.named_parameters()))
        for name, share in cut.items():
            assert torch.equal(share.cut(tensors[name]), shares[rank][name]), name
            assert share.shape == tuple(tensors[name].shape)
    smaller = {name for name in tensors if shares[0][name].shape != tensors[name].shape}
    assert smaller == set(cut)
    for name in smaller:
        parts = torch.cat([share[name].flatten() for share in shares])
        assert torch.equal(parts.sort().values, tensors[name].flatten().sort().values), name


@pytest.mark.parametrize(
    ("changes", "n", "message"),
    [
        ({}, 4, "4 does not divide n_kv_heads 2"),
        ({"n_heads": 6, "n_kv_heads": 6, "d_model": 48}, 4, "n_heads 6, n_kv_heads 6"),
        ({"mlp_hidden_size": 25}, 2, "mlp_hidden_size 25"),
        ({"norm_type": "layer", "qk_norm": True}, 2, "layer norm of queries"),
    ],
)
def test_what_cannot_be_shared_is_refused(changes, n, message):
    with torch.device("meta"):
        llm = Llm(LlmConfig.new(**{**LLM, **changes}))
    with pytest.raises(OLMoConfigurationError, match=message):
        take_share(llm, 0, n)
