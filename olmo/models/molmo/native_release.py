"""The original native releases of Molmo: `config.yaml` and `model.pt`, in a folder or packed as .tar.

The one place of this package that opens a pickle, and only with `weights_only=True`, which builds tensors and nothing
else. `molmo convert` turns such a release into a folder of safetensors, which everything else reads.
Source: the parameter names of the original code; for MolmoE they follow from its module definitions.
"""

from __future__ import annotations

import pickle
import re
import shutil
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from olmo.checkpoint.weight_rules import WeightRule
from olmo.config import read_config_file
from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.models.molmo.flat_config import values_from_flat
from olmo.models.molmo.hf import hf_weight_rules
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.llm_config import BlockType

WEIGHTS, CONFIGS = "model.pt", ("config.yaml", "model.yaml")

_BLOCK_GROUP = re.compile(r"transformer\.block_groups\.(\d+)\.(\d+)\.")


def read_native_release(
    path: str | Path, scratch: str | Path | None = None
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read an original native release.

    Args:
        path: folder with `config.yaml` (or `model.yaml`) and `model.pt`, or a .tar of one.
        scratch: folder for unpacking a .tar, with room for its weights; None is the system's.

    Returns:
        Plain values for `MolmoConfig`, and the state dict under our names. Most of the tensors are views of the mapped
        file: copy them before changing them.

    Raises:
        OLMoCheckpointError: a file is missing or damaged, the weights file holds more than tensors, or its names do not
            fit its configuration.
    """
    with _folder(Path(path), scratch) as folder:
        values, group_size = _read_config(folder)
        published = _plain_names(_read_state(folder / WEIGHTS), group_size)
        config = MolmoConfig.from_dict(values)
        return values, _our_state(published, native_weight_rules(config), Path(path))


def native_weight_rules(config: MolmoConfig) -> list[WeightRule]:
    """Rules that make our tensors from those of an original native release."""
    rules = []
    for rule in hf_weight_rules(config):
        if rule.target.endswith((".mlp.experts_in", ".mlp.experts_out")):
            rules.append(_expert_rule(rule.target, config.llm.n_experts))
        else:
            is_routed = config.llm.block_type is BlockType.olmoe
            sources = tuple(_native_name(name, is_routed) for name in rule.sources)
            rules.append(WeightRule(rule.target, sources, rule.combine))
    return rules


def _native_name(released: str, is_routed: bool) -> str:
    """Name in a native release of what the Hugging Face layout calls `released`."""
    name = released.removeprefix("model.")
    if not is_routed or not name.startswith(("transformer.blocks.", "lm_head.")):
        return name
    for theirs, native in ((".attn.", "."), (".mlp.ff_norm.", ".ff_norm."), (".mlp.gate.", ".ffn.router.layer.")):
        name = name.replace(theirs, native)
    return name.replace("lm_head.", "transformer.ff_out.")


def _expert_rule(target: str, n_experts: int) -> WeightRule:
    """Experts lie under one another in matrices `[E * F, D]`: `v1` up, `w1` gate, `w2` down, already transposed."""
    layer = target.split(".")[2]
    theirs = f"transformer.blocks.{layer}.ffn.experts.mlp"
    if target.endswith("experts_out"):
        return WeightRule(target, (f"{theirs}.w2",), partial(_join_experts_out, n_experts=n_experts))
    return WeightRule(target, (f"{theirs}.v1", f"{theirs}.w1"), partial(_join_experts_in, n_experts=n_experts))


def _unstack(rows: Tensor, n_experts: int) -> Tensor:
    return rows.unflatten(0, (n_experts, -1))  # [E, F, D]


def _join_experts_in(up: Tensor, gate: Tensor, n_experts: int) -> Tensor:
    return torch.cat((_unstack(up, n_experts), _unstack(gate, n_experts)), dim=1)  # [E, 2F, D]


def _join_experts_out(down: Tensor, n_experts: int) -> Tensor:
    return _unstack(down, n_experts).transpose(1, 2).contiguous()  # [E, D, F]


@contextmanager
def _folder(path: Path, scratch: str | Path | None) -> Iterator[Path]:
    """The folder itself, or one with the files of a .tar that is removed again."""
    if path.is_dir():
        yield path
        return
    if not path.is_file():
        raise OLMoCheckpointError(f"no such file or folder: {path}")
    # Mapped files may be removed while their tensors live, except on Windows, where the folder then stays behind.
    with tempfile.TemporaryDirectory(dir=scratch, ignore_cleanup_errors=True) as temporary:
        _unpack(path, Path(temporary))
        yield Path(temporary)


def _unpack(archive: Path, folder: Path) -> None:
    """Copy the content of the wanted files out of a .tar; paths and links in it are never followed."""
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                name = member.name.rsplit("/", 1)[-1]
                if name not in (WEIGHTS, *CONFIGS) or not member.isreg():
                    continue
                if (folder / name).exists():
                    raise OLMoCheckpointError(f"{archive} holds {name} more than once; unpack it and give the folder")
                content = tar.extractfile(member)
                assert content is not None, "a regular file has content"
                with content, open(folder / name, "wb") as out:
                    shutil.copyfileobj(content, out, 16 * 1024 * 1024)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise OLMoCheckpointError(f"{archive} is no readable .tar ({error}); download it again") from None


def _read_config(folder: Path) -> tuple[dict[str, Any], int]:
    """Values for `MolmoConfig`, and how many blocks a block group holds."""
    file = next((folder / name for name in CONFIGS if (folder / name).is_file()), None)
    if file is None:
        raise OLMoCheckpointError(f"{folder} holds neither {CONFIGS[0]} nor {CONFIGS[1]}; unpack the release again")
    try:
        content = read_config_file(file)
    except OLMoConfigurationError as error:
        raise OLMoCheckpointError(str(error)) from None
    flat = content.get("model", content)
    if not isinstance(flat, dict) or "d_model" not in flat:
        raise OLMoCheckpointError(f"{file} is not the configuration of an original Molmo release: it has no d_model")
    values = values_from_flat(flat)
    tokenizer = flat.get("tokenizer") or content.get("tokenizer") or {}
    values["llm"]["tokenizer"] = {"identifier": tokenizer.get("identifier")}
    return values, int(flat.get("block_group_size") or 1)


def _read_state(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise OLMoCheckpointError(f"{file} is missing; only releases with all weights in one {WEIGHTS} are read")
    try:
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise OLMoCheckpointError(f"{file} holds more than tensors and could run code; it is not opened") from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError) as error:
        raise OLMoCheckpointError(f"{file} is cut or damaged ({error}); download it again") from None
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise OLMoCheckpointError(f"{file} is not a flat dict of tensors; give the model weights of a release")
    return {str(name): tensor for name, tensor in state.items()}


def _plain_names(state: Mapping[str, Tensor], group_size: int) -> dict[str, Tensor]:
    """The state without traces of how it was wrapped or grouped in training."""
    plain = {}
    for name, tensor in state.items():
        name = name.replace("_fsdp_wrapped_module.", "")
        name = _BLOCK_GROUP.sub(lambda m: f"transformer.blocks.{int(m[1]) * group_size + int(m[2])}.", name)
        plain[name.replace("transformer.wte.weight", "transformer.wte.embedding")] = tensor
    return plain


def _our_state(published: Mapping[str, Tensor], rules: list[WeightRule], path: Path) -> dict[str, Tensor]:
    used = {name for rule in rules for name in rule.sources}
    missing, unexpected = sorted(used - set(published)), sorted(set(published) - used)
    if missing or unexpected:
        lines = [f"missing: {name}" for name in missing] + [f"unexpected: {name}" for name in unexpected]
        raise OLMoCheckpointError(f"the weights in {path} do not fit its configuration:\n" + "\n".join(lines))
    return {rule.target: rule.combine(*(published[name] for name in rule.sources)) for rule in rules}
