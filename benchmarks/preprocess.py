"""Pictures a second through the preprocessor, with the crops of Molmo-7B-D: 336 px, patches of 14 px, 12 crops.

There is no peer: the nearest public one, transformers' Molmo2 processor, needs torchvision, which has no place here.
The limit is the time that reading the picture once and writing its crops once takes at the memory's speed.

    python benchmarks/preprocess.py --save
"""

from __future__ import annotations

import io
import statistics
from typing import Any

import numpy as np
import torch
from harness import ROOT, Row, hardware, interleave, parse_options, read_bandwidth, report, seconds
from PIL import Image

from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.llm_config import LlmConfig
from olmo.preprocessing.preprocessor import Preprocessor
from olmo.tokenizer import TokenizerConfig

SIZES = ((640, 480), (1920, 1080))  # width, height
QUESTION = "Point to the mug."
TOKENIZER = ROOT / "configs" / "molmo-nano" / "tokenizer.json"


def build() -> Preprocessor:
    """A preprocessor with the geometry of Molmo-7B-D, which is the default, and a small tokenizer that is at hand."""
    llm = LlmConfig(vocab_size=832, max_sequence_length=4096, tokenizer=TokenizerConfig(identifier=str(TOKENIZER)))
    return MolmoConfig(llm=llm).build_preprocessor(for_inference=True)


def picture(width: int, height: int) -> Image.Image:
    """Smooth shapes with a little noise, so that it compresses about as a photograph does."""
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (height // 40, width // 40, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.int16)
    return Image.fromarray((smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8))


def measure(preprocessor: Preprocessor, n_runs: int, n_threads: int, bandwidth: float) -> list[Row]:
    """All sizes, from decoded pictures and from JPEG files, with the same number of threads."""
    torch.set_num_threads(n_threads)
    sources: dict[str, tuple[Any, tuple[int, int]]] = {}
    for size in SIZES:
        decoded, file = picture(*size), io.BytesIO()
        decoded.save(file, "JPEG", quality=90)
        name = f"{size[0]}x{size[1]}"
        sources[name], sources[f"{name} from JPEG"] = (decoded, size), (file.getvalue(), size)

    def run(source: Any) -> dict[str, Any]:
        return preprocessor({"image": source, "question": QUESTION})

    written = {name: run(source)["images"].nbytes for name, (source, _) in sources.items()}
    sides = {name: lambda source=source: 1.0 / seconds(lambda: run(source)) for name, (source, _) in sources.items()}
    figures = interleave(sides, n_runs)
    return [
        Row(
            case=f"{name}, {n_threads} thread{'s' if n_threads > 1 else ''}",
            ours=statistics.median(figures[name]),
            limit=bandwidth / (width * height * 3 + written[name]),
            extra={"n_crops": written[name] // (336 * 336 * 3 * 4), "slowest": min(figures[name])},
        )
        for name, (_, (width, height)) in sources.items()
    ]


def run(options: Any) -> dict[str, Any]:
    """Measure with one thread and with as many as were asked for, and report."""
    machine, bandwidth, n_runs = hardware(), read_bandwidth(), 9 if options.quick else 31
    preprocessor = build()
    rows = [row for n in sorted({1, options.threads}) for row in measure(preprocessor, n_runs, n, bandwidth)]
    return report(
        "preprocess",
        "pictures/s",
        rows,
        options=options,
        packages=("numpy", "pillow"),
        machine=machine,
        notes={
            "peer": "none: transformers' Molmo2ImageProcessor needs torchvision",
            "limit_is": f"bytes of the picture and of its crops over a read bandwidth of {bandwidth / 1e9:.1f} GB/s",
        },
    )


if __name__ == "__main__":
    run(parse_options(__doc__.splitlines()[0]))
