"""Activation checkpointing and compilation change what a step costs, never what it gives."""

from __future__ import annotations

import copy

import pytest
import tiny_run as tiny
import torch

from olmo.train.parallel.activation_checkpointing import (
    ActivationCheckpointing,
    checkpoint_activations,
    is_checkpointed,
    transformer_blocks,
)
from olmo.train.parallel.compile import compile_blocks

Mode = ActivationCheckpointing


@pytest.mark.parametrize(
    ("mode", "layers"),
    [
        (Mode.whole_layer, [0, 1, 2, 3, 4, 5]), (Mode.fine_grained, [0, 1, 2, 3, 4, 5]), (Mode.one_in_two, [0, 2, 4]),
        (Mode.one_in_three, [0, 3]), (Mode.one_in_four, [0, 4]), (Mode.two_in_three, [0, 1, 3, 4]),
        (Mode.three_in_four, [0, 1, 2, 4, 5]),
    ],
)  # fmt: skip
def test_which_layers(mode, layers):
    assert [layer for layer in range(6) if is_checkpointed(mode, layer)] == layers


@pytest.mark.parametrize("llm", [{}, {**tiny.MOE, "residual_dropout": 0.2}], ids=["dense", "routed with dropout"])
def test_same_loss_and_gradients(llm):
    results = []
    for mode in (None, *Mode):
        model = tiny.build(**llm)
        if mode is not None:
            wanted = sum(is_checkpointed(mode, layer) for layer, _ in transformer_blocks(model))
            assert checkpoint_activations(model, mode) == wanted
        torch.manual_seed(0)
        results.append(tiny.reference(model))
    (loss, gradients), *others = results
    for other_loss, other_gradients in others:
        assert other_loss == loss
        assert tiny.compare(other_gradients, gradients) < 1e-7


def count_forwards(model, run):
    """Products with the first projection of the second block while `run` is called, and `run`'s result."""
    calls = []
    handle = model.llm.blocks[1].mlp.ff_proj.register_forward_hook(lambda *_: calls.append(1))
    run()
    handle.remove()
    return len(calls)


def test_blocks_run_again_only_for_a_backward_pass():
    model, row = tiny.build(), tiny.batch()[0]
    checkpoint_activations(model, Mode.whole_layer)
    assert list(model.state_dict()) == list(tiny.build().state_dict())
    assert count_forwards(model, lambda: model(**row).loss.backward()) == 2
    with torch.no_grad():
        assert count_forwards(model, lambda: model(**row)) == 1
        assert count_forwards(model, lambda: model.generate(row["input_ids"], max_new_tokens=2)) == 2


def saved_bytes(model):
    """Bytes that autograd keeps of a forward pass, weights aside."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**tiny.batch()[0], logits_at="labels").loss
    assert loss.requires_grad
    return sum(kept.values())


def test_less_is_kept():
    sizes = {}
    for mode in (None, Mode.whole_layer, Mode.one_in_two):
        model = tiny.build()
        if mode is not None:
            checkpoint_activations(model, mode)
        sizes[mode] = saved_bytes(model)
    assert sizes[Mode.whole_layer] < sizes[Mode.one_in_two] < sizes[None]
    assert sizes[Mode.whole_layer] < 0.5 * sizes[None], sizes


def test_a_copy_of_a_checkpointed_model_runs_on_its_own_weights():
    model = tiny.build()
    checkpoint_activations(model, Mode.whole_layer)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.llm.blocks.parameters():
            parameter.zero_()
    _, gradients = tiny.reference(model)
    assert gradients["llm.blocks.0.attention.att_proj.weight"].any()


def test_blocks_share_one_compilation(monkeypatch):
    """One graph for the ViT, one for the language model, one more when the length changes: not one a block."""
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compiler(function, backend="eager"))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    model, (row, *_) = tiny.build(n_layers=6), tiny.batch()
    compile_blocks(model)
    for length in (tiny.LENGTH, 17, 13):
        model(**{k: v[:, :length] if v.ndim == 2 else v for k, v in row.items()}).loss.backward()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 3


@pytest.mark.slow  # the compiler takes its time
def test_compiled_blocks_give_the_same():
    loss, gradients = tiny.reference(tiny.build())
    model = tiny.build()
    assert compile_blocks(model) == 5
    checkpoint_activations(model, Mode.one_in_two)
    compiled_loss, compiled = tiny.reference(model)
    assert abs(loss - compiled_loss) < 1e-5
    tiny.compare(compiled, gradients)
