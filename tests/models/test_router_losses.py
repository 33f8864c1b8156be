"""Balance of the experts in a whole model: what a pass in training adds to its loss, and that padding has no say."""

from __future__ import annotations

import pytest
import torch

from olmo.exceptions import OLMoCheckpointError
from olmo.models.molmo.molmo import Molmo

LENGTH = 12


@pytest.fixture
def config(make_config):
    return make_config(llm__block_type="olmoe", llm__n_experts=8, llm__experts_per_token=2)


def batch(n_padding: int = 0) -> dict[str, torch.Tensor]:
    """A row of text whose every token is a target, with padding behind it."""
    ids = torch.arange(LENGTH)[None] % 50
    padding = torch.full((1, n_padding), -1)
    labels = torch.cat([ids, torch.full((1, n_padding), -100)], 1)
    return {"input_ids": torch.cat([ids, padding], 1), "labels": labels}


def test_losses_are_added_in_training_with_the_configured_weights(config):
    model = Molmo(config).train()
    out = model(**batch())
    balance, z = out.aux["loss_load_balance"], out.aux["loss_router_z"]
    assert 0.009 <= balance.item() <= 0.01 * 4 and z.item() > 0
    plain = Molmo(config.replace(llm=config.llm.replace(load_balance_weight=0.0, router_z_weight=0.0))).train()
    bare = plain(**batch())
    assert not any(name.startswith("loss_") for name in bare.aux)
    torch.testing.assert_close(out.loss, bare.loss + balance + z)


def test_they_teach_the_router(config):
    model = Molmo(config).train()
    out = model(**batch())
    (out.aux["loss_load_balance"] + out.aux["loss_router_z"]).backward()
    assert all(block.mlp.router.weight.grad.abs().sum() > 0 for block in model.llm.blocks)


def test_evaluation_has_the_loss_of_the_answers_alone(config):
    out = Molmo(config).eval()(**batch())
    assert out.aux is None


def test_figures_can_be_had_outside_training_without_the_losses(config):
    aux = Molmo(config).eval()(**batch(), output_router_load=True).aux
    assert set(aux) == {"router_load", "router_entropy", "router_imbalance"}
    assert aux["router_load"].sum(-1).tolist() == [LENGTH * 2] * config.llm.n_layers
    assert 1.0 <= aux["router_imbalance"].item() <= 8 and 0.0 < aux["router_entropy"].item() <= torch.tensor(8.0).log()


def test_padding_changes_nothing(config):
    model = Molmo(config).train()
    short, long = model(**batch()), model(**batch(n_padding=9))
    torch.testing.assert_close(short.loss, long.loss, atol=1e-5, rtol=1e-5)
    assert torch.equal(short.aux["router_load"], long.aux["router_load"])
    torch.testing.assert_close(short.aux["loss_load_balance"], long.aux["loss_load_balance"])


def test_a_dense_model_has_nothing_of_it(make_config):
    assert Molmo(make_config()).train()(**batch()).aux is None


def test_a_bias_starts_at_0_over_weights_without_one_and_is_saved(config, tmp_path):
    Molmo(config).save_checkpoint(tmp_path / "plain")
    model = Molmo.from_pretrained(tmp_path / "plain", overrides=["llm.router_bias_rate=0.001"])
    assert all(block.mlp.selection_bias.tolist() == [0.0] * 8 for block in model.llm.blocks)
    model.llm.blocks[0].mlp.selection_bias[3] = 0.25
    model.save_checkpoint(tmp_path / "biased")
    again = Molmo.from_pretrained(tmp_path / "biased")
    assert again.llm.blocks[0].mlp.selection_bias[3].item() == 0.25
    with pytest.raises(OLMoCheckpointError, match="router_bias_rate"):
        again.save_pretrained_hf(tmp_path / "hf")
