from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from toy_models import assert_equal_states, copy_of, empty_toy, toy

from olmo.checkpoint.hf import compare_by_rules, load_by_rules, save_by_rules
from olmo.checkpoint.tensor_source import DictSource, SafetensorsSource
from olmo.checkpoint.weight_rules import WeightRule
from olmo.exceptions import OLMoCheckpointError


def plain_rules(model: torch.nn.Module) -> list[WeightRule]:
    return [WeightRule(name, (f"their.{name}",)) for name in model.state_dict()]


def export_rules(model: torch.nn.Module) -> list[WeightRule]:
    return [WeightRule(f"their.{name}", (name,)) for name in model.state_dict()]


def published(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {f"their.{name}": tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("max_shard_bytes", [10**9, 300], ids=["one file", "shards"])
def test_written_folder_loads_bit_equal(tmp_path, max_shard_bytes):
    saved, loaded = toy(0), toy(1)
    save_by_rules(saved, export_rules(saved), tmp_path / "c", {"a": 1}, max_shard_bytes=max_shard_bytes)
    assert json.loads((tmp_path / "c" / "config.json").read_text()) == {"a": 1}
    assert not load_by_rules(loaded, SafetensorsSource(tmp_path / "c"), plain_rules(loaded))
    assert_equal_states(loaded.state_dict(), saved.state_dict())


def test_shards_have_an_index_and_one_file_has_none(tmp_path):
    model = toy()
    save_by_rules(model, export_rules(model), tmp_path / "many", {}, max_shard_bytes=300)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text())
    files = sorted({*index["weight_map"].values()})
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in model.state_dict().values())
    for name, file in index["weight_map"].items():
        assert name in load_file(tmp_path / "many" / file)
    save_by_rules(model, export_rules(model), tmp_path / "one", {})
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["config.json", "model.safetensors"]


def test_parts_of_one_tensor_can_be_written(tmp_path):
    """Views that share memory are no matter to who writes rules, though safetensors refuses them."""
    model = toy()
    halves = [WeightRule(f"half.{i}", ("head.weight",), lambda t, i=i: t.chunk(2)[i]) for i in range(2)]
    turned = [WeightRule("turned", ("head.weight",), lambda t: t.T)]
    save_by_rules(model, halves + turned, tmp_path / "c", {})
    written = load_file(tmp_path / "c" / "model.safetensors")
    assert torch.equal(torch.cat((written["half.0"], written["half.1"])), model.head.weight)
    assert torch.equal(written["turned"].T, model.head.weight)


def test_a_target_may_be_made_of_several_tensors():
    model = toy(0)
    source = DictSource({"up": torch.zeros(4, 8), "down": torch.ones(8, 8)})
    rules = [WeightRule("head.weight", ("up", "down"), lambda *parts: torch.cat(parts))]
    report = load_by_rules(model, source, rules, strict=False)
    assert "head.weight" not in report.missing
    assert model.head.weight.sum(1).tolist() == [0.0] * 4 + [8.0] * 8


def test_a_module_without_memory_is_made_in_the_wanted_type():
    saved, loaded = toy(0), empty_toy()
    load_by_rules(loaded, DictSource(published(saved)), plain_rules(saved), dtype=torch.float16)
    assert torch.equal(loaded.head.weight, saved.head.weight.half())
    assert torch.equal(loaded.count, saved.count)
    as_saved = empty_toy()
    load_by_rules(as_saved, DictSource(published(saved)), plain_rules(saved))
    assert_equal_states(as_saved.state_dict(), saved.state_dict())


def test_loaded_tensors_do_not_live_in_the_file(tmp_path):
    saved, loaded = toy(0), empty_toy()
    save_by_rules(saved, export_rules(saved), tmp_path / "c", {})
    load_by_rules(loaded, SafetensorsSource(tmp_path / "c"), plain_rules(loaded))
    file = tmp_path / "c" / "model.safetensors"
    with file.open("r+b") as f:
        f.write(b"\0" * file.stat().st_size)
    assert_equal_states(loaded.state_dict(), saved.state_dict())


def test_strict_names_everything_and_changes_nothing():
    model = toy(1)
    before = copy_of(model)
    tensors = published(toy(0))
    del tensors["their.scale"]
    tensors["their.layers.1.bias"] = torch.ones(5)
    tensors["their.absmax"] = torch.ones(1)
    source, rules = DictSource(tensors, "the folder"), [*plain_rules(model), WeightRule("ghost", ("their.count",))]
    with pytest.raises(OLMoCheckpointError, match="the folder") as caught:
        load_by_rules(model, source, rules)
    for part in ("scale (made of their.scale)", "their.absmax", "ghost", "layers.1.bias is [5]"):
        assert part in str(caught.value)
    assert_equal_states(model.state_dict(), before)
    assert compare_by_rules(model, source, rules) == load_by_rules(model, source, rules, strict=False)
    assert torch.equal(model.head.weight, tensors["their.head.weight"])
    assert torch.equal(model.layers[1].bias, before["layers.1.bias"])


def test_sources_that_do_not_go_together_are_named():
    rule = WeightRule("head.weight", ("a", "b"), lambda *parts: torch.cat(parts))
    source = DictSource({"a": torch.ones(4, 8), "b": torch.ones(8, 9)})
    with pytest.raises(OLMoCheckpointError, match=r"head.weight cannot be made from a \[4, 8\], b \[8, 9\]"):
        load_by_rules(toy(), source, [rule])


def test_an_older_export_is_replaced_and_other_files_are_not(tmp_path):
    model = toy()
    save_by_rules(model, export_rules(model), tmp_path / "c", {"v": 1}, max_shard_bytes=300)
    save_by_rules(
        model, export_rules(model), tmp_path / "c", {"v": 2},
        write_extra=lambda folder: (folder / "tokenizer.json").write_text("{}"),
    )  # fmt: skip
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    (tmp_path / "c" / "thesis.tex").write_text("x")
    with pytest.raises(OLMoCheckpointError, match=r"thesis.tex"):
        save_by_rules(model, export_rules(model), tmp_path / "c", {})


def test_an_error_while_writing_keeps_the_old_export(tmp_path):
    model = toy()
    save_by_rules(model, export_rules(model), tmp_path / "c", {"v": 1})

    def fail(_folder: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_by_rules(model, export_rules(model), tmp_path / "c", {"v": 2}, write_extra=fail)
    assert json.loads((tmp_path / "c" / "config.json").read_text()) == {"v": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c"]


def test_a_file_cut_after_the_download_leaves_the_model(tmp_path):
    save_file(published(toy(0)), tmp_path / "model.safetensors")
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(OLMoCheckpointError, match="cut or damaged"):
        load_by_rules(toy(), SafetensorsSource(tmp_path), plain_rules(toy()))
