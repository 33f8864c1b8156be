from __future__ import annotations

import pytest
import torch
from toy_models import empty_toy, toy

from olmo.checkpoint.module_tensors import LoadReport, ModuleTensors
from olmo.exceptions import OLMoCheckpointError


def test_a_tied_tensor_is_listed_once_and_found_under_both_names():
    tensors = ModuleTensors(toy(is_tied=True))
    assert "head.weight" not in tensors.tensors()
    assert tensors.canonical("head.weight") == tensors.canonical("table.weight") == "table.weight"
    assert tensors.canonical("nothing") is None


def test_either_name_of_a_tied_tensor_covers_it():
    tensors = ModuleTensors(toy(is_tied=True))
    shapes = {name: tuple(t.shape) for name, t in tensors.tensors().items()}
    assert not tensors.compare(shapes)
    shapes["head.weight"] = shapes.pop("table.weight")
    assert not tensors.compare(shapes)


def test_compare_names_everything_that_does_not_fit():
    tensors = ModuleTensors(toy())
    shapes = {name: tuple(t.shape) for name, t in tensors.tensors().items()}
    del shapes["scale"]
    shapes |= {"new": (1,), "head.weight": (12, 9)}
    report = tensors.compare(shapes)
    assert report == LoadReport(("scale",), ("new",), (("head.weight", (12, 9), (12, 8)),))
    with pytest.raises(OLMoCheckpointError) as caught:
        report.require_clean("folder")
    for part in ("missing from the checkpoint: scale", "unexpected in the checkpoint: new", "[12, 9]", "[12, 8]"):
        assert part in str(caught.value)


def test_a_meta_tensor_is_made_once_for_all_its_names():
    model = empty_toy(is_tied=True)
    model.table.weight.requires_grad_(False)
    tensors = ModuleTensors(model)
    tensors.place("head.weight", torch.float32, torch.bfloat16, None).fill_(1.0)
    assert model.head.weight is model.table.weight
    assert model.table.weight.dtype is torch.bfloat16
    assert not model.table.weight.requires_grad
    assert model.table.weight.sum() == 12 * 8


def test_whole_numbers_keep_their_type_on_the_way_from_meta():
    model = empty_toy()
    ModuleTensors(model).place("count", torch.int64, torch.bfloat16, None).fill_(7)
    assert model.count.dtype is torch.int64


def test_tensors_left_without_values_are_an_error():
    model = empty_toy()
    with pytest.raises(OLMoCheckpointError, match=r"no values for .*table.weight"):
        ModuleTensors(model).require_real("folder")
