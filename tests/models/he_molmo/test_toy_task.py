"""P62 to P64: a tiny HeMolmo learns, in two stages after a Molmo, to find the token that answers the question.

Two squares of different colours lie on noise, each in one of 16 cells. The question names a colour, the answer is its
cell. A picture is 16 tokens, one a cell, so which one matters depends on the question alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import example

from olmo.models.base import ModelBase
from olmo.models.he_molmo.he_molmo import HeMolmo, HeMolmoConfig
from olmo.models.molmo.molmo import Molmo, MolmoConfig
from olmo.nn.loss import target_positions
from olmo.train.optim.selection import SelectionConfig, exploration_at, ratio_at

COLOURS = {"r": (220, 30, 30), "g": (30, 200, 30), "b": (30, 30, 220), "y": (220, 210, 30)}
CELLS = "abcdefghijklmnop"
BATCH_SIZE, N_UNSEEN = 64, 1000
N_FULL, N_SCORER, N_ALL = 700, 150, 500
RATIOS = (0.125, 0.25, 0.5, 1.0)

Loss = Callable[[dict[str, torch.Tensor], int], torch.Tensor]


class Toy:
    """Draws batches: pixels and two tokens of a row are put in the place of those of a prepared example."""

    def __init__(self, config: MolmoConfig) -> None:
        preprocess = config.build_preprocessor(for_inference=False, is_training=False)
        blank = preprocess(example("r", np.zeros((56, 56, 3), np.uint8), answer="a"))
        self.row = config.build_collator(None, include_metadata=False)([blank])
        encode = config.build_tokenizer().encode
        self.colours = torch.tensor([encode(name)[-1] for name in COLOURS])
        self.cells = torch.tensor([encode(cell)[-1] for cell in CELLS])
        tokens = self.row["input_ids"][0]
        self.asked = int((tokens == self.colours[0]).nonzero()[-1])
        self.answered = int((tokens == self.cells[0]).nonzero()[-1])
        self.mean, self.std = (torch.tensor(v).view(3, 1, 1) for v in (config.image_spec.mean, config.image_spec.std))

    def batch(self, n: int, draw: torch.Generator) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """A batch, and the cell `[n]` that each row asks for."""
        pixels = torch.randint(90, 160, (n, 3, 56, 56), generator=draw).float()
        colours = torch.rand(n, len(COLOURS), generator=draw).argsort(dim=1)[:, :2]
        cells = torch.rand(n, len(CELLS), generator=draw).argsort(dim=1)[:, :2]
        shown = torch.tensor(list(COLOURS.values())).float()[colours]  # [n, 2, 3]
        rows, grid = torch.arange(n), pixels.view(n, 3, 4, 14, 4, 14)
        for i in range(2):
            grid[rows, :, cells[:, i] // 4, :, cells[:, i] % 4] = shown[:, i, :, None, None].expand(n, 3, 14, 14)
        batch = {name: values.expand(n, *values.shape[1:]).clone() for name, values in self.row.items()}
        batch["images"] = ((pixels / 255 - self.mean) / self.std)[:, None]
        batch["input_ids"][:, self.asked] = self.colours[colours[:, 0]]
        for name in ("input_ids", "labels"):
            batch[name][:, self.answered] = self.cells[cells[:, 0]]
        return batch, cells[:, 0]


class Result(NamedTuple):
    """Share of right answers, and share of rows whose square is among the kept tokens (nan: nothing is chosen)."""

    accuracy: float
    recall: float


@torch.no_grad()
def result(model: ModelBase, toy: Toy, **settings: Any) -> Result:
    """On pictures that were not trained on."""
    batch, cells = toy.batch(N_UNSEEN, torch.Generator().manual_seed(99))
    out = model.eval()(**batch, logits_at="labels", **settings)
    is_cell = torch.isin(target_positions(batch["labels"])[2], toy.cells)
    right = out.logits[is_cell][:, toy.cells].argmax(dim=-1) == cells
    is_kept = out.aux["selection_mask"].gather(1, cells[:, None]) if out.aux else torch.tensor(float("nan"))
    return Result(float(right.float().mean()), float(is_kept.float().mean()))


def train(toy: Toy, groups: list[dict[str, Any]], n_steps: int, loss_of: Loss, seed: int) -> None:
    """Adam with one cycle of the rates of `groups`."""
    draw = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(groups)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, [group["lr"] for group in groups], n_steps)
    for step in range(n_steps):
        loss = loss_of(toy.batch(BATCH_SIZE, draw)[0], step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for group in groups for p in group["params"]], 1.0)
        optimizer.step()
        schedule.step()


def train_scorer(model: HeMolmo, toy: Toy) -> None:
    """Stage 2a: the scorer alone, from the attention of the frozen model."""
    model.train().requires_grad_(False)
    model.token_selector.requires_grad_(True)
    course = SelectionConfig()

    def loss_of(batch: dict[str, torch.Tensor], step: int) -> torch.Tensor:
        return model(**batch, logits_at="labels", exploration=exploration_at(course, step, N_SCORER)).loss

    train(toy, [{"params": list(model.token_selector.parameters()), "lr": 1e-2}], N_SCORER, loss_of, seed=2)


def train_all(model: HeMolmo, toy: Toy) -> None:
    """Stage 2b: everything, at ratios from 1 down to the target, drawn to what the model says with all tokens."""
    model.requires_grad_(True)
    course = SelectionConfig(random_share=0.5)

    def loss_of(batch: dict[str, torch.Tensor], step: int) -> torch.Tensor:
        with torch.no_grad():
            whole = model.eval()(**batch, logits_at="labels", selection_ratio=1.0).logits
        ratio = ratio_at(course, model.config.selection_ratio, step, N_ALL, seed=0)
        noise = exploration_at(course, step, N_ALL)
        out = model.train()(**batch, logits_at="labels", selection_ratio=ratio, exploration=noise)
        said, taught = (F.log_softmax(logits, dim=-1) for logits in (out.logits, whole))
        return out.loss + course.output_weight * F.kl_div(said, taught, reduction="batchmean", log_target=True)

    others = [p for name, p in model.named_parameters() if not name.startswith("token_selector.")]
    groups = [{"params": others, "lr": 4e-4}, {"params": list(model.token_selector.parameters()), "lr": 3e-3}]
    train(toy, groups, N_ALL, loss_of, seed=3)


def chosen_at_random(model: HeMolmo) -> HeMolmo:
    """The same weights behind a random choice."""
    config = model.config.replace(token_scorer=model.config.token_scorer.replace(scorer="random"))
    config.source_dir = model.config.source_dir
    other = HeMolmo(config)
    other.load_state_dict(model.state_dict(), strict=False)
    return other


def weights(model: HeMolmo, names: Iterable[str]) -> list[torch.Tensor]:
    state = model.state_dict()
    return [state[name].clone() for name in names]


@pytest.mark.slow
def test_p62_p63_p64_the_answer_is_found_among_a_quarter_of_the_tokens(make_config, make_he_config) -> None:
    sizes = {
        "llm__d_model": 48, "llm__n_heads": 4, "llm__mlp_hidden_size": 96, "vision_backbone__vit_layers": [-1],
        "vision_backbone__vit__n_layers": 1, "vision_backbone__image_pooling_2d": "none",
        "vision_backbone__image_projector": "linear", "vision_backbone__image_padding_embed": None,
        "mm_preprocessor__crop_mode": "resize", "mm_preprocessor__use_col_tokens": False,
        "data_formatter__message_format": "none", "data_formatter__system_prompt": "none",
    }  # fmt: skip
    plain = Molmo(make_config(**sizes), seed=0).train()
    toy = Toy(plain.config)
    everything = [{"params": list(plain.parameters()), "lr": 6e-3}]
    train(toy, everything, N_FULL, lambda batch, _: plain(**batch, logits_at="labels").loss, seed=1)
    full = result(plain, toy).accuracy
    assert full >= 0.97

    scorer = {"hidden_size": 32, "query_size": 16, "distillation_weight": 1.0}
    config: HeMolmoConfig = make_he_config(**sizes, token_scorer=scorer)
    model = HeMolmo(config)
    missing = model.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing and all(name.startswith("token_selector.") for name in missing)
    before = weights(model, plain.state_dict())
    assert result(model, toy, selection_ratio=0.25).recall < 0.35, "chance is 0.25"
    train_scorer(model, toy)
    assert result(model, toy, selection_ratio=0.25).recall >= 0.9
    assert all(map(torch.equal, before, weights(model, plain.state_dict()))), "the first stage changes the scorer alone"

    train_all(model, toy)
    found = [result(model, toy, selection_ratio=ratio) for ratio in RATIOS]
    random = result(chosen_at_random(model), toy, selection_ratio=0.25).accuracy
    # Measured: the Molmo .997; after 2b .836, .990, .996, .990 and every square kept; a random choice .304.
    assert found[1].accuracy >= full - 0.02 and found[1].recall >= 0.9
    assert random <= found[1].accuracy - 0.15
    for fewer, more in pairwise(found):
        assert more.accuracy >= fewer.accuracy - 0.01, found


def test_the_toy_draws_what_the_preprocessor_makes(make_config) -> None:
    config = make_config(mm_preprocessor__crop_mode="resize", vision_backbone__image_pooling_2d="none")
    toy = Toy(config)
    batch, cells = toy.batch(3, torch.Generator().manual_seed(0))
    pixels = ((batch["images"][:, 0] * toy.std + toy.mean) * 255).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    names = {int(token): name for token, name in zip(toy.colours, COLOURS, strict=True)}
    preprocess = config.build_preprocessor(for_inference=False, is_training=False)
    for row, cell in enumerate(cells.tolist()):
        name = names[int(batch["input_ids"][row, toy.asked])]
        made = preprocess(example(name, pixels[row], answer=CELLS[cell]))
        for key in ("input_ids", "labels"):
            assert torch.equal(made[key], batch[key][row])
        torch.testing.assert_close(made["images"], batch["images"][row], atol=1e-5, rtol=0)
        assert pixels[row, 14 * (cell // 4), 14 * (cell % 4)].tolist() == list(COLOURS[name])
