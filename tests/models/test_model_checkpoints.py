"""Checkpoints of whole models: both forms, strictness, and what lies beside the weights."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import build

from olmo.exceptions import OLMoCheckpointError
from olmo.models.molmo.molmo import Molmo, MolmoConfig

FORMS = pytest.mark.parametrize("sharded", [True, False], ids=["sharded", "one file"])


def assert_same_weights(a: torch.nn.Module, b: torch.nn.Module) -> None:
    first, second = a.state_dict(), b.state_dict()
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert tensor.dtype == second[name].dtype and torch.equal(tensor, second[name]), name


@FORMS
@pytest.mark.parametrize("change", [{}, {"llm__block_type": "olmoe"}, {"llm__weight_tying": True},
                                    {"vision_backbone": None}], ids=["plain", "routed", "tied", "text"])  # fmt: skip
def test_p24_weights_come_back_bit_equal(make_config, tmp_path, sharded, change):
    saved, loaded = build(make_config(**change), seed=1), build(make_config(**change), seed=2)
    saved.save_checkpoint(tmp_path / "c", sharded=sharded)
    report = loaded.load_checkpoint(tmp_path / "c")
    assert not report
    assert_same_weights(saved, loaded)
    assert_same_weights(saved, Molmo.from_pretrained(tmp_path / "c"))


def test_p24_either_form_can_follow_the_other_in_one_folder(make_config, tmp_path):
    first, second, loaded = (build(make_config(), seed=k) for k in (1, 2, 3))
    first.save_checkpoint(path=tmp_path / "c", sharded=True)
    second.save_checkpoint(path=str(tmp_path / "c"), sharded=False)
    loaded.load_checkpoint(path=tmp_path / "c", strict=True)
    assert_same_weights(second, loaded)
    first.save_checkpoint(tmp_path / "c", sharded=True)
    loaded.load_checkpoint(tmp_path / "c")
    assert_same_weights(first, loaded)


@FORMS
def test_p24_halves_keep_their_type(make_config, tmp_path, sharded):
    saved = build(make_config(), seed=1).to(torch.bfloat16)
    saved.save_checkpoint(tmp_path / "c", sharded=sharded)
    assert_same_weights(saved, Molmo.from_pretrained(tmp_path / "c", dtype="auto"))
    assert Molmo.from_pretrained(tmp_path / "c").dtype == torch.float32


@FORMS
def test_a_checkpoint_works_alone(make_config, tmp_path, sharded):
    """Configuration and tokenizer lie beside the weights, and the folder can be moved."""
    saved = build(make_config(), seed=5)
    saved.save_checkpoint(tmp_path / "here", sharded=sharded)
    (tmp_path / "here").rename(tmp_path / "there")
    config = MolmoConfig.load(tmp_path / "there")
    assert config == saved.config
    ids = torch.tensor(config.build_tokenizer().encode("what is it"))
    loaded = Molmo.from_pretrained(tmp_path / "there")
    assert loaded.generate(ids, max_new_tokens=5).text == saved.generate(ids, max_new_tokens=5).text


def edited(folder, edit) -> None:
    """Change the tensors of a one-file checkpoint; its marker is made to fit."""
    file = folder / "model.safetensors"
    before = file.stat().st_size
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file)
    marker = folder / "COMPLETE"
    marker.write_text(marker.read_text().replace(str(before), str(file.stat().st_size)))


EDITS = {
    "missing": (lambda t: t.pop("llm.ln_f.weight"), "missing from the checkpoint: llm.ln_f.weight"),
    "unexpected": (lambda t: t.update(extra=torch.zeros(2)), "unexpected in the checkpoint: extra"),
    "shape": (lambda t: t.update({"llm.ln_f.weight": torch.zeros(7)}),
              r"llm.ln_f.weight is \[7\] in the checkpoint and \[32\] in the model"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "match"), EDITS.values(), ids=EDITS)
def test_p25_strict_names_what_differs_and_changes_nothing(make_config, tmp_path, edit, match):
    saved, loaded, kept = (build(make_config(), seed=k) for k in (1, 2, 2))
    saved.save_checkpoint(tmp_path / "c", sharded=False)
    edited(tmp_path / "c", edit)
    with pytest.raises(OLMoCheckpointError, match=match):
        loaded.load_checkpoint(tmp_path / "c")
    assert_same_weights(loaded, kept)


@pytest.mark.parametrize("kind", EDITS)
def test_p25_not_strict_loads_the_rest_and_reports(make_config, tmp_path, kind):
    saved, loaded, kept = (build(make_config(), seed=k) for k in (1, 2, 2))
    saved.save_checkpoint(tmp_path / "c", sharded=False)
    edited(tmp_path / "c", EDITS[kind][0])
    report = loaded.load_checkpoint(tmp_path / "c", strict=False)
    assert report.missing == (("llm.ln_f.weight",) if kind == "missing" else ())
    assert report.unexpected == (("extra",) if kind == "unexpected" else ())
    assert [name for name, _, _ in report.mismatched] == (["llm.ln_f.weight"] if kind == "shape" else [])
    wanted = saved if kind == "unexpected" else kept
    assert torch.equal(loaded.llm.ln_f.weight, wanted.llm.ln_f.weight)
    assert torch.equal(loaded.llm.wte.embedding, saved.llm.wte.embedding)


def test_p25_another_size_lists_every_tensor(make_config, tmp_path):
    build(make_config()).save_checkpoint(tmp_path / "c")
    other = build(make_config(llm__mlp_hidden_size=40, llm__n_layers=3))
    with pytest.raises(OLMoCheckpointError) as caught:
        other.load_checkpoint(tmp_path / "c")
    message = str(caught.value)
    assert "missing from the checkpoint: llm.blocks.2.attn_norm.weight" in message
    assert "llm.blocks.1.mlp.ff_out.weight is [32, 48] in the checkpoint and [32, 40] in the model" in message
