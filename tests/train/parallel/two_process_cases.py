"""What two processes do together. Each case is a function that both call; `CASES` names them for the test."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_run as tiny
import torch
from torch import distributed as dist
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp import FullyShardedDataParallel as FSDP
from torch.distributed.tensor import DTensor

from olmo.exceptions import OLMoConfigurationError
from olmo.nn.llm_config import LlmConfig
from olmo.nn.moe import RoutedMlp
from olmo.train.parallel.activation_checkpointing import ActivationCheckpointing
from olmo.train.parallel.config import ParallelConfig
from olmo.train.parallel.empty_pictures import with_pictures
from olmo.train.parallel.processes import Parallel, init_parallel
from olmo.train.parallel.sharding import by_layout

SHARDED = {"fsdp2": {"strategy": "fsdp2"}, "hsdp 2x1": {"strategy": "hsdp", "shard_size": 1},
           "hsdp 1x2": {"strategy": "hsdp", "shard_size": 2}}  # fmt: skip
STRATEGIES: dict[str, dict[str, Any]] = {
    "auto": {}, "ddp": {"strategy": "ddp"}, **SHARDED,
    "fsdp2, weights kept": {"strategy": "fsdp2", "reshard_after_forward": False},
    "ddp, exchange each": {"strategy": "ddp", "exchange_each_micro_batch": True},
    "fsdp2, exchange each": {"strategy": "fsdp2", "exchange_each_micro_batch": True},
    "tp": {"tensor_parallel": 2},
}  # fmt: skip
EXPERTS_SPLIT: dict[str, Any] = {"strategy": "fsdp2", "expert_parallel": True}
ONE_OF_EACH_KIND = ("ddp", "fsdp2", "hsdp 2x1", "tp")
MODELS: dict[str, dict[str, Any]] = {
    "dense": {},
    "tied": {"weight_tying": True},
    "routed": tiny.MOE,
    "normed": {"norm_after": True, "qk_norm": True},
}


def join(**values: Any) -> Parallel:
    return init_parallel(ParallelConfig.new(**values), device="cpu")


def equal_step(parallel: Parallel, atol: float = 1e-5, llm: dict[str, Any] | None = None, **wrap: Any) -> str:
    """Loss and gradients of a step equal one process."""
    wanted_loss, wanted = tiny.reference(tiny.build(**(llm or {})))
    model = tiny.build(**(llm or {}))
    parallel.wrap(model, **wrap)
    loss = tiny.step(model, parallel)
    assert abs(loss - wanted_loss) < atol, f"loss {loss}, one process has {wanted_loss}"
    worst = tiny.compare(tiny.gradients(model), wanted, atol)
    return f"loss off by {abs(loss - wanted_loss):.1e}, gradients by {worst:.1e}"


def frozen_parts(**config: Any) -> str:
    """What never learns has no gradient; what stops learning for a step has none in that step."""
    models = [tiny.build(), tiny.build()]
    for model in models:
        model.llm.wte.embedding.requires_grad_(False)
    model, parallel = models[0], join(**config)
    parallel.wrap(model)
    for learns in (False, True, False):
        for m in models:
            m.zero_grad(set_to_none=True)
            for block in m.vision_backbone.image_vit.blocks:
                block.requires_grad_(learns)
        tiny.step(model, parallel)
        _, wanted = tiny.reference(models[1])
        ours = tiny.gradients(model)
        tiny.compare(ours, wanted)
        block = [g for n, g in ours.items() if "image_vit.blocks.0" in n]
        assert ours["llm.wte.embedding"] is None and all((g is not None) == learns for g in block)
    return "gradients as in one process"


def clipped_steps(llm: dict[str, Any] | None = None, **config: Any) -> str:
    """Norms of gradients and three clipped optimizer steps are those of one process."""
    plain, alone = tiny.build(**(llm or {})), join_alone()
    model, parallel = tiny.build(**(llm or {})), join(**config)
    parallel.wrap(model)
    runs, worst = [(plain, alone), (model, parallel)], 0.0
    optimizers = [torch.optim.SGD(grouped(m), lr=0.05, momentum=0.5, foreach=True) for m, _ in runs]
    for _ in range(3):
        found = []
        for (m, processes), optimizer in zip(runs, optimizers, strict=True):
            optimizer.zero_grad()
            tiny.step(m, processes)
            found.append(processes.clip(m.components(), 0.5))
            optimizer.step()
        worst = max(worst, *(abs(found[0][n] - found[1][n]) / found[0][n] for n in found[0]))
        assert set(found[0]) == {"connector", "vit", "llm"} and worst < 1e-5, found
    gap = tiny.compare(tiny.collect(model, lambda p: p), tiny.collect(plain, lambda p: p))
    return f"norms off by {worst:.1e} of them, weights by {gap:.1e}"


def join_alone() -> Parallel:
    """A run of one process, whatever the environment says."""
    saved = {name: os.environ.pop(name) for name in ("RANK", "WORLD_SIZE")}
    try:
        return init_parallel(ParallelConfig(), device="cpu")
    finally:
        os.environ.update(saved)


def grouped(model: torch.nn.Module) -> list[dict[str, Any]]:
    """Parameter groups of one layout each, as an optimizer with fused or foreach kernels needs them."""
    return [{"params": list(group.values())} for group in by_layout(dict(model.named_parameters()))]


def fused_adam(llm: dict[str, Any] | None = None, **config: Any) -> str:
    """AdamW's fused kernel takes the parameters, and the loss falls."""
    model, parallel = tiny.build(**(llm or {})), join(**config)
    parallel.wrap(model)
    optimizer = torch.optim.AdamW(grouped(model), lr=1e-3, fused=True)
    losses = []
    for _ in range(4):
        optimizer.zero_grad()
        losses.append(tiny.step(model, parallel))
        parallel.clip(model.components(), 1.0)
        optimizer.step()
    assert losses[-1] < losses[0] - 0.05, losses
    return f"loss {losses[0]:.2f} to {losses[-1]:.2f}"


