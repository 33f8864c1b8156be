"""`molmo frames`: which frames of a video a model is shown."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Annotated, Any

import typer

from olmo.exceptions import OLMoInputError
from olmo.io import write_atomic
from olmo.preprocessing.video.clip import Clip, read_frames
from olmo.preprocessing.video.open_video import open_video
from olmo.preprocessing.video.sampling import FrameSampling, sample_frames
from olmo.preprocessing.video.source import VideoSource
from olmo.viz.contact_sheet import contact_sheet, shrink

ENDINGS = (".png", ".jpg", ".jpeg", ".webp")


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
    max_fps: Annotated[float | None, typer.Option(help="Frames a second at most.", show_default=False)] = None,
    start: Annotated[float | None, typer.Option(help="Begin here, in seconds.", show_default=False)] = None,
    end: Annotated[float | None, typer.Option(help="End here, in seconds.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of random sampling.", show_default=False)] = None,
    fps: Annotated[
        float | None, typer.Option(help="Frames a second of a video that does not tell.", show_default=False)
    ] = None,
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
    if target is not None and target.suffix.lower() not in ENDINGS:
        raise OLMoInputError(f"cannot write a picture to {str(target)!r}; name it {', '.join(ENDINGS)}")
    given = {"strategy": strategy, "max_frames": max_frames, "max_fps": max_fps, "start_s": start, "end_s": end}
    wanted: dict[str, Any] = {k: v for k, v in {**given, "seed": seed}.items() if v is not None}
    with open_video(video, fps=fps) as source:
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
    data = io.BytesIO()
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(target.suffix.lower(), "PNG")
    contact_sheet(clip.frames, texts).save(data, kind)
    write_atomic(target, data.getvalue())


def _damage(clip: Clip) -> str:
    replaced = f", {clip.n_replaced} damaged ones replaced by a neighbour" if clip.n_replaced else ""
    return replaced + (f", {clip.n_dropped} damaged ones left out" if clip.n_dropped else "")
