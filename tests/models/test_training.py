"""Training a whole model on a handful of samples: the loss falls, every part learns, frozen parts do not."""

from __future__ import annotations

import pytest
import torch
from tiny import example, picture

from olmo.models.molmo.molmo import Molmo

N_STEPS = 30


@pytest.fixture(scope="module")
def samples(model):
    """Eight coloured squares on noise; the question asks for the colour."""
    rng = torch.Generator().manual_seed(0)
    colours = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "white": (255, 255, 255)}
    preprocess = model.config.build_preprocessor(for_inference=False, is_training=False)
    examples = []
    for k in range(8):
        name, colour = list(colours.items())[k % 4]
        noise = torch.randint(90, 160, (56, 56, 3), generator=rng, dtype=torch.uint8).numpy()
        row, column = divmod(k * 5 % 16, 4)
        noise[14 * row : 14 * row + 14, 14 * column : 14 * column + 14] = colour
        examples.append(preprocess(example("which colour?", noise, answer=name)))
    return model.config.build_collator()(examples)


def trained(config, samples, frozen: str | None = None) -> tuple[Molmo, list[float]]:
    model = Molmo(config, seed=1).train()
    parts = model.components()
    for parameter in parts[frozen].values() if frozen else ():
        parameter.requires_grad_(False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(N_STEPS):
        loss = model(**samples, logits_at="labels").loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def changed_parts(config, model: Molmo) -> dict[str, bool]:
    """Whether any tensor of a part differs from its first value."""
    fresh = Molmo(config, seed=1).components()
    return {
        part: any(not torch.equal(p, fresh[part][name]) for name, p in tensors.items())
        for part, tensors in model.components().items()
    }


@pytest.mark.parametrize("block_type", ["sequential", "olmoe"])
def test_p06_thirty_steps_lower_the_loss_and_change_every_part(make_config, samples, block_type):
    config = make_config(llm__init_std=0.05, llm__block_type=block_type)
    model, losses = trained(config, samples)
    assert losses[-1] <= 0.7 * losses[0]
    assert changed_parts(config, model) == {"connector": True, "vit": True, "llm": True}


@pytest.mark.parametrize("frozen", ["connector", "vit", "llm"])
def test_p06_a_frozen_part_stays_bit_identical(make_config, samples, frozen):
    config = make_config(llm__init_std=0.05)
    model, _ = trained(config, samples, frozen)
    assert changed_parts(config, model) == {part: part != frozen for part in ("connector", "vit", "llm")}


def test_every_parameter_learns_from_a_picture_with_padding(make_config):
    config = make_config()
    preprocess = config.build_preprocessor(for_inference=False, is_training=False)
    model = Molmo(config, seed=1).train()
    model(**preprocess(example("which?", picture(60, 100), answer="this"))).loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without
