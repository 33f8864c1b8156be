from __future__ import annotations

import io
import json
import re
import tarfile
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from olmo.checkpoint.hf import load_by_rules
from olmo.checkpoint.tensor_source import SafetensorsSource
from olmo.exceptions import OLMoCheckpointError
from olmo.models.molmo.hf import hf_weight_rules
from olmo.models.molmo.hf_config import DENSE_DEFAULTS, DENSE_NAMES, config_values_from_hf
from olmo.models.molmo.molmo import Molmo
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.molmo.native_release import read_native_release

MODELS = pytest.mark.parametrize("name", ["molmo_d", "molmo_o", "molmo_e"])


def native_state(golden: Path) -> dict[str, torch.Tensor]:
    """The golden weights under the names of the original code, written down independently of the code under test."""
    released = load_file(golden / "model.safetensors")
    native, experts = {}, {}
    for name, tensor in released.items():
        expert = re.fullmatch(r"model\.transformer\.blocks\.(\d+)\.mlp\.experts\.(\d+)\.(\w+)\.weight", name)
        if expert:
            experts.setdefault((int(expert[1]), expert[3]), {})[int(expert[2])] = tensor
            continue
        name = name.removeprefix("model.").replace("lm_head.weight", "transformer.ff_out.weight")
        name = name.replace(".attn.", ".").replace(".mlp.ff_norm", ".ff_norm").replace(".mlp.gate", ".ffn.router.layer")
        native[name] = tensor
    for (layer, kind), tensors in experts.items():
        rows = [tensors[e].T if kind == "down_proj" else tensors[e] for e in sorted(tensors)]
        part = {"gate_proj": "w1", "up_proj": "v1", "down_proj": "w2"}[kind]
        native[f"transformer.blocks.{layer}.ffn.experts.mlp.{part}"] = torch.cat(rows)
    return native


def native_config(golden: Path) -> dict[str, object]:
    flat = json.loads((golden / "config.json").read_text())
    if "d_model" not in flat:
        flat = {DENSE_NAMES.get(k, k): v for k, v in flat.items()}
        flat = DENSE_DEFAULTS | flat | {"additional_vocab_size": 128, "image_pooling_2d": "attention-meanq"}
    return flat | {"tokenizer": {"identifier": "mm:hf-Qwen/Qwen2-7B", "truncate_direction": "right"}}


@pytest.fixture
def release(tmp_path, golden_dir):
    def write(name: str, state=None, config=None, file: str = "config.yaml") -> Path:
        folder = tmp_path / "release"
        folder.mkdir(exist_ok=True)
        model = native_config(golden_dir / name) | (config or {})
        (folder / file).write_text(yaml.safe_dump({"model": model} if file == "config.yaml" else model))
        torch.save(native_state(golden_dir / name) if state is None else state, folder / "model.pt")
        return folder

    return write


def expected_state(golden: Path) -> dict[str, torch.Tensor]:
    config = MolmoConfig.from_dict(config_values_from_hf(json.loads((golden / "config.json").read_text())))
    with torch.device("meta"):
        model = Molmo(config)
    load_by_rules(model, SafetensorsSource(golden), hf_weight_rules(config))
    return model.state_dict()


def assert_equal_states(first, second):
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@MODELS
def test_a_native_release_has_the_weights_of_the_released_folder(golden_dir, release, name):
    values, state = read_native_release(release(name))
    assert_equal_states(state, expected_state(golden_dir / name))
    config = MolmoConfig.from_dict(values)
    released = config_values_from_hf(json.loads((golden_dir / name / "config.json").read_text()))
    expected = MolmoConfig.from_dict(released)
    assert config.llm.tokenizer.identifier == "mm:hf-Qwen/Qwen2-7B"
    assert config.replace(llm=config.llm.replace(tokenizer=expected.llm.tokenizer)) == expected
    Molmo(config).load_state_dict(state)


