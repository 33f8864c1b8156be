"""`molmo frames`: which frames of a video a model is shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from olmo.cli.answer import picture_format, write_picture
from olmo.cli.options import given
from olmo.cli.video_options import End, Fps, MaxFps, Start
from olmo.cli.videos import open_clip
from olmo.preprocessing.video.clip import Clip, read_frames
from olmo.preprocessing.video.sampling import FrameSampling, sample_frames
from olmo.preprocessing.video.source import VideoSource
from olmo.viz.contact_sheet import contact_sheet, shrink


def frames(
    video: Annotated[
        Path, typer.Argument(metavar="VIDEO", help="Video file, animation, .npy or .npz, or folder of pictures.")
    ],
    strategy: Annotated[
        FrameSampling | None,
        typer.Option("--frame-sampling", help="How frames are chosen; without it, uniform.", show_default=False),
    ] = None,
    max_frames: Annotated[
        int | None, typer.Option(min=1, help="Frames at most; without it, 16.", show_default=False)
    ] = None,
    max_fps: MaxFps = None,
    start: Start = None,
    end: End = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of random sampling.", show_default=False)] = None,
    fps: Fps = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Contact sheet to write: .png, .jpg, .webp. Without it, VIDEO_frames.png, here."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object with indices and seconds; a sheet only with -o.")
    ] = False,
) -> None:
    """Show which frames of a video a model is given."""
    target = output or (None if as_json else Path(f"{video.resolve().stem}_frames.png"))
    if target is not None:
        picture_format(target)
    wanted = given(strategy=strategy, max_frames=max_frames, max_fps=max_fps, start_s=start, end_s=end, seed=seed)
    with open_clip(video, fps) as source:
        selection = sample_frames(source, absolute_time=True, **wanted)
        clip = read_frames(source, selection, shrink)
    if target is not None:
        _write_sheet(clip, target)
    if as_json:
        typer.echo(json.dumps(_facts(source, clip)))
    else:
        typer.echo(f"{target}: {len(clip)} of {source.n_frames} frames" + _damage(clip))


def _facts(source: VideoSource, clip: Clip) -> dict[str, Any]:
    width, height = source.size
    return {
        "n_frames": source.n_frames,
        "fps": source.fps and round(source.fps, 6),
        "duration_s": None if source.duration_s is None else round(source.duration_s, 6),
        "width": width,
        "height": height,
        "indices": clip.indices.tolist(),
        "seconds": [round(s, 6) for s in clip.seconds.tolist()],
        "n_replaced": clip.n_replaced,
        "n_dropped": clip.n_dropped,
    }


def _write_sheet(clip: Clip, target: Path) -> None:
    texts = [f"{s:.2f} s   #{i}" for i, s in zip(clip.indices.tolist(), clip.seconds.tolist(), strict=True)]
    write_picture(contact_sheet(clip.frames, texts), target)


def _damage(clip: Clip) -> str:
    replaced = f", {clip.n_replaced} damaged ones replaced by a neighbour" if clip.n_replaced else ""
    return replaced + (f", {clip.n_dropped} damaged ones left out" if clip.n_dropped else "")
