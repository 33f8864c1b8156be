"""The FSDP wrap policy: which modules it chooses. Whether a sharded step equals a plain one needs processes."""

from __future__ import annotations

import pytest
from torch import nn
from torch.distributed.fsdp.wrap import _recursive_wrap

from olmo.exceptions import OLMoInputError
from olmo.models.molmo.molmo import Molmo


class Wrapped(nn.Module):
    """Stands for `FullyShardedDataParallel`."""

    def __init__(self, module: nn.Module, **_: object) -> None:
        super().__init__()
        self.module = module


def chosen(model: nn.Module, policy) -> list[str]:
    """Names of the modules that a policy asks to be wrapped."""
    return [name for name, m in model.named_modules() if policy(module=m, recurse=False, nonwrapped_numel=0) and name]


BLOCKS = {"llm.blocks.0", "llm.blocks.1", "vision_backbone.image_vit.blocks.0", "vision_backbone.image_vit.blocks.1"}


def test_p30_every_block_of_llm_and_vit_is_wrapped(model):
    assert set(chosen(model, model.get_fsdp_wrap_policy("by_block"))) == BLOCKS
    large = {"llm.wte", "llm.lm_head", "vision_backbone.connector"}
    assert set(chosen(model, model.get_fsdp_wrap_policy())) == BLOCKS | large


def test_p30_a_tied_table_stays_with_the_root(make_model):
    model = make_model(llm__weight_tying=True)
    assert set(chosen(model, model.get_fsdp_wrap_policy())) == BLOCKS | {"vision_backbone.connector"}


def test_p30_a_model_without_vision_has_blocks_too(make_model):
    model = make_model(vision_backbone=None)
    assert set(chosen(model, model.get_fsdp_wrap_policy("by_block"))) == {"llm.blocks.0", "llm.blocks.1"}


def test_p30_torch_wraps_as_many_modules_as_the_policy_names(make_config):
    model = Molmo(make_config())
    wanted = len(chosen(model, model.get_fsdp_wrap_policy()))
    _recursive_wrap(
        model, auto_wrap_policy=model.get_fsdp_wrap_policy(), wrapper_cls=Wrapped, ignored_modules=set(),
        ignored_params=set(),
    )  # fmt: skip
    assert sum(isinstance(m, Wrapped) for m in model.modules()) == wanted == 7


def test_p30_other_strategies(model):
    assert model.get_fsdp_wrap_policy(None) is None
    by_size = model.get_fsdp_wrap_policy("size_based")
    assert by_size(module=model, recurse=False, nonwrapped_numel=10**9)
    assert not by_size(module=model, recurse=False, nonwrapped_numel=10)
    with pytest.raises(OLMoInputError, match="'by_layer' is not one of 'by_block'"):
        model.get_fsdp_wrap_policy("by_layer")
