"""Frames a second from a video file to the tensors of the model, against a plain loop over the decoder.

A minute of 1280x720 in H.264, 16 frames of it, with a keyframe every second, every ten seconds, and one in the whole
file. The peer decodes everything from the start with the same threads, picks the same frames and resizes them by the
arithmetic of transformers' Molmo2VideoProcessor, which itself cannot be loaded: it needs torchvision. Both must give
the same pixels. Beside that: frames a second through the picture encoder of the bundled model, and what frames in
batches and checkpointed frames save in memory.

    python benchmarks/video.py --save
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from harness import ROOT, Row, hardware, interleave, matmul_peak, paired_ratio, parse_options, report, seconds
from torch.nn import functional as F
from video_clip import FPS, HEIGHT, WIDTH, write_clip
from video_frames import encoder_row, memory_of_frames

from olmo.models.video_olmo.video_olmo_config import VideoOlmoConfig
from olmo.nn.llm_config import LlmConfig
from olmo.nn.vision_config import MolmoVisionBackboneConfig
from olmo.preprocessing.video.adaptive import spread
from olmo.preprocessing.video.video_preprocessor import VideoPreprocessor
from olmo.tokenizer import TokenizerConfig

N_FRAMES, SIDE = 16, 378  # frames of a video, and their side in pixels: those of Molmo2
CASES = {"a keyframe every second": 1, "a keyframe every 10 s": 10, "one keyframe": 10_000}  # seconds between them
QUESTION = "What happens?"
TOKENIZER = ROOT / "configs" / "molmo-nano" / "tokenizer.json"
TOLERANCE = 1e-6  # largest difference of a normalised pixel; they reach from -1 to 1
PARTS = {
    "decoding": ("<method 'decode' of 'av.packet.Packet' objects>", "<method 'decode' of 'av.video."),
    "colour": ("<method 'reformat' of",),
    "resizing": ("frame_crops",),
    "listing packets": ("_read_index",),
}
"""Parts of our time, by the functions of a profile."""


def build() -> VideoPreprocessor:
    """A preprocessor with the frames of Molmo2: SigLIP's 378 px, stretched, without antialiasing."""
    llm = LlmConfig(vocab_size=832, max_sequence_length=4096, tokenizer=TokenizerConfig(identifier=str(TOKENIZER)))
    vision = MolmoVisionBackboneConfig.new(vit={"image_model_type": "siglip"}, vit_layers=[-3, -9])
    config = VideoOlmoConfig(llm=llm, vision_backbone=vision, max_frames=N_FRAMES)
    return config.build_preprocessor(for_inference=True)


def read_plainly(path: Path, wanted: np.ndarray, n_threads: int) -> torch.Tensor:
    """Normalised pixels `[frames, 3, side, side]` of the frames of these numbers, by a loop over the whole file."""
    import av

    numbers = set(wanted.tolist())
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "AUTO", n_threads
        decoded = enumerate(container.decode(stream))
        frames = np.stack([frame.to_ndarray(format="rgb24") for i, frame in decoded if i in numbers])
    pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).float()
    resized = F.interpolate(pixels, (SIDE, SIDE), mode="bilinear", align_corners=False, antialias=False)
    levels = resized.round().clamp(0, 255).to(torch.uint8)
    return (levels.float() - 127.5) / 127.5


def frames_on_the_way(wanted: np.ndarray, keyframe_every: int) -> int:
    """Frames that a decoder has to go through: from keyframes on, none twice."""
    last = {number // keyframe_every: number % keyframe_every + 1 for number in wanted.tolist()}
    return sum(last.values())


def shares(preprocessor: VideoPreprocessor, path: Path) -> dict[str, float]:
    """Share of our time for each of `PARTS`, from a profile of one run; the rest is opening, seeking and tokens."""
    profile = cProfile.Profile()
    profile.runcall(preprocessor, {"video": str(path), "question": QUESTION})
    stats = pstats.Stats(profile)
    found: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = stats.stats  # type: ignore[attr-defined]
    spent = {
        part: sum(entry[3] for (_, _, name), entry in found.items() if name.startswith(names))
        for part, names in PARTS.items()
    }
    total = sum(entry[2] for entry in found.values())
    return {part: time_s / total for part, time_s in spent.items()}


def measure(case: str, path: Path, every: int, n_clip: int, n_runs: int, preprocessor: VideoPreprocessor) -> Row:
    """Both sides in turn on one file."""
    wanted, n_threads = spread(n_clip, N_FRAMES), torch.get_num_threads()
    pixels: dict[str, torch.Tensor] = {}

    def ours() -> None:
        pixels["ours"] = preprocessor({"video": str(path), "question": QUESTION})["images"]

    def peer() -> None:
        pixels["peer"] = read_plainly(path, wanted, n_threads)

    ours()  # not counted: the first call imports the decoder
    sides = {"ours": lambda: N_FRAMES / seconds(ours), "peer": lambda: N_FRAMES / seconds(peer)}
    figures = interleave(sides, n_runs)
    difference = (pixels["ours"] - pixels["peer"]).abs().max().item()
    if difference > TOLERANCE:
        raise SystemExit(
            f"{case}: pixels differ by {difference:.2g}, more than {TOLERANCE:g}: this is not the same work"
        )
    plain = statistics.median(figures["peer"])
    n_decoded = frames_on_the_way(wanted, every)
    return Row(
        case=case,
        ours=statistics.median(figures["ours"]),
        peer=plain,
        limit=plain * n_clip / n_decoded,
        extra={
            "paired_ratio": paired_ratio(figures["ours"], figures["peer"]),
            "frames_of_the_file": n_clip,
            "frames_on_the_way": n_decoded,
            "bytes_of_the_file": path.stat().st_size,
            "largest_pixel_difference": difference,
            "shares_of_our_time": shares(preprocessor, path),
            "runs": figures,
        },
    )


def run(options: Any) -> dict[str, Any]:
    """Write the files, measure and report."""
    machine, peak = hardware(), matmul_peak()
    n_clip, n_runs = (10 if options.quick else 60) * FPS, 3 if options.quick else 5
    preprocessor, rows = build(), []
    with tempfile.TemporaryDirectory() as folder:
        for case, distance_s in CASES.items():
            every = min(distance_s * FPS, n_clip)
            path = write_clip(Path(folder) / f"{distance_s}.mp4", n_clip, every, options.threads)
            rows.append(measure(case, path, every, n_clip, n_runs, preprocessor))
    with torch.inference_mode():
        rows += [encoder_row(size, n_runs, peak) for size in (8, None)]
    return report(
        "video",
        "frames/s",
        rows,
        options=options,
        packages=("av", "numpy", "transformers"),
        machine=machine,
        notes={
            "file": f"{n_clip / FPS:g} s of {WIDTH}x{HEIGHT} at {FPS} frames a second, H.264, 3 B-frames",
            "peer": "PyAV, everything from the start, the same number of threads; resizing as Molmo2VideoProcessor "
            "documents it, by torch: the class needs torchvision, which is not here",
            "limit_is": "reading: the peer's speed a decoded frame over the frames from a keyframe to each wanted one "
            "(frames that no other refers to are skipped, which goes beyond it); encoder: operations over the measured "
            f"matmul peak of {peak / 1e9:.0f} GFLOP/s",
            "memory": memory_of_frames(),
        },
    )


if __name__ == "__main__":
    run(parse_options(__doc__.splitlines()[0]))
