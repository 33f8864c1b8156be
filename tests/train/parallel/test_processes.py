"""What one process can say about many: how they are arranged, what is refused, and that alone nothing is needed."""

from __future__ import annotations

import pytest
import tiny_run as tiny
import torch
from torch import distributed as dist
from torch import nn

from olmo.exceptions import OLMoConfigurationError
from olmo.torch_util import LaunchFacts, launch_facts
from olmo.train.parallel.config import ParallelConfig, Strategy
from olmo.train.parallel.empty_pictures import with_pictures
from olmo.train.parallel.processes import Layout, init_parallel, plan_layout
from olmo.train.parallel.sharding import clip_gradients, units


@pytest.mark.parametrize(
    ("values", "world_size", "wanted"),
    [
        ({}, 1, Layout(Strategy.none)),
        ({"strategy": "fsdp2", "tensor_parallel": 8}, 1, Layout(Strategy.none)),
        ({}, 8, Layout(Strategy.fsdp2, shards=8)),
        ({"strategy": "ddp"}, 8, Layout(Strategy.ddp, shards=8)),
        ({"tensor_parallel": 8}, 8, Layout(Strategy.none, tensor=8)),
        ({"tensor_parallel": 4}, 8, Layout(Strategy.fsdp2, shards=2, tensor=4)),
        ({"strategy": "hsdp"}, 64, Layout(Strategy.hsdp, replicas=8, shards=8)),
        ({"strategy": "hsdp", "tensor_parallel": 2}, 64, Layout(Strategy.hsdp, replicas=8, shards=4, tensor=2)),
        ({"strategy": "hsdp", "shard_size": 16}, 64, Layout(Strategy.hsdp, replicas=4, shards=16)),
    ],
)
def test_layouts(values, world_size, wanted):
    assert plan_layout(ParallelConfig.new(**values), world_size, min(world_size, 8)) == wanted


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"tensor_parallel": 0}, "parallel.*at least 1|at least 1"),
        ({"shard_size": -1}, "0 .one machine. or more"),
        ({"shard_size": 2}, "is for strategy: hsdp"),
        ({"timeout_s": 0}, "above 0 seconds"),
        ({"strategy": "ddp", "tensor_parallel": 2}, "does not go with strategy: ddp"),
        ({"strategy": "deepspeed"}, "not one of 'auto', 'none', 'ddp', 'fsdp2', 'hsdp'"),
        ({"param_dtype": "float16"}, "not one of 'float32', 'bfloat16'"),
    ],
)
def test_configurations_that_cannot_be(values, said):
    with pytest.raises(OLMoConfigurationError, match=said):
        ParallelConfig.new(**values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"strategy": "none"}, "would train 8 models that know nothing of each other"),
        ({"tensor_parallel": 3}, "3 does not divide the 8 processes"),
        ({"strategy": "hsdp", "shard_size": 3}, "3 does not divide the 8 processes"),
        ({"strategy": "ddp", "cpu_offload": True}, "needs strategy fsdp2 or hsdp"),
    ],
)
def test_numbers_of_processes_that_do_not_fit(values, said):
    with pytest.raises(OLMoConfigurationError, match=said):
        plan_layout(ParallelConfig.new(**values), 8)


def test_the_environment_of_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert launch_facts() == LaunchFacts(0, 1, 0, 1)
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("WORLD_SIZE", "16")
    with pytest.raises(OLMoConfigurationError, match="MASTER_ADDR, MASTER_PORT is not; start with torchrun"):
        launch_facts()
    for name, value in {"MASTER_ADDR": "a", "MASTER_PORT": "1", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    assert launch_facts() == LaunchFacts(5, 16, 1, 4)
    monkeypatch.setenv("LOCAL_RANK", "one")
    with pytest.raises(OLMoConfigurationError, match="LOCAL_RANK is 'one', not a number"):
        launch_facts()


def test_alone_there_is_no_process_group_and_nothing_changes():
    parallel = init_parallel(ParallelConfig(strategy=Strategy.fsdp2), device="cpu")
    assert (parallel.rank, parallel.world_size, parallel.data_rank, parallel.data_world_size) == (0, 1, 0, 1)
    assert parallel.is_main and parallel.gradient_scale == 1.0 and not dist.is_initialized()
    module = nn.Linear(2, 2)
    names = list(module.state_dict())
    assert parallel.wrap(module) is module and list(module.state_dict()) == names
    assert parallel.sum(2.5) == 2.5 and parallel.sum([1, torch.tensor(2.0)]) == [1.0, 2.0] and parallel.max(3) == 3
    with parallel.whole(), parallel.micro_batch(is_last=False):
        parallel.barrier()
    parallel.join()
    parallel.close()


def test_clipping_is_that_of_torch():
    generator = torch.Generator().manual_seed(0)
    sizes = [(3, 4), (5,), (2, 2), (7,)]
    ours, theirs = ([nn.Parameter(torch.zeros(size)) for size in sizes] for _ in range(2))
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):  # the last one has no gradient
        a.grad = torch.randn(a.shape, generator=generator)
        b.grad = a.grad.clone()
    before = clip_gradients(ours, 0.0)
    assert torch.equal(ours[0].grad, theirs[0].grad), "a limit of 0 only measures"
    assert clip_gradients(ours, 0.3) == before == pytest.approx(float(nn.utils.clip_grad_norm_(theirs, 0.3)), rel=1e-6)
    for a, b in zip(ours[:-1], theirs[:-1], strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=0)
    assert clip_gradients(ours, 10.0) == pytest.approx(0.3, rel=1e-4)
    ours[0].grad[0, 0] = float("nan")
    assert torch.tensor(clip_gradients(ours, 1.0)).isnan()
    assert clip_gradients([nn.Parameter(torch.zeros(2))], 1.0) == 0.0


def test_what_is_sharded_on_its_own():
    model = tiny.build()
    names = {id(m): n for n, m in model.named_modules()}
    found = [names[id(m)] for m in units(model)]
    assert sorted(found) == sorted(
        ["llm.wte", "llm.lm_head", "vision_backbone.connector", "llm.blocks.0", "llm.blocks.1"]
        + [f"vision_backbone.image_vit.blocks.{i}" for i in range(3)]
    )
    plain = nn.Module()
    plain.image_vit = model.vision_backbone.image_vit
    assert units(plain) == list(model.vision_backbone.image_vit.blocks)


def test_an_unused_crop_changes_nothing_and_reaches_every_parameter():
    model, row = tiny.build(), tiny.batch()[-1]
    assert "images" not in row
    filled = with_pictures(row, model.config)
    assert filled["images"].shape == (1, 1, 16, 588) and "images" not in row
    wanted, got = (model(**r, logits_at="labels") for r in (row, filled))
    assert torch.equal(wanted.logits, got.logits)
    got.loss.backward()
    used = [p for n, p in model.named_parameters() if "image_vit.blocks.2" not in n]
    assert all(p.grad is not None for p in used)
    assert not any(p.grad.any() for p in model.vision_backbone.parameters() if p.grad is not None)
    pictured = tiny.batch()[0]
    assert with_pictures(pictured, model.config) == pictured
