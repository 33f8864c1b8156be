"""Published weight layouts through lists of `WeightRule`s, both ways, one tensor at a time.

Reading applies rules from a source of published tensors to a module; writing applies the inverse rules from the module
to a folder as the hub stores models (safetensors, sharded with an index, and `config.json`). The rules themselves live
beside their model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from olmo.checkpoint.module_tensors import Device, LoadReport, ModuleTensors, WideTensor, own_memory
from olmo.checkpoint.tensor_source import INDEX_FILE, WEIGHTS_FILE, TensorSource
from olmo.checkpoint.weight_rules import WeightRule, join_rows
from olmo.exceptions import OLMoCheckpointError
from olmo.io import atomic_folder

MAX_SHARD_BYTES = 5_000_000_000

_OURS = ("*.json", "*.safetensors", "*.txt", "*.yaml", "*.md", "*_molmo.py")


def load_by_rules(
    module: nn.Module,
    source: TensorSource,
    rules: Sequence[WeightRule],
    dtype: torch.dtype | None = None,
    device: Device = None,
    strict: bool = True,
    wide: Mapping[str, WideTensor] | None = None,
) -> LoadReport:
    """Make each target tensor from its sources and put it into the module; the peak is one tensor above the model.

    Names and shapes are compared before anything is changed: shapes come from running the rules on the meta device.

    Args:
        module: module to load into. Its tensors keep their data type and device; those on the meta device are made.
        source: published tensors.
        rules: layout; targets are names in `module`, sources names in `source`.
        dtype: data type of floating point tensors that are on the meta device; None keeps the published one.
        device: device of tensors that are on the meta device, or of each by its name; None is the CPU.
        strict: raise where something does not fit; otherwise load what fits and report the rest.
        wide: targets that the module keeps in another form, by name.

    Returns:
        What did not fit. `missing` are names of the module, `unexpected` are published tensors that no rule uses and
        targets that the module lacks.

    Raises:
        OLMoCheckpointError: `strict` and something does not fit; the module is unchanged.
    """
    target = ModuleTensors(module, wide)
    report, usable = _compare(target, source, rules)
    if strict:
        report.require_clean(source.location)
    misfits = {name for name, _, _ in report.mismatched} | set(report.unexpected)
    for rule in usable:
        if rule.target not in misfits:
            tensor = rule.combine(*(source.get(name) for name in rule.sources))
            target.place(rule.target, tensor.dtype, dtype, device).copy_(tensor)
            del tensor  # it may be a view that keeps a whole file mapped
            target.finish()
    target.require_real(source.location)
    return report


def compare_by_rules(module: nn.Module, source: TensorSource, rules: Sequence[WeightRule]) -> LoadReport:
    """What `load_by_rules` would report; nothing is read or changed."""
    return _compare(ModuleTensors(module), source, rules)[0]


def save_by_rules(
    module: nn.Module,
    rules: Sequence[WeightRule],
    folder: str | Path,
    config_json: Mapping[str, Any],
    write_extra: Callable[[Path], None] | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a folder in a published layout; one already there stays until the new one is complete.

    Args:
        module: module to read from; each tensor keeps its data type.
        rules: layout; targets are published names, sources names in `module`.
        folder: folder to write.
        config_json: content of `config.json`.
        write_extra: is called with the folder to add further files to it, such as those of the tokenizer.
        max_shard_bytes: size at which a new file begins; what fits in one file gets no index.

    Raises:
        OLMoCheckpointError: `folder` holds files that are not part of a published model.
    """
    _refuse_foreign(Path(folder))
    tensors = ModuleTensors(module).tensors()
    shards = list(_shards(rules, tensors, max_shard_bytes))
    names = [f"model-{i:05d}-of-{len(shards):05d}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [WEIGHTS_FILE]
    weight_map: dict[str, str] = {}
    total_bytes = 0
    with atomic_folder(folder) as temporary:
        for name, shard in zip(names, shards, strict=True):
            made = {rule.target: own_memory(rule.combine(*(tensors[s] for s in rule.sources))) for rule in shard}
            save_file(made, temporary / name, metadata={"format": "pt"})
            weight_map.update(dict.fromkeys(made, name))
            total_bytes += sum(tensor.nbytes for tensor in made.values())
        if len(shards) > 1:
            index = {"metadata": {"total_size": total_bytes}, "weight_map": dict(sorted(weight_map.items()))}
            (temporary / INDEX_FILE).write_text(json.dumps(index, indent=2), encoding="utf-8")
        (temporary / "config.json").write_text(json.dumps(dict(config_json), indent=2), encoding="utf-8")
        if write_extra is not None:
            write_extra(temporary)


def target_shape(rule: WeightRule, source: TensorSource) -> tuple[int, ...]:
    """Shape of what a rule makes, without reading a tensor.

    Raises:
        OLMoCheckpointError: the shapes of the sources do not go together.
    """
    shapes = [source.shape(name) for name in rule.sources]
    if rule.combine is join_rows and len({shape[1:] for shape in shapes}) == 1:
        # By hand, because the first computation on the meta device loads torch's compiler: a second on a laptop.
        return (sum(shape[0] for shape in shapes), *shapes[0][1:])
    try:
        return tuple(rule.combine(*(torch.empty(shape, device="meta") for shape in shapes)).shape)
    except RuntimeError as error:
        listed = ", ".join(f"{name} {list(shape)}" for name, shape in zip(rule.sources[:6], shapes, strict=False))
        raise OLMoCheckpointError(f"{rule.target} cannot be made from {listed}: {error}") from None


def _compare(
    target: ModuleTensors, source: TensorSource, rules: Sequence[WeightRule]
) -> tuple[LoadReport, list[WeightRule]]:
    """The report, and the rules whose sources are all there."""
    available = set(source.names())
    usable = [rule for rule in rules if available.issuperset(rule.sources)]
    report = target.compare({rule.target: target_shape(rule, source) for rule in usable})
    unused = available.difference(name for rule in rules for name in rule.sources)
    missing = set(report.missing)
    for rule in rules:  # the published names are what one would look for in the files
        if rule.target in missing and (absent := [name for name in rule.sources if name not in available]):
            missing.remove(rule.target)
            missing.add(f"{rule.target} (made of {', '.join(absent[:3])}{', ...' if len(absent) > 3 else ''})")
    return LoadReport(tuple(sorted(missing)), tuple(sorted({*report.unexpected, *unused})), report.mismatched), usable


def _shards(
    rules: Sequence[WeightRule], tensors: Mapping[str, Tensor], max_shard_bytes: int
) -> Iterator[list[WeightRule]]:
    shard: list[WeightRule] = []
    size = 0
    for rule in rules:
        sources = [tensors[name] for name in rule.sources]
        made = rule.combine(*(s.to("meta") for s in sources))
        if shard and size + made.nbytes > max_shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(rule)
        size += made.nbytes
    yield shard


def _refuse_foreign(folder: Path) -> None:
    if not folder.is_dir():
        return
    foreign = [p for p in sorted(folder.iterdir()) if p.is_dir() or not any(p.match(pattern) for pattern in _OURS)]
    if foreign:
        raise OLMoCheckpointError(
            f"{folder} holds {', '.join(p.name for p in foreign[:5])}, which is not part of a published model and "
            "would be lost; choose another folder or move it away"
        )
