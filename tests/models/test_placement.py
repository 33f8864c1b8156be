"""Devices and number formats of a whole model."""

from __future__ import annotations

import pytest
import torch
from tiny import build, example, pad, picture
from torch import nn

from olmo.models.molmo.molmo import Molmo
from olmo.nn.moe import RoutedMlp

N_POSITIONS = 200


@pytest.fixture(scope="module")
def many(preprocess, model):
    """A collated batch with more than 200 positions, pictures among them; bytes of the answer are random."""
    rng = torch.Generator().manual_seed(0)
    letters = torch.randint(97, 123, (4, 40), generator=rng)
    rows = [preprocess(example(bytes(row.tolist()).decode(), picture(60, 100, k))) for k, row in enumerate(letters)]
    return model.config.build_collator()(rows)


@torch.no_grad()
def test_p28_the_model_moves_and_its_inputs_follow(make_config, inputs):
    model = build(make_config())
    wanted = model(**inputs).logits
    assert model.cpu().device == torch.device("cpu")
    assert model.to("cpu") is model
    out = model(**inputs)
    assert torch.equal(out.logits, wanted)
    assert {k.device.type for pair in out.past_key_values for k in pair} == {"cpu"}


@pytest.mark.gpu
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
@torch.no_grad()
def test_p28_a_gpu_gives_the_same_result(make_config, inputs, device):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    model = build(make_config())
    wanted, text = model(**inputs).logits, model.generate(**inputs, max_new_tokens=8, do_sample=True, seed=1)
    model = model.to(device)
    out = model(**inputs)  # inputs on the CPU
    assert out.logits.device.type == "cuda"
    assert all(t.device.type == "cuda" for pair in out.past_key_values for t in pair)
    torch.testing.assert_close(out.logits.cpu(), wanted, atol=1e-3, rtol=0)
    assert model.generate(**inputs, max_new_tokens=8, do_sample=True, seed=1).text == text.text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("block_type", ["sequential", "olmoe"])
@torch.no_grad()
def test_p29_halves_agree_with_float32_on_the_best_token(make_config, many, dtype, block_type):
    """Measured on 316 positions: 0.968 agree in the worst case (bfloat16, routed), 0.994 in float16."""
    config = make_config(llm__block_type=block_type)
    full = build(config)(**many).logits
    half = build(config).to(dtype)(**many).logits
    is_real = many["attention_mask"].bool()
    assert int(is_real.sum()) >= N_POSITIONS
    assert half.dtype == dtype and torch.isfinite(half[is_real]).all()
    agreement = (half.argmax(-1) == full.argmax(-1))[is_real].double().mean()
    assert agreement >= 0.95, agreement


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_p29_halves_take_float32_pictures_and_generate(make_config, inputs, dtype):
    model = build(make_config()).to(dtype)
    assert inputs["images"].dtype == torch.float32
    out = model(**inputs, labels=inputs["input_ids"].masked_fill(inputs["input_ids"] > 255, -100))
    assert out.loss.dtype == torch.float32 and torch.isfinite(out.loss)
    assert model(**inputs).past_key_values[0][0].dtype == dtype
    assert isinstance(model.generate(**inputs, max_new_tokens=4).text[0], str)


@torch.no_grad()
def test_p29_router_and_softmax_work_in_float32(make_config, many, monkeypatch):
    model = build(make_config(llm__block_type="olmoe")).to(torch.bfloat16)
    seen: set[torch.dtype] = set()
    plain = torch.softmax

    def spy(x, *args, **kwargs):
        out = plain(x, *args, **kwargs)
        seen.add(out.dtype)
        return out

    monkeypatch.setattr(torch, "softmax", spy)
    monkeypatch.setattr(torch.Tensor, "softmax", lambda self, *a, **k: spy(self, *a, **k))
    model(**many, output_attentions=True)
    assert seen == {torch.float32}
    assert any(isinstance(m, RoutedMlp) for m in model.modules())


def test_p29_autocast_trains_float32_weights(make_config, inputs):
    model = build(make_config()).train()
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] > 255, -100)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(**inputs, labels=labels).loss
    loss.backward()
    exact = model(**inputs, labels=labels).loss
    assert abs(loss.item() - exact.item()) < 0.02 * exact.item()
    for name, parameter in model.named_parameters():
        if "vit.blocks.1" not in name:
            assert parameter.grad is None or parameter.grad.dtype == torch.float32, name


@torch.no_grad()
def test_a_padded_batch_in_bfloat16_is_finite_in_every_row(make_config):
    model = build(make_config(bi_directional_attn="image_tokens")).to(torch.bfloat16)
    for side in ("left", "right"):
        ids = pad([torch.arange(5), torch.arange(2), torch.full((4,), -1)], side)
        assert torch.isfinite(model(ids).logits).all()


def test_a_model_on_the_meta_device_has_no_memory(config):
    with torch.device("meta"):
        model = Molmo(config)
    assert model.device.type == "meta"
    assert all(isinstance(p, nn.Parameter) and p.is_meta for p in model.parameters())
