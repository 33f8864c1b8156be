"""Which modules of a model FSDP should shard on their own. Nothing else about sharding is known here."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.distributed.fsdp.wrap import CustomPolicy, _Policy, size_based_auto_wrap_policy

from olmo.config import ConfigEnum
from olmo.exceptions import OLMoInputError


class WrapStrategy(ConfigEnum):
    """Granularity of sharding."""

    by_block = "by_block"
    by_block_and_size = "by_block_and_size"
    size_based = "size_based"


def wrap_policy(strategy: str | None, blocks: Iterable[nn.Module], large: Iterable[nn.Module]):  # type: ignore[no-untyped-def]
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
    except Exception as error:
        raise OLMoInputError(f"FSDP wrap strategy: {error}") from None
    if chosen is WrapStrategy.size_based:
        return size_based_auto_wrap_policy
    wrapped = set(map(id, blocks))
    if chosen is WrapStrategy.by_block_and_size:
        wrapped |= set(map(id, large))
    policy: _Policy = CustomPolicy(lambda module: id(module) in wrapped)
    return policy