def split_memory() -> str:
    """A process holds half of the sharded weights, and every unit of the wrap policy is sharded on its own."""
    model = tiny.build()
    policy = model.get_fsdp_wrap_policy()
    named = sum(bool(policy(module=m, recurse=False, nonwrapped_numel=0)) for m in model.modules())
    join(strategy="fsdp2").wrap(model)
    n_units = sum(isinstance(m, FSDPModule) for m in model.modules())
    assert n_units == named + 1 == 2 + 3 + 3 + 1, n_units
    held = sum(p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor))
    share = held / model.num_params()
    assert 0.4 < share < 0.6, share
    return f"{n_units} units, {share:.2f} of the weights"


def documented_fsdp1() -> str:
    """P30: `FSDP(model, auto_wrap_policy=model.get_fsdp_wrap_policy())`: blocks wrapped, step equals one process."""
    plain = tiny.build()
    wanted_loss, _ = tiny.reference(plain)
    torch.optim.SGD([p for p in plain.parameters() if p.grad is not None], lr=1.0).step()
    model = tiny.build()
    config = model.config
    # On a machine without a GPU this version of torch wants the device said.
    wrapped = FSDP(model, auto_wrap_policy=model.get_fsdp_wrap_policy(), device_id=torch.device("cpu"))
    blocks = [m for m in wrapped.modules() if isinstance(m, FSDP)]
    inner = {type(m.module).__name__ for m in blocks}
    n_blocks = sum(type(m.module).__name__ in ("TransformerBlock", "VitBlock") for m in blocks)
    assert n_blocks == 2 + 3 and "Connector" in inner, inner
    rank, rows = dist.get_rank(), tiny.batch()
    total, loss_sum = sum(tiny.weight(row) for row in rows), torch.zeros(())
    for row in rows[rank::2]:
        loss = wrapped(**with_pictures(row, config), logits_at="labels", z_loss=1e-4).loss
        (loss * (2 * tiny.weight(row) / total)).backward()
        loss_sum += loss.detach() * tiny.weight(row) / total
    dist.all_reduce(loss_sum)
    assert abs(float(loss_sum) - wanted_loss) < 1e-5
    torch.optim.SGD(wrapped.parameters(), lr=1.0).step()
    with FSDP.summon_full_params(wrapped, writeback=False):
        ours = {n.replace("_fsdp_wrapped_module.", ""): p.detach().clone() for n, p in wrapped.named_parameters()}
    worst = tiny.compare(ours, {n: p.detach() for n, p in plain.named_parameters()})
    return f"{n_blocks} blocks, weights after a step off by {worst:.1e}"


