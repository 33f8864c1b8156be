"""Real encoded files: every frame by its number, whatever the codec, container, rate and keyframes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from number_videos import H264, HEIGHT, VP9, WIDTH, numbered_array, shown_number, write_video

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.av_source import AvSource
from olmo.preprocessing.video.clip import read_frames
from olmo.preprocessing.video.frame_pixels import has_its_planes
from olmo.preprocessing.video.open_video import open_video
from olmo.preprocessing.video.sampling import sample_frames
from olmo.preprocessing.video.source import VideoLimits

av = pytest.importorskip("av")

FILES = {
    "h264.mp4": H264,
    "few_keyframes.mkv": {"codec": "libx264", "g": 250},
    "open_groups.mp4": {"codec": "libx264", "g": 12, "x264-params": "open-gop=1:scenecut=0:bframes=3"},
    "all_keyframes.mp4": {"codec": "libx264", "g": 1},
    "hevc.mov": {"codec": "libx265", "x265-params": "log-level=none:keyint=15"},
    "av1.mp4": {"codec": "libsvtav1", "preset": 12, "g": 20},
    "vp9.webm": VP9,
    "vp8_hidden_frames.webm": {"codec": "libvpx", "auto_alt_ref": 1, "lag_in_frames": 16, "g": 25},
    "transport.ts": {"codec": "libx264", "g": 15},
    "mpeg4.avi": {"codec": "mpeg4", "g": 12},
    "raw.h264": {"codec": "libx264", "g": 12, "stream_format": "h264"},
    "gray.mp4": {"codec": "libx264", "pix_fmt": "gray"},
    "ten_bit.mp4": {"codec": "libx264", "pix_fmt": "yuv420p10le"},
    "lossless.mkv": {"codec": "ffv1", "pix_fmt": "bgr0"},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module", params=FILES)
def path(request, folder):
    return write_video(folder / request.param, **FILES[request.param])


def numbers(frames) -> list[int]:
    return [shown_number(f) for f in frames]


def test_every_frame_is_the_one_asked_for(path):
    with open_video(path) as source:
        assert (source.n_frames, source.size) == (60, (WIDTH, HEIGHT))
        assert numbers(source.get(range(60))) == list(range(60))
        assert [shown_number(source.get([i])[0]) for i in range(59, -1, -7)] == list(range(59, -1, -7))
        order = np.random.default_rng(0).integers(0, 60, 25)
        assert numbers(source.get(order)) == order.tolist()
        assert [i for i, _ in source.iter_luma(order, 16)] == sorted(set(order.tolist()))


def test_times_and_rate_are_those_of_the_file(path):
    with open_video(path, fps=30) as source:
        if source.seconds is None:
            assert path.suffix == ".h264"
            return
        np.testing.assert_allclose(source.seconds, np.arange(60) / 30, atol=1.1e-3)
        assert source.fps == pytest.approx(30, rel=2e-3)
        assert source.duration_s == pytest.approx(2.0, abs=3e-3)


def test_bytes_are_read_as_files_are(path):
    with open_video(path) as a, open_video(path.read_bytes()) as b:
        assert (a.n_frames, a.fps) == (b.n_frames, b.fps)
        np.testing.assert_array_equal(a.get([3, 50, 27]), b.get([3, 50, 27]))


def test_frames_equal_those_of_a_plain_loop(folder):
    path = write_video(folder / "plain.mp4", **H264)
    with av.open(str(path)) as container:
        wanted = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    with open_video(path) as source:
        np.testing.assert_array_equal(source.get(range(60)), wanted)
        np.testing.assert_array_equal(source.get([41]), wanted[[41]])


def test_threads_change_nothing(path, monkeypatch):
    with open_video(path) as source:
        wanted = source.get(range(0, 60, 11))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    with open_video(path) as source:
        np.testing.assert_array_equal(source.get(range(0, 60, 11)), wanted)


def test_p44_variable_rate_keeps_its_own_times(folder):
    seconds = np.cumsum([0.0] + [0.01 if i % 10 else 0.7 for i in range(39)])
    with open_video(write_video(folder / "vfr.mkv", seconds=seconds, n=40)) as source:
        np.testing.assert_allclose(source.seconds, seconds, atol=1.1e-3)
        chosen = sample_frames(source, max_frames=5)
        np.testing.assert_allclose(chosen.seconds, seconds[chosen.indices], atol=1.1e-3)
        assert numbers(source.get(chosen.indices)) == chosen.indices.tolist()


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_rotation_is_applied(folder, rotation):
    path = write_video(folder / f"turned{rotation}.mp4", rotation=rotation, n=20)
    with open_video(path) as source:
        frame = source.get([13])[0]
        assert source.size == ((HEIGHT, WIDTH) if rotation % 180 else (WIDTH, HEIGHT))
        assert shown_number(np.rot90(frame, -rotation // 90)) == 13  # the file asks for a turn against the clock


def test_alpha_is_put_on_white(folder):
    frames = np.zeros((3, 32, 32, 4), np.uint8)
    frames[:, :16, :, 3] = 255  # the upper half is black, the lower one is not there
    with open_video(write_video(folder / "alpha.mov", "qtrle", frames=frames, pix_fmt="argb")) as source:
        frame = source.get([1])[0]
        assert frame[4, 4].tolist() == [0, 0, 0] and frame[28, 28].tolist() == [255, 255, 255]


def test_odd_sizes(folder):
    frames = np.random.default_rng(0).integers(0, 256, (4, 33, 51, 3), dtype=np.uint8)
    with open_video(write_video(folder / "odd.mkv", "ffv1", frames=frames, pix_fmt="bgr0")) as source:
        np.testing.assert_array_equal(source.get([0, 3]), frames[[0, 3]])


def test_only_what_is_needed_is_decoded(folder):
    path = write_video(folder / "dense.mp4", n=300, **{"x264-params": "scenecut=0:keyint=10:bframes=0"})
    with open_video(path) as source:
        chosen = sample_frames(source, max_frames=4).indices
        runs = source._index.runs(chosen)
        assert len(runs) == 4 and sum(r.stop - r.start for r in runs) <= 40
        assert numbers(source.get(chosen)) == chosen.tolist()


def test_a_file_that_seeks_to_the_wrong_place_is_read_from_its_beginning(folder, monkeypatch):
    path = write_video(folder / "lost.mp4", **H264)
    with open_video(path) as source:
        opened = []
        monkeypatch.setattr(source, "_reopen", lambda: (opened.append(1), AvSource._reopen(source)))
        monkeypatch.setattr(source._index, "pts_at", lambda position: 10**9)
        assert numbers(source.get([40, 2])) == [40, 2]
        assert opened


class TestBadFiles:
    def test_p44_a_damaged_frame_gives_way_to_its_neighbour(self, folder):
        path = write_video(folder / "damaged.mkv", g=250, bf=0)
        data = bytearray(path.read_bytes())
        with av.open(str(path)) as container:
            packet = bytes([p for p in container.demux(video=0) if p.size][25])
        at = data.find(packet)
        data[at + 5 : at + len(packet)] = b"\xa5" * (len(packet) - 5)
        with open_video(bytes(data)) as source:
            assert source.n_frames == 60
            with pytest.raises(OLMoInputError, match=r"frame 25 of .* cannot be decoded"):
                source.get([25])
            selection = sample_frames(source, max_frames=60)
            clip = read_frames(source, selection)
            assert (len(clip), clip.n_replaced, clip.n_dropped) == (59, 0, 1)
            few = read_frames(source, type(selection)(np.array([0, 25, 50]), source.seconds[[0, 25, 50]]))
            assert few.indices.tolist() == [0, 24, 50] and numbers(few.frames)[:2] == [0, 24]
            assert (few.n_replaced, few.n_dropped) == (1, 0)
            np.testing.assert_array_equal(few.seconds, source.seconds[[0, 24, 50]])

    def test_a_cut_file_has_the_frames_that_are_there(self, folder):
        data = write_video(folder / "cut.mkv", **H264).read_bytes()
        with open_video(data[: len(data) * 2 // 3]) as source:
            assert 20 < source.n_frames < 55
            clip = read_frames(source, sample_frames(source, max_frames=8))
            assert numbers(clip.frames) == clip.indices.tolist() and len(clip) >= 7

    def test_a_cut_mp4_without_its_table_is_an_error(self, folder):
        data = write_video(folder / "table.mp4", **H264).read_bytes()
        with pytest.raises(OLMoInputError, match="cut short"):
            open_video(data[: len(data) // 2])

    def test_a_header_that_lies_about_the_count_is_not_believed(self, folder):
        path = write_video(folder / "lies.avi", "mpeg4", n=30)
        data = bytearray(path.read_bytes())
        at = data.find(b"avih") + 8 + 16  # dwTotalFrames
        data[at : at + 4] = (77_777).to_bytes(4, "little")
        at = data.find(b"strh") + 8 + 32  # dwLength
        data[at : at + 4] = (77_777).to_bytes(4, "little")
        with open_video(bytes(data)) as source:
            assert source.n_frames in (30, 31)  # this encoder writes its last frame twice
            assert numbers(source.get([0, 17, 29])) == [0, 17, 29]

    def test_sound_alone_is_no_video(self, folder):
        path = folder / "sound.mp4"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=16000)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate = 16000
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with pytest.raises(OLMoInputError, match=r"no video stream \(it holds: audio\)"):
            open_video(path)

    @pytest.mark.parametrize(
        "text", ["ffconcat version 1.0\nfile 'h264.mp4'\n", "#EXTM3U\n#EXTINF:5,\nh264.mp4\n#EXT-X-ENDLIST\n", "hello"]
    )
    def test_files_that_name_other_files_are_not_followed(self, folder, text):
        write_video(folder / "h264.mp4", n=3)
        path = folder / "list.mp4"
        path.write_text(text)
        with pytest.raises(OLMoInputError, match="is not a video that can be opened"):
            open_video(path)

    def test_a_codec_outside_the_list_is_not_opened(self, folder, monkeypatch):
        path = write_video(folder / "codec.mp4", n=3)
        monkeypatch.setattr("olmo.preprocessing.video.av_file.CODECS", ("vp9",))
        with pytest.raises(OLMoInputError, match="codec"):
            open_video(path)

    def test_random_damage_never_does_more_than_an_error(self, folder):
        whole = write_video(folder / "fuzz.mp4", n=20, **H264).read_bytes()
        rng = np.random.default_rng(0)
        n_read = 0
        for _ in range(60):
            data = np.frombuffer(whole, np.uint8).copy()
            places = rng.integers(0, len(data), rng.integers(1, 200))
            data[places] = rng.integers(0, 256, len(places))
            try:
                with open_video(data.tobytes(), limits=VideoLimits(timeout_s=5)) as source:
                    n_read += len(read_frames(source, sample_frames(source, "adaptive", max_frames=4))) > 0
            except OLMoInputError:
                continue
        assert n_read > 0

    @pytest.mark.parametrize("n_threads", [1, 3])
    def test_a_file_that_turns_gray_in_the_middle_does_not_end_the_process(self, n_threads, monkeypatch):
        """Damaged AV1 found by fuzzing: a frame of one plane that calls itself YUV crashed the conversion."""
        monkeypatch.setattr(torch, "get_num_threads", lambda: n_threads)
        with open_video(Path(__file__).parent / "turns_gray.mp4") as source:
            assert 1 <= len(list(source.iter_frames(range(source.n_frames)))) < source.n_frames

    def test_planes_are_checked_before_pixels_are_read(self):
        frame = av.VideoFrame(64, 32, "yuv420p")
        assert has_its_planes(frame) and has_its_planes(av.VideoFrame(7, 3, "monow"))
        assert has_its_planes(av.VideoFrame(7, 3, "nv12")) and has_its_planes(av.VideoFrame(7, 3, "pal8"))
        fewer = SimpleNamespace(format=frame.format, planes=frame.planes[:1])
        deeper = SimpleNamespace(format=av.VideoFormat("yuv420p10le", 4096, 32), planes=frame.planes)
        assert not has_its_planes(fewer) and not has_its_planes(deeper)


class TestLimits:
    @pytest.fixture
    def path(self, folder):
        return write_video(folder / "limits.mkv", n=50, **{"x264-params": "scenecut=0:keyint=250"})

    @pytest.mark.parametrize(
        ("limits", "message"),
        [
            ({"max_pixels": 100}, "96x64 = 6,144 pixels, over the limit of 100|cannot be opened|no frame"),
            ({"max_frames": 49}, "more than 49 frames"),
            ({"timeout_s": 1e-9}, "took longer"),
        ],
    )
    def test_opening_stops_at_a_limit(self, path, limits, message):
        with pytest.raises(OLMoInputError, match=message):
            open_video(path, limits=VideoLimits(**limits))

    def test_a_walk_over_the_limit_says_what_to_do(self, path):
        with open_video(path, limits=VideoLimits(max_walk=40)) as source:
            assert source.get([30]).shape == (1, HEIGHT, WIDTH, 3)
            with pytest.raises(OLMoInputError, match=r"need 50 to be decoded, over the limit of 40.*keyframe"):
                source.get([49])

    def test_raw_streams_are_counted_within_the_limit(self, folder):
        path = write_video(folder / "limits.h264", n=50, stream_format="h264")
        with pytest.raises(OLMoInputError, match="more than 40"):
            open_video(path, limits=VideoLimits(max_walk=40))

    def test_memory(self, path):
        with (
            open_video(path, limits=VideoLimits(max_bytes=100_000)) as source,
            pytest.raises(OLMoInputError, match=r"10 frames of 96x64 .* over the limit"),
        ):
            source.get(range(10))

    def test_closed_is_closed(self, path):
        source = open_video(path)
        source.close()
        source.close()
        with pytest.raises(OLMoInputError, match="is closed"):
            source.get([0])

    def test_values_are_checked(self):
        with pytest.raises(OLMoInputError, match="timeout_s must be positive"):
            VideoLimits(timeout_s=0)


def test_without_pyav_the_error_names_the_extra(folder, monkeypatch):
    path = write_video(folder / "extra.mp4", n=2)
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    with pytest.raises(OLMoInputError, match=r"pip install 'molmo\[video\]'"):
        open_video(path)


def test_numbered_frames_are_told_apart():
    assert numbers(numbered_array(60)) == list(range(60))
