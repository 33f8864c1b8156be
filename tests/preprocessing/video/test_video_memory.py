"""Videos that need no codec: arrays, lists, folders, animations, NumPy files; and what is done about damage."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from number_videos import HEIGHT, WIDTH, numbered_array, shown_number
from PIL import Image

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.array_source import ArraySource
from olmo.preprocessing.video.clip import read_frames
from olmo.preprocessing.video.open_video import open_video
from olmo.preprocessing.video.sampling import FrameSelection, sample_frames
from olmo.preprocessing.video.source import VideoLimits
from olmo.preprocessing.video.timestamps import repaired_ticks

N = 20
FRAMES = numbered_array(N)
PICTURES = [Image.fromarray(f) for f in FRAMES]


def animation(kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    lossless = {"lossless": True} if kind == "WEBP" else {}
    PICTURES[0].save(data, kind, save_all=True, append_images=PICTURES[1:], duration=50, **lossless, **options)
    return data.getvalue()


def npz(**arrays: object) -> bytes:
    data = io.BytesIO()
    np.savez(data, **arrays)
    return data.getvalue()


def npy(array: np.ndarray, **options: object) -> bytes:
    data = io.BytesIO()
    np.save(data, array, **options)
    return data.getvalue()


KINDS = {
    "array": lambda folder: FRAMES,
    "tensor": lambda folder: torch.from_numpy(FRAMES),
    "channels first": lambda folder: torch.from_numpy(FRAMES).permute(0, 3, 1, 2),
    "gray": lambda folder: FRAMES[..., 0],
    "one channel": lambda folder: FRAMES[..., :1],
    "alpha": lambda folder: np.concatenate([FRAMES, np.full_like(FRAMES[..., :1], 255)], axis=3),
    "pictures": lambda folder: PICTURES,
    "arrays": lambda folder: list(FRAMES),
    "folder": lambda folder: save_pictures(folder),
    "gif": lambda folder: animation("GIF"),
    "webp": lambda folder: animation("WEBP"),
    "apng": lambda folder: animation("PNG"),
    "pillow": lambda folder: Image.open(io.BytesIO(animation("GIF"))),
    "npy": lambda folder: npy(FRAMES),
    "npy file": lambda folder: save_bytes(folder / "a.npy", npy(FRAMES)),
    "npz": lambda folder: npz(frames=FRAMES, fps=20),
    "npz file": lambda folder: save_bytes(folder / "a.npz", npz(anything=FRAMES, seconds=np.arange(N) / 20 + 3)),
}


def save_bytes(path, data):
    path.write_bytes(data)
    return path


def save_pictures(folder):
    for i, picture in enumerate(PICTURES):
        picture.save(folder / f"frame_{i}.png")
    (folder / "notes.txt").write_text("not a frame")
    return str(folder)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_shows_the_same_frames(kind, tmp_path):
    given = KINDS[kind](tmp_path)
    tells_times = kind in ("gif", "webp", "apng", "pillow", "npz", "npz file")
    with open_video(given, **({} if tells_times else {"fps": 20})) as source:
        assert (source.n_frames, source.size, source.fps) == (N, (WIDTH, HEIGHT), pytest.approx(20))
        order = [7, 0, 19, 7, 3]
        frames = source.get(order)
        assert frames.dtype == np.uint8 and [shown_number(f) for f in frames] == order
        assert [i for i, _ in source.iter_frames(order)] == [0, 3, 7, 19]
        assert source.duration_s == pytest.approx(1.0)
        chosen = sample_frames(source, max_frames=5)
        np.testing.assert_allclose(chosen.seconds, chosen.indices / 20, atol=1e-9)
        np.testing.assert_allclose(source.get([5])[0], FRAMES[5], atol=0)


def test_a_source_is_handed_back():
    source = open_video(FRAMES)
    assert open_video(source) is source
    assert source.duration_s is None and open_video(FRAMES, fps=4).duration_s == 5.0


def test_frames_of_a_gif_have_their_own_times():
    data = io.BytesIO()
    PICTURES[0].save(data, "GIF", save_all=True, append_images=PICTURES[1:4], duration=[100, 500, 0, 20])
    source = open_video(data.getvalue())
    assert source.seconds.tolist() == pytest.approx([0.0, 0.1, 0.6, 0.7])  # no duration counts as 0.1 s
    assert source.duration_s == pytest.approx(0.72)


def test_a_transparent_animation_is_on_white():
    frames = [Image.new("RGBA", (8, 8), (255, 0, 0, 0)), Image.new("RGBA", (8, 8), (0, 0, 255, 255))]
    data = io.BytesIO()
    frames[0].save(data, "PNG", save_all=True, append_images=frames[1:], duration=100)
    shown = open_video(data.getvalue()).get([0, 1])
    assert shown[0, 0, 0].tolist() == [255, 255, 255] and shown[1, 0, 0].tolist() == [0, 0, 255]


def test_one_frame_is_a_video():
    assert open_video(FRAMES[:1]).get([0]).shape == (1, HEIGHT, WIDTH, 3)
    data = io.BytesIO()
    PICTURES[3].save(data, "GIF")
    assert open_video(data.getvalue()).n_frames == 1


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_a_picture_named_as_a_video_is_called_a_picture(tmp_path, kind):
    path = tmp_path / "clip.mp4"
    PICTURES[0].save(path, kind)
    with pytest.raises(OLMoInputError, match=r"is a single .* picture, not a video; give it as an image"):
        open_video(path)
    with pytest.raises(OLMoInputError, match="is a single Pillow picture"):
        open_video(PICTURES[0])


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (None, "cannot read a video from NoneType"),
        ("http://example.com/a.mp4", "videos are not fetched from"),
        ("file:///etc/hosts", "videos are not fetched from"),
        ("none.mp4", "does not exist"),
        ("concat:a.mp4|b.mp4", "does not exist"),
        ("/dev/null", "is not a regular file"),
        (b"", "is empty"),
        ([], "is empty"),
        (np.zeros((0, 4, 4, 3), np.uint8), "so no frames"),
        (np.zeros((4, 4), np.uint8), "A single picture is an image, not a video"),
        (np.zeros((2, 6, 6, 5), np.uint8), r"shape \[2, 6, 6, 5\]; wanted"),
        (np.zeros((2, 4, 4, 3)), r"dtype float64; wanted uint8.*\* 255"),
        (torch.zeros(2, 3, 4, 4), "dtype float32"),
        (np.zeros((2, 0, 4, 3), np.uint8), "without pixels"),
        (npy(np.array([{}], object)), "no NumPy file with plain numbers"),
        (npy(FRAMES)[:-100], "no NumPy file with plain numbers"),
        (b"PK\x03\x04 not a zip", "no NumPy file with plain numbers"),
        (npz(a=FRAMES, b=FRAMES), "call the one with the frames 'frames'"),
        (animation("GIF")[:30], "damaged or truncated animation"),
        (b"\x89PNG\r\n\x1a\n nothing", "damaged or truncated animation"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_video(video, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OLMoInputError, match=message):
        open_video(video)


def test_an_empty_folder(tmp_path):
    with pytest.raises(OLMoInputError, match="holds no pictures to make a video of"):
        open_video(tmp_path)


@pytest.mark.parametrize("indices", [[20], [-1], [0.5], [[0]], "0"])
def test_frame_numbers_are_checked(indices):
    with pytest.raises(OLMoInputError, match=r"frames 0 to 19|list of whole numbers"):
        open_video(FRAMES).get(indices)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": [0.0, 1.0]}, "20 frames and 2 times"),
        ({"seconds": [0.0] * N}, "not strictly increasing"),
        ({"seconds": [float("nan")] * N}, "not strictly increasing"),
        ({"fps": 0}, "must be a positive number"),
        ({"fps": float("inf")}, "must be a positive number"),
    ],
)
def test_times_are_checked(options, message):
    with pytest.raises(OLMoInputError, match=message):
        open_video(FRAMES, **options)


@pytest.mark.parametrize(
    ("limits", "message"),
    [({"max_frames": 19}, "more than 19 frames"), ({"max_pixels": 100}, "over the limit of 100")],
)
@pytest.mark.parametrize("kind", ["array", "pictures", "folder", "gif", "npz"])
def test_limits_hold_for_every_kind(kind, limits, message, tmp_path):
    with pytest.raises(OLMoInputError, match=message):
        open_video(KINDS[kind](tmp_path), limits=VideoLimits(**limits))


def test_limits_of_time_and_memory():
    with pytest.raises(OLMoInputError, match="took longer"):
        open_video(animation("GIF"), limits=VideoLimits(timeout_s=1e-9))
    with pytest.raises(OLMoInputError, match="unpacks to"):
        open_video(npz(frames=FRAMES), limits=VideoLimits(max_bytes=1000))


def test_pictures_of_several_sizes():
    source = open_video([PICTURES[0], PICTURES[1].resize((10, 10))])
    assert [f.shape[0] for _, f in source.iter_frames([0, 1])] == [HEIGHT, 10]
    with pytest.raises(OLMoInputError, match="frame 1 of the list of frames is 10x10, the others are 96x64"):
        source.get([0, 1])


def test_a_cut_animation_has_the_frames_that_are_there():
    data = animation("GIF")
    source = open_video(data[: len(data) // 2])
    assert 3 < source.n_frames < N
    clip = read_frames(source, sample_frames(source, max_frames=4))
    assert [shown_number(f) for f in clip.frames] == clip.indices.tolist()


class Damaged(ArraySource):
    """Frames of which some cannot be decoded."""

    def __init__(self, n: int, bad: set[int]) -> None:
        super().__init__(numbered_array(n), fps=10)
        self.bad = bad

    def iter_frames(self, indices):
        for index, frame in super().iter_frames(indices):
            if index not in self.bad:
                yield index, frame


class TestDamage:
    def test_the_nearest_free_neighbour_stands_in(self):
        clip = read_frames(Damaged(20, {5, 10}), FrameSelection(np.array([5, 9, 10]), np.array([0.5, 0.9, 1.0])))
        assert clip.indices.tolist() == [4, 9, 11] and [shown_number(f) for f in clip.frames] == [4, 9, 11]
        np.testing.assert_allclose(clip.seconds, [0.4, 0.9, 1.1])
        assert (clip.n_replaced, clip.n_dropped) == (2, 0)

    def test_times_stay_those_of_the_part(self):
        source = Damaged(20, {10})
        clip = read_frames(source, sample_frames(source, start_s=1.0, end_s=1.5, max_frames=5))
        assert clip.indices.tolist() == [11, 12, 13, 14]  # frame 9 is readable but not of this part
        np.testing.assert_allclose(clip.seconds, [0.1, 0.2, 0.3, 0.4])

    def test_frames_without_neighbours_are_dropped(self):
        source = Damaged(120, set(range(20, 120)))
        clip = read_frames(source, sample_frames(source, max_frames=4))
        assert clip.indices.tolist() == [0, 19] and (clip.n_replaced, clip.n_dropped) == (1, 2)
        far = read_frames(source, FrameSelection(np.array([0, 60]), np.array([0.0, 6.0])))
        assert far.indices.tolist() == [0]

    def test_nothing_readable_is_an_error(self):
        source = Damaged(10, set(range(10)))
        with pytest.raises(OLMoInputError, match=r"none of the 10 chosen frames .* can be decoded"):
            read_frames(source, sample_frames(source))
        with pytest.raises(OLMoInputError, match=r"no frame of .* can be decoded"):
            sample_frames(Damaged(200, set(range(200))), "adaptive")
        with pytest.raises(OLMoInputError, match=r"frames 0, 1, 2, 3, 4, 5, 6, 7 and 2 more of .* cannot be decoded"):
            source.get(range(10))

    def test_many_patterns(self):
        rng = np.random.default_rng(0)
        for _ in range(100):
            n = int(rng.integers(1, 60))
            source = Damaged(n, set(rng.integers(0, n, rng.integers(0, n + 1)).tolist()))
            selection = sample_frames(source, "random", max_frames=12)
            if len(source.bad) == n:
                continue
            clip = read_frames(source, selection)
            kept = set(selection.indices.tolist()) - source.bad
            assert kept <= set(clip.indices.tolist()) and not set(clip.indices.tolist()) & source.bad
            assert (np.diff(clip.indices) > 0).all() and len(clip) == len(clip.seconds) == len(clip.frames)
            assert len(clip) == min(len(selection), n - len(source.bad)) or n > 32

    def test_every_frame_is_its_own_in_a_list(self):
        clip = read_frames(
            open_video([PICTURES[0], b"broken", PICTURES[2]], fps=1), sample_frames(open_video(FRAMES[:3], fps=1))
        )
        assert clip.indices.tolist() == [0, 2] and clip.n_dropped == 1


@pytest.mark.parametrize(
    ("ticks", "wanted"),
    [
        ([0, 33, 66], [0, 33, 66]),
        ([0, 33, 66, 66], [0, 33, 66, 99]),
        ([0, 33, None, 99, 50, 165], [0, 33, 66, 99, 132, 165]),
        ([None, 10, 20], [10, 20, 30]),
        ([7], [7]),
        ([None, None], None),
        ([0, 0, 0, 0, 0], None),
        ([None], None),
    ],
)
def test_times_of_a_decoder_are_repaired(ticks, wanted):
    repaired = repaired_ticks(ticks)
    assert (None if repaired is None else repaired.tolist()) == wanted