def test_traces_of_training_are_removed(golden_dir, release):
    state = {}
    for name, tensor in native_state(golden_dir / "molmo_d").items():
        if block := re.match(r"transformer\.blocks\.(\d+)\.", name):
            group, place = divmod(int(block[1]), 2)
            name = f"transformer.block_groups.{group}.{place}.{name[block.end() :]}"
        name = name.replace("wte.embedding", "wte.weight")
        name = name.replace("transformer.", "transformer._fsdp_wrapped_module.", 1)
        state[name] = tensor
    folder = release("molmo_d", state, {"block_group_size": 2}, file="model.yaml")
    assert_equal_states(read_native_release(folder)[1], expected_state(golden_dir / "molmo_d"))


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_is_read_like_its_folder(golden_dir, release, tmp_path, mode):
    folder = release("molmo_e")
    with tarfile.open(tmp_path / "release.tar", mode) as tar:
        tar.add(folder, "Molmo-E")
    (tmp_path / "scratch").mkdir()
    _, state = read_native_release(tmp_path / "release.tar", scratch=tmp_path / "scratch")
    assert_equal_states(state, expected_state(golden_dir / "molmo_e"))
    assert not list((tmp_path / "scratch").iterdir())


def test_paths_and_links_in_a_tar_are_never_followed(golden_dir, release, tmp_path):
    folder = release("molmo_d")
    with tarfile.open(tmp_path / "release.tar", "w") as tar:
        for name in ("../../outside.txt", "/tmp/outside.txt"):
            member = tarfile.TarInfo(name)
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
        link = tarfile.TarInfo("config.yaml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
        tar.add(folder / "model.pt", "../../model.pt")
    with pytest.raises(OLMoCheckpointError, match=r"neither config.yaml"):
        read_native_release(tmp_path / "release.tar")
    assert not (tmp_path.parent / "outside.txt").exists()
    assert not (tmp_path.parent.parent / "model.pt").exists()


def test_a_tar_with_two_models_is_ambiguous(release, tmp_path):
    folder = release("molmo_d")
    with tarfile.open(tmp_path / "release.tar", "w") as tar:
        tar.add(folder, "a")
        tar.add(folder, "b")
    with pytest.raises(OLMoCheckpointError, match="more than once"):
        read_native_release(tmp_path / "release.tar")


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil-was-here"),))


def test_a_pickle_that_runs_code_is_not_opened(release, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = release("molmo_d", {"transformer.wte.embedding": torch.ones(1), "x": Evil()})
    with pytest.raises(OLMoCheckpointError, match="more than tensors"):
        read_native_release(folder)
    assert not Path("evil-was-here").exists()


def test_damaged_or_missing_files_are_named(release, tmp_path):
    folder = release("molmo_d")
    weights = folder / "model.pt"
    weights.write_bytes(weights.read_bytes()[:-2000])
    with pytest.raises(OLMoCheckpointError, match=r"model.pt is cut or damaged"):
        read_native_release(folder)
    weights.unlink()
    with pytest.raises(OLMoCheckpointError, match=r"model.pt is missing"):
        read_native_release(folder)
    (folder / "config.yaml").write_text("a: [")
    with pytest.raises(OLMoCheckpointError, match="cannot read"):
        read_native_release(folder)
    (folder / "config.yaml").write_text("a: 1")
    with pytest.raises(OLMoCheckpointError, match="no d_model"):
        read_native_release(folder)
    (tmp_path / "x.tar").write_bytes(b"not a tar")
    with pytest.raises(OLMoCheckpointError, match=r"no readable .tar"):
        read_native_release(tmp_path / "x.tar")
    with pytest.raises(OLMoCheckpointError, match="no such file or folder"):
        read_native_release(tmp_path / "nothing")


def test_names_that_do_not_fit_are_listed(golden_dir, release):
    state = native_state(golden_dir / "molmo_d")
    del state["transformer.ln_f.weight"]
    state["transformer.surplus"] = torch.ones(1)
    with pytest.raises(OLMoCheckpointError) as caught:
        read_native_release(release("molmo_d", state))
    assert "missing: transformer.ln_f.weight" in str(caught.value)
    assert "unexpected: transformer.surplus" in str(caught.value)


def test_no_warning_about_the_fields_of_the_original_code(release):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_native_release(release("molmo_e"))