def mixed_precision() -> str:
    """Weights gathered in bfloat16 under autocast: the step is near the float32 one, gradients stay float32."""
    wanted_loss, wanted = tiny.reference(tiny.build())
    model, parallel = tiny.build(), join(strategy="fsdp2", param_dtype="bfloat16")
    parallel.wrap(model)
    with torch.autocast("cpu", torch.bfloat16):
        loss = tiny.step(model, parallel)
    assert abs(loss - wanted_loss) < 0.05, (loss, wanted_loss)
    ours = tiny.gradients(model)
    assert all(g is None or g.dtype == torch.float32 for g in ours.values())
    flat = [torch.cat([g[n].flatten() for n in sorted(g) if g[n] is not None and wanted[n] is not None])
            for g in (ours, wanted)]  # fmt: skip
    similar = float(torch.cosine_similarity(*flat, dim=0))
    assert similar > 0.99, similar
    return f"loss off by {abs(loss - wanted_loss):.3f}, cosine of gradients {similar:.4f}"


def whole_weights(llm: dict[str, Any] | None = None, **config: Any) -> str:
    """Inside `whole` processes run different numbers of passes, also before any training step; then a step works."""
    llm = llm or {}
    model, parallel = tiny.build(**llm), join(strategy="fsdp2", **config)
    plain = tiny.build(**llm).eval()
    parallel.wrap(model)
    row = tiny.batch()[0]
    for is_after in (False, True):
        model.eval()
        with parallel.whole(), torch.no_grad():
            for _ in range(1 + 2 * parallel.rank):
                logits = model(row["input_ids"]).logits
                tokens = greedy(model, row["input_ids"])
        wanted = plain(row["input_ids"]).logits
        torch.testing.assert_close(logits, wanted, atol=1e-5, rtol=1e-5)
        assert tokens == greedy(plain, row["input_ids"])
        model.train()
        if not is_after:
            loss, (wanted_loss, _) = tiny.step(model, parallel), tiny.reference(tiny.build(**llm))
            assert abs(loss - wanted_loss) < 1e-5
    assert all(isinstance(p, DTensor) for p in model.parameters())
    return "passes are independent"


def split_experts() -> str:
    """A process holds half of the experts; the state has them whole, and what cannot be divided is refused."""
    model, parallel = tiny.build(**tiny.MOE), join(**EXPERTS_SPLIT)
    parallel.wrap(model)
    wanted = tiny.build(**tiny.MOE).state_dict()
    for name, value in model.state_dict().items():
        assert torch.equal(tiny.full(value), wanted[name]), name
    experts = [p for n, p in model.named_parameters() if "experts_" in n]
    assert len(experts) == 4 and all(2 * len(p.to_local()) == len(p) == 4 for p in experts)
    for llm, said in (
        ({}, "this model has none"),
        ({**tiny.MOE, "n_experts": 3}, "2 processes do not divide 3 experts"),
    ):
        try:
            join(**EXPERTS_SPLIT).wrap(tiny.build(**llm))
        except OLMoConfigurationError as error:
            assert said in str(error), error
        else:
            raise AssertionError(f"{llm} was taken")
    return "half of the experts"


