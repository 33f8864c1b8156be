"""Which modules of a model FSDP should shard on their own. Nothing else about sharding is known here."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import TypeAlias

from torch import nn
from torch.distributed.fsdp.wrap import lambda_auto_wrap_policy, size_based_auto_wrap_policy

from olmo.config import ConfigEnum
from olmo.exceptions import OLMoConfigurationError, OLMoInputError

WrapPolicy: TypeAlias = Callable[..., bool]
"""`(module, recurse, nonwrapped_numel) -> bool`, as `FullyShardedDataParallel` asks it."""


class WrapStrategy(ConfigEnum):
    """Granularity of sharding."""

    by_block = "by_block"
    by_block_and_size = "by_block_and_size"
    size_based = "size_based"


def wrap_policy(strategy: str | None, blocks: Iterable[nn.Module], large: Iterable[nn.Module]) -> WrapPolicy | None:
    """The `auto_wrap_policy` of `FullyShardedDataParallel`.

    Args:
        strategy: None wraps nothing; `by_block` every transformer block; `by_block_and_size` the large modules besides
            (embedding, head, connector); `size_based` by parameter count alone.
        blocks: transformer blocks of LLM and ViT.
        large: further modules worth a shard of their own.

    Raises:
        OLMoInputError: unknown strategy.
    """
    if strategy is None:
        return None
    try:
        chosen = WrapStrategy.parse(strategy)
    except OLMoConfigurationError as error:
        raise OLMoInputError(f"FSDP wrap strategy: {error.reason}, or None") from None
    if chosen is WrapStrategy.size_based:
        return size_based_auto_wrap_policy
    wrapped = set(map(id, blocks))
    if chosen is WrapStrategy.by_block_and_size:
        wrapped |= set(map(id, large))
    return partial(lambda_auto_wrap_policy, lambda_fn=lambda module: id(module) in wrapped)


def parameters_by_part(named: Iterable[tuple[str, nn.Parameter]]) -> dict[str, dict[str, nn.Parameter]]:
    """Parameters of a model by the part they belong to.

    Args:
        named: names as `named_parameters` gives them.

    Returns:
        `vit`, `llm`, in `selector` what a HeMolmo chooses tokens by, where it learns, and in `connector` what else
        stands between them, with the table of extra vocabulary.
    """
    parts: dict[str, dict[str, nn.Parameter]] = {"connector": {}, "vit": {}, "llm": {}}
    for name, parameter in named:
        if name.startswith("vision_backbone.image_vit."):
            parts["vit"][name] = parameter
        elif name.startswith("token_selector."):
            parts.setdefault("selector", {})[name] = parameter
        elif not name.startswith("llm.") or name == "llm.wte.new_embedding":
            parts["connector"][name] = parameter
        else:
            parts["llm"][name] = parameter
    return parts
