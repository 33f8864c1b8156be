"""Frames in the picture encoder of the bundled model, for `video.py`: speed, and memory with and without saving.

Two promises are measured. In training, checkpointed frames save at most half of the bytes that the backward pass needs
(counted by hooks on saved tensors, weights left out). In inference, 64 frames in batches of 8 take at most 40 % of the
memory that all at once take (resident memory of a process of its own, over what it held before; Linux only).
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from harness import Row, interleave, seconds

from olmo.models.bundled import bundled_model_folder
from olmo.models.flops import connector_flops, vit_flops
from olmo.models.picture_inputs import PictureInputs
from olmo.models.video_olmo.frames import encode_crops
from olmo.models.video_olmo.video_olmo import VideoOlmo
from olmo.nn.vision_config import ImagePooling

N_FRAMES, BATCH_SIZE, POOL = 64, 8, 3
MOST_SAVED, MOST_ALIVE = 0.5, 0.4  # the promises


def bundled() -> VideoOlmo:
    """The bundled model as a VideoOlmo."""
    fields = [f"pooling_h={POOL}", f"pooling_w={POOL}"]
    return VideoOlmo.from_pretrained(bundled_model_folder(), overrides=fields).eval()


def frames(model: VideoOlmo, n: int) -> PictureInputs:
    """Random frames of a video."""
    spec = model.config.image_spec
    assert spec is not None, "the bundled model sees"
    images = torch.randn(n, 3, spec.image_size, spec.image_size, generator=torch.Generator().manual_seed(0))
    index = torch.zeros(n, model.config.index_width, dtype=torch.long)
    index[:, -((-spec.grid // POOL) ** 2) :] = -100
    facts = torch.tensor([[t, spec.grid, POOL, POOL] for t in range(n)], dtype=torch.float32)
    return PictureInputs(images, None, index, torch.zeros(n, dtype=torch.long), facts)


def encoder_row(batch_size: int | None, n_runs: int, peak: float) -> Row:
    """Frames a second through encoder and connector."""
    model = bundled()
    backbone, given, config = model.vision_backbone, frames(model, N_FRAMES), model.config
    assert backbone is not None and config.vision_backbone is not None, "the bundled model sees"

    def encode() -> None:
        encode_crops(backbone, given, batch_size, is_checkpointed=False)

    encode()  # not counted: the first call reserves memory
    figures = interleave({"ours": lambda: N_FRAMES / seconds(encode)}, n_runs)["ours"]
    pooled = config.vision_backbone.replace(
        image_pooling_2d=ImagePooling.mean, image_pooling_h=POOL, image_pooling_w=POOL
    )
    flops = vit_flops(pooled) + connector_flops(pooled, config.llm)
    together = "all at once" if batch_size is None else f"{batch_size} at a time"
    return Row(
        case=f"encoder of molmo-nano, {N_FRAMES} frames, {together}",
        ours=statistics.median(figures),
        limit=peak / flops,
        extra={"flops_a_frame": flops, "runs": figures},
    )


def memory_of_frames() -> dict[str, Any]:
    """Both promises, each with its two figures in bytes and their ratio."""
    saved = {name: saved_bytes(is_saving) for name, is_saving in (("plain", False), ("checkpointed", True))}
    alive = {name: alive_bytes(size) for name, size in (("all at once", 0), (f"{BATCH_SIZE} at a time", BATCH_SIZE))}
    found = {
        "training": {
            **saved,
            "ratio": saved["checkpointed"] / saved["plain"],
            "promise": MOST_SAVED,
            "measured": "bytes of saved tensors on the CPU, weights left out",
        },
        "inference": {
            **alive,
            "ratio": alive[f"{BATCH_SIZE} at a time"] / alive["all at once"],
            "promise": MOST_ALIVE,
            "measured": "peak of resident memory over what the process held before, CPU",
        },
    }
    return {"frames": N_FRAMES, **found}


def saved_bytes(is_checkpointed: bool) -> int:
    """Bytes that the backward pass of the encoder keeps."""
    model = bundled().train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    given = frames(model, N_FRAMES)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        features = encode_crops(model.vision_backbone, given, None, is_checkpointed)
    del features
    return sum(kept.values())


def alive_bytes(batch_size: int) -> int:
    """Peak of resident memory while a process of its own encodes frames; 0 encodes all at once."""
    command = [sys.executable, str(Path(__file__).resolve()), str(batch_size), str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["peak"])


def _held(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def _child(batch_size: int, n_threads: int) -> None:
    torch.set_num_threads(n_threads)
    model = bundled()
    given, one = frames(model, N_FRAMES), frames(model, 1)
    with torch.inference_mode():
        encode_crops(model.vision_backbone, one, None, is_checkpointed=False)  # what a first call sets up
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
        before = _held("VmRSS")
        encode_crops(model.vision_backbone, given, batch_size or None, is_checkpointed=False)
    print(json.dumps({"peak": _held("VmHWM") - before}))


if __name__ == "__main__":
    _child(int(sys.argv[1]), int(sys.argv[2]))