def balanced_together() -> str:
    """The load of a step is that of all processes, so every process moves its bias in the same way."""
    parallel = join(strategy="ddp")
    mlp = RoutedMlp(LlmConfig(d_model=8, n_heads=2, mlp_hidden_size=8, block_type="olmoe", router_bias_rate=0.1))
    load = parallel.sum([float(n) for n in ([9, 0, 1, 0, 0, 0, 0, 0], [0, 9, 1, 0, 0, 0, 0, 0])[parallel.rank]])
    mlp.balance(torch.tensor(load))
    assert mlp.selection_bias is not None
    assert torch.allclose(mlp.selection_bias, torch.tensor([-0.1, -0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]))
    return "the same bias"


def greedy(model: Any, ids: torch.Tensor) -> list[int]:
    """Eight new tokens."""
    return model.generate(ids, max_new_tokens=8, eos_token_id=96, pad_token_id=0).token_ids[0].tolist()


def split_generation() -> str:
    """Tensor-parallel neighbours generate together, with a cache of their own heads; the configuration is untouched."""
    model, plain = tiny.build().eval(), tiny.build().eval()
    join(tensor_parallel=2).wrap(model)
    ids = tiny.batch()[0]["input_ids"]
    assert greedy(model, ids) == greedy(plain, ids) and model.config == plain.config
    return "tokens equal one process"


def empty_then_filled() -> str:
    """A module on the meta device is sharded without weights, and filled afterwards."""
    with torch.device("meta"):
        model = tiny.build()
    parallel = join(strategy="fsdp2")
    parallel.wrap(model)
    with torch.no_grad():
        for ours, theirs in zip(model.parameters(), tiny.build().parameters(), strict=True):
            ours.copy_(torch.distributed.tensor.distribute_tensor(theirs, ours.device_mesh, ours.placements))
    loss, (wanted, _) = tiny.step(model, parallel), tiny.reference(tiny.build())
    assert abs(loss - wanted) < 1e-5
    return f"loss off by {abs(loss - wanted):.1e}"


def joined_names(**config: Any) -> str:
    """After `join` weights have published names, shapes and values, spread over the processes."""
    model, parallel = tiny.build(**MODELS["normed"]), join(tensor_parallel=2, **config)
    parallel.wrap(model)
    parallel.join()
    wanted = tiny.build(**MODELS["normed"]).state_dict()
    state = model.state_dict()
    assert list(state) == list(wanted)
    for name, value in state.items():
        assert torch.equal(tiny.full(value), wanted[name]), name
    split = [n for n, v in state.items() if isinstance(v, DTensor)]
    assert "llm.blocks.0.attention.att_proj.bias" in split
    return f"{len(split)} split tensors"


def refusals() -> str:
    """What cannot be is said before anything is changed."""
    for values, said in (
        ({"strategy": "none"}, "none on 2 processes would train 2 models"),
        ({"tensor_parallel": 3}, "3 does not divide the 2 processes"),
        ({"strategy": "hsdp", "shard_size": 3}, "3 does not divide the 2 processes that see different data"),
        ({"strategy": "fsdp2", "cpu_offload": True}, "is for GPUs"),
        ({"strategy": "ddp", "cpu_offload": True}, "needs strategy fsdp2 or hsdp"),
    ):
        try:
            join(**values)
        except OLMoConfigurationError as error:
            assert said in str(error), error
        else:
            raise AssertionError(f"{values} was taken")
    try:
        join(tensor_parallel=2).wrap(tiny.build(n_heads=4, n_kv_heads=1))
    except OLMoConfigurationError as error:
        assert "2 does not divide n_kv_heads 1" in str(error), error
    return "refused"


def talking() -> str:
    """Sums go over shares of the data, the maximum over all processes."""
    data, tensor = join(strategy="ddp"), join(tensor_parallel=2)
    mine = float(data.rank + 1)
    assert data.sum([mine, torch.tensor(10.0 * mine)]) == [3.0, 30.0] and data.sum(mine) == 3.0
    assert tensor.sum(5.0) == 5.0 and data.max(data.rank) == tensor.max(data.rank) == 1
    assert (data.data_rank, data.data_world_size, data.gradient_scale) == (data.rank, 2, 2.0)
    assert (tensor.data_rank, tensor.data_world_size, tensor.gradient_scale) == (0, 1, 1.0)
    return "agreed"


