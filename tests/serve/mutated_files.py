"""Files of pictures and videos as hypothesis damages them: changed, cut, doubled, moved, spliced, sizes blown."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from hypothesis import strategies as st
from PIL import Image

Kind = str


@cache
def whole_files() -> dict[Kind, bytes]:
    """A small, whole file of each kind that a server opens, pictures first."""
    rng = np.random.default_rng(0)
    frames = [Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)) for _ in range(5)]
    found = {}
    for kind, options in (("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("GIF", {})):
        out = io.BytesIO()
        frames[0].save(out, kind, **options)
        found[kind] = out.getvalue()
    for kind in ("JPEG", "WEBP"):  # other ways of coding have decoders of their own
        out = io.BytesIO()
        frames[0].save(out, kind, quality=60, **({"progressive": True} if kind == "JPEG" else {}))
        found[f"{kind} again"] = out.getvalue()
    for kind in ("GIF", "WEBP", "PNG"):
        out = io.BytesIO()
        frames[0].save(out, kind, save_all=True, append_images=frames[1:], duration=300)
        found[f"{kind} animation"] = out.getvalue()
    return {**found, **_containers(frames)}


def _containers(frames: list[Image.Image]) -> dict[Kind, bytes]:
    try:
        import av
    except ImportError:
        return {}
    found = {}
    for name, codec in (("mp4", "mpeg4"), ("webm", "libvpx"), ("matroska", "ffv1"), ("mov", "mjpeg")):
        out = io.BytesIO()
        with av.open(out, "w", format=name) as container:
            stream = container.add_stream(codec, rate=5)
            stream.width, stream.height = frames[0].size
            stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_image(frame)))
            container.mux(stream.encode())
        found[f"{name} {codec}"] = out.getvalue()
    return found


def is_video_alone(kind: Kind) -> bool:
    """Whether a picture route does not take it."""
    return " " in kind and not kind.endswith("again")


@st.composite
def mutated(draw: st.DrawFn, kind: Kind) -> bytes:
    """A file of a kind with one to six injuries."""
    data = bytearray(whole_files()[kind])
    for _ in range(draw(st.integers(1, 6))):
        if len(data) < 8:
            break
        where = draw(st.integers(0, len(data) - 1) | st.integers(0, min(64, len(data) - 1)))
        what = draw(st.sampled_from(("byte", "number", "cut", "drop", "double", "move", "splice")))
        length = draw(st.integers(1, 64))
        if what == "byte":
            data[where] = draw(st.integers(0, 255))
        elif what == "number":  # where a length or a size stands, one at the edge of what its bytes can say
            value = draw(st.sampled_from((0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)))
            data[where : where + 4] = value.to_bytes(4, draw(st.sampled_from(("big", "little"))))
        elif what == "cut":
            del data[max(8, where) :]
        elif what == "drop":
            del data[where : where + length]
        elif what == "double":
            data[where:where] = data[where : where + length] * draw(st.sampled_from((1, 2, 200)))
        elif what == "move":
            piece = data[where : where + length]
            del data[where : where + length]
            target = draw(st.integers(0, len(data)))
            data[target:target] = piece
        else:
            other = whole_files()[draw(st.sampled_from(sorted(whole_files())))]
            data[where:] = other[min(where, len(other)) :]
    return bytes(data)
