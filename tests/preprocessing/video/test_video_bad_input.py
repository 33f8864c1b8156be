"""Files that would cost too much or hold nothing: each is an error that says so, or is read within its means (P44)."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from number_videos import H264, write_video

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.video.clip import read_frames
from olmo.preprocessing.video.open_video import open_video
from olmo.preprocessing.video.sampling import sample_frames
from olmo.preprocessing.video.source import VideoLimits
from olmo.preprocessing.video.video_preprocessor import frame_crops

av = pytest.importorskip("av")

IMAGE = ImageSpec(image_size=56, patch_size=14, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def write_copies(path: Path, n: int) -> Path:
    """One coded gray picture, a keyframe, said n times over."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 90, np.uint8), format="rgb24")
        [coded] = [bytes(packet) for packet in [*stream.encode(frame), *stream.encode(None)]]
        for i in range(n):
            packet = av.Packet(coded)
            packet.stream, packet.is_keyframe, packet.time_base = stream, True, Fraction(1, 25)
            packet.pts = packet.dts = i
            container.mux(packet)
    return path


@pytest.mark.slow
def test_a_hundred_thousand_frames_are_counted_and_sampled(tmp_path):
    path = write_copies(tmp_path / "long.mkv", 100_000)
    with open_video(path) as source:
        assert (source.n_frames, source.duration_s) == (100_000, pytest.approx(4000))
        chosen = sample_frames(source, max_frames=8)
        clip = read_frames(source, chosen)
        assert clip.indices.tolist() == chosen.indices.tolist() and chosen.indices[-1] == 99_999
        assert (np.abs(np.stack(clip.frames).astype(int) - 90) < 8).all()
    with pytest.raises(OLMoInputError, match="more than 99 frames"):
        open_video(path, limits=VideoLimits(max_frames=99))


@pytest.mark.slow
def test_frames_of_8k_become_crops_and_larger_ones_are_refused(tmp_path):
    frames = np.full((1, 4320, 7680, 3), 200, np.uint8)
    path = write_video(tmp_path / "large.mkv", "mjpeg", frames=frames, pix_fmt="yuvj420p")
    with open_video(path) as source:
        assert source.size == (7680, 4320)
        [(_, frame)] = source.iter_frames([0])
        images, _ = frame_crops([frame], 4, IMAGE)
        assert abs(images[0, 0, 28, 28] - (200 / 127.5 - 1)) < 0.02
    with pytest.raises(OLMoInputError, match=r"7680x4320 = 33,177,600 pixels, over the limit"):
        open_video(path, limits=VideoLimits(max_pixels=7680 * 4319))


def test_many_large_frames_at_once_are_an_error_and_one_by_one_are_not(tmp_path):
    path = write_video(tmp_path / "many.mp4", **H264)
    with open_video(path, limits=VideoLimits(max_bytes=10 * 96 * 64 * 3)) as source:
        assert len(read_frames(source, sample_frames(source, max_frames=10))) == 10
        with pytest.raises(OLMoInputError, match=r"11 frames of 96x64 .* over the limit of 0\.0 GiB"):
            read_frames(source, sample_frames(source, max_frames=11))
        small = read_frames(source, sample_frames(source, max_frames=11), each=lambda frame: frame[::8, ::8].copy())
        assert len(small) == 11 and small.frames[0].shape == (8, 12, 3)


def test_a_file_that_holds_a_stream_and_no_frames(tmp_path):
    path = tmp_path / "none.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        container.start_encoding()
    with pytest.raises(OLMoInputError, match=r"can be opened|holds no frames"):
        open_video(path)


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.mkv", "a.ts", "a.avi", "a.h264", "a.mp4"])
def test_a_file_cut_anywhere_is_read_or_refused_and_never_hangs(tmp_path, name, share):
    coded = {"codec": "mpeg4"} if name == "a.avi" else H264
    form = {"stream_format": "h264"} if name == "a.h264" else {}
    data = write_video(tmp_path / name, n=30, **coded, **form).read_bytes()
    try:
        with open_video(data[: int(len(data) * share)], fps=30, limits=VideoLimits(timeout_s=10)) as source:
            clip = read_frames(source, sample_frames(source, "adaptive", max_frames=4))
            assert 1 <= len(clip) <= 4
    except OLMoInputError as error:
        assert "took longer" not in str(error)


def test_a_request_ends_with_its_time(tmp_path):
    with open_video(write_video(tmp_path / "slow.mkv", **H264)) as source:
        source.limits = VideoLimits(timeout_s=1e-9)
        for ask in (lambda: source.get([40]), lambda: list(source.iter_luma([40], 8))):
            with pytest.raises(OLMoInputError, match="took longer than 1e-09 s"):
                ask()