CASES: dict[str, Callable[[], str]] = {
    **{
        f"equal: {model}, {name}": lambda v=values, m=changes: equal_step(join(**v), llm=m)
        for model, changes in MODELS.items()
        for name, values in STRATEGIES.items()
        if model == "dense" or name in ("ddp", "fsdp2", "tp")
    },
    "equal: routed, experts split": lambda: equal_step(join(**EXPERTS_SPLIT), llm=tiny.MOE),
    "equal: routed, experts split, exchange each": lambda: equal_step(
        join(**EXPERTS_SPLIT, exchange_each_micro_batch=True), llm=tiny.MOE
    ),
    "equal: routed, experts split, activation checkpointing": lambda: equal_step(
        join(**EXPERTS_SPLIT), llm=tiny.MOE, activation_checkpointing=ActivationCheckpointing.whole_layer
    ),
    "clipped: experts split": lambda: clipped_steps(tiny.MOE, **EXPERTS_SPLIT),
    "fused: experts split": lambda: fused_adam(tiny.MOE, **EXPERTS_SPLIT),
    "whole: experts split": lambda: whole_weights(tiny.MOE, expert_parallel=True),
    "memory: experts split": split_experts,
    "balanced: routed": balanced_together,
    **{
        f"equal: fsdp2, activation checkpointing {mode.value}": lambda m=mode: equal_step(
            join(strategy="fsdp2"), activation_checkpointing=m
        )
        for mode in (ActivationCheckpointing.whole_layer, ActivationCheckpointing.fine_grained)
    },
    "equal: tp, activation checkpointing": lambda: equal_step(
        join(tensor_parallel=2), activation_checkpointing=ActivationCheckpointing.one_in_two
    ),
    **{f"frozen: {name}": lambda v=STRATEGIES[name]: frozen_parts(**v) for name in ONE_OF_EACH_KIND},
    **{f"clipped: {name}": lambda v=STRATEGIES[name]: clipped_steps(**v) for name in ONE_OF_EACH_KIND},
    **{f"fused: {name}": lambda v=STRATEGIES[name]: fused_adam(**v) for name in ONE_OF_EACH_KIND},
    "memory: fsdp2": split_memory,
    "p30: documented fsdp1": documented_fsdp1,
    "bfloat16: fsdp2": mixed_precision,
    "whole: fsdp2": whole_weights,
    "meta: fsdp2": empty_then_filled,
    "generation: tp": split_generation,
    "joined: tp": joined_names,
    "refusals": refusals,
    "talking": talking,
}


FOUR: dict[str, Callable[[], str]] = {
    **{
        f"{kind}: {name}": lambda v=values, f=function: f(**v)
        for name, values in {
            "fsdp2 x tp": {"strategy": "fsdp2", "tensor_parallel": 2},
            "hsdp 2x1 x tp": {"strategy": "hsdp", "shard_size": 1, "tensor_parallel": 2},
            "hsdp 2x2": {"strategy": "hsdp", "shard_size": 2},
        }.items()
        for kind, function in (("equal", lambda **v: equal_step(join(**v))), ("clipped", clipped_steps),
                               ("fused", fused_adam))
    },
    "joined: fsdp2 x tp": lambda: joined_names(strategy="fsdp2"),
}  # fmt: skip


def work(rank: int, world_size: int, port: int, folder: str, names: list[str]) -> None:
    """One of the processes: all cases in turn, each result to a file of its own."""
    cases = FOUR if world_size == 4 else CASES
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world_size),
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port),
    )  # fmt: skip
    torch.set_num_threads(1)
    init_parallel(ParallelConfig(timeout_s=60.0), device="cpu")
    for name in names:
        try:
            result = {"ok": cases[name]()}
        except Exception:
            result = {"error": traceback.format_exc()}
        number = list(cases).index(name)
        Path(folder, f"{number}.{rank}.json").write_text(json.dumps(result))
    time.sleep(0.5)  # both are done before either closes its sockets
    os._exit(0)  # gloo's threads do not survive the unloading of the interpreter
