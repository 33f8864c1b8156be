from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from olmo.checkpoint.tensor_source import DictSource, SafetensorsSource
from olmo.exceptions import OLMoCheckpointError

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.ones(4, dtype=torch.bfloat16),
    "c": torch.tensor(5),
    "d": torch.zeros(0, 3),
}


def write_shards(folder: Path) -> Path:
    first, second = {k: TENSORS[k] for k in "ab"}, {k: TENSORS[k] for k in "cd"}
    save_file(first, folder / "model-00001-of-00002.safetensors")
    save_file(second, folder / "model-00002-of-00002.safetensors")
    weight_map = dict.fromkeys(first, "model-00001-of-00002.safetensors")
    weight_map |= dict.fromkeys(second, "model-00002-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_one(folder: Path) -> Path:
    save_file(TENSORS, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("write", [write_one, write_shards])
def test_names_shapes_and_values(tmp_path, write):
    source = SafetensorsSource(write(tmp_path))
    assert sorted(source.names()) == sorted(TENSORS)
    for _ in range(3):  # more than all files hold, so the map is renewed on the way
        for name in ("c", "a", "d", "b"):
            got = source.get(name)
            assert source.shape(name) == tuple(TENSORS[name].shape)
            assert got.dtype == TENSORS[name].dtype
            assert torch.equal(got, TENSORS[name])


def test_a_dict_is_a_source_too():
    source = DictSource(TENSORS)
    assert source.names() == list(TENSORS)
    assert source.shape("a") == (2, 3)
    assert source.get("a") is TENSORS["a"]


def test_a_missing_shard_is_named(tmp_path):
    write_shards(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(OLMoCheckpointError, match=r"model-00002-of-00002.safetensors is missing; download"):
        SafetensorsSource(tmp_path)


@pytest.mark.parametrize("n_bytes", [0, 5, 60, -3])
def test_a_cut_file_is_named(tmp_path, n_bytes):
    file = write_one(tmp_path) / "model.safetensors"
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(OLMoCheckpointError, match=r"model.safetensors is cut or damaged"):
        SafetensorsSource(tmp_path)


def test_a_header_that_lies_is_refused(tmp_path):
    (tmp_path / "model.safetensors").write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(OLMoCheckpointError, match="damaged"):
        SafetensorsSource(tmp_path)


def test_an_index_of_another_version_is_found_out(tmp_path):
    index = write_shards(tmp_path) / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["ghost"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(OLMoCheckpointError, match="does not hold ghost"):
        SafetensorsSource(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map"'])
def test_a_broken_index_is_named(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(OLMoCheckpointError, match=r"index.json is not a safetensors index"):
        SafetensorsSource(tmp_path)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/secret.safetensors", "sub/x.safetensors"])
def test_an_index_cannot_reach_outside_its_folder(tmp_path, name):
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(OLMoCheckpointError, match="outside its folder"):
        SafetensorsSource(tmp_path)


def test_pickles_are_not_opened(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02.")
    with pytest.raises(OLMoCheckpointError, match="only as pickles"):
        SafetensorsSource(tmp_path)
    with pytest.raises(OLMoCheckpointError, match="holds no weights"):
        SafetensorsSource(tmp_path / "empty")
