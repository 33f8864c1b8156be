"""Video files through PyAV, exact to the frame: seeks where keyframes are near, decodes only what it must.

A file's packets are listed when it is opened, without decoding them; that gives the number of frames, their times and
the keyframes, whatever the header says. For a request, decoding begins at the last keyframe before each wanted frame
and ends with it; pictures that no other one refers to are skipped on the way. Files whose packets carry no usable times
(raw streams) are decoded once to count their frames, and from the beginning for every request. One request at a time: a
new one takes the decoder from one that is not finished.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.av_file import open_container
from olmo.preprocessing.video.frame_pixels import has_its_planes, luma_pixels, rgb_pixels
from olmo.preprocessing.video.packet_index import PacketIndex, Run
from olmo.preprocessing.video.source import Deadline, VideoLimits, VideoSource
from olmo.preprocessing.video.timestamps import repaired_ticks

if TYPE_CHECKING:
    from av import Packet, VideoFrame

_MAX_THREADS = 8
_HAS_AFFINITY = hasattr(os, "sched_getaffinity")  # not on macOS and Windows
_SEEK_TRIES = 4  # keyframes further back each time, before starting over at the beginning


class AvSource(VideoSource):
    """The frames of a video file.

    Args:
        video: path of a local file, or its bytes.
        fps: frames a second, for files that tell neither times nor a rate.
        name: what messages call it.
        limits: what may be read.

    Raises:
        OLMoInputError: not a video that can be opened, no frame that can be decoded, or a limit that is passed.
    """

    def __init__(
        self, video: str | Path | bytes, *, fps: float | None = None, name: str, limits: VideoLimits | None = None
    ) -> None:
        self.name = name
        self.limits = limits or VideoLimits()
        self._video = video
        self._open()
        try:
            self._index = self._read_index()
            if self._index is None:
                self._count_by_decoding(fps)
            else:
                self.n_frames = len(self._index.frame_pts)
                self.seconds = self._seconds(self._index.frame_pts)
                self.fps = self._mean_rate(fps)
                self.size = self._first_size()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """See `VideoSource`."""
        self._container.close()
        self._is_open = False

    def iter_frames(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """See `VideoSource`."""
        for index, frame in self._decode(self.check_indices(indices)):
            pixels = self._converted(frame, lambda frame: rgb_pixels(frame, self._to_rgb, self.size))
            if pixels is not None:
                yield index, pixels

    def iter_luma(self, indices: Sequence[int] | np.ndarray, side: int) -> Iterator[tuple[int, np.ndarray]]:
        """See `VideoSource`. Colour is never computed."""
        for index, frame in self._decode(self.check_indices(indices)):
            pixels = self._converted(frame, lambda frame: luma_pixels(frame, self._to_luma, side))
            if pixels is not None:
                yield index, pixels

    def _converted(self, frame: VideoFrame, convert: Callable[[VideoFrame], np.ndarray]) -> np.ndarray | None:
        """The pixels of a decoded frame; None where damage gave it a format that there is no way from."""
        import av

        self.limits.check_size(frame.width, frame.height, self.name)
        if not has_its_planes(frame):
            return None
        try:
            return convert(frame)
        except (av.error.FFmpegError, ValueError):
            return None

    def _open(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._container, self._stream = open_container(self._video, self.name, self.limits)
        self._is_open = True
        context = self._stream.codec_context
        context.thread_type = "AUTO"
        context.thread_count = min(_n_threads(), _MAX_THREADS)
        self._to_rgb, self._to_luma = VideoReformatter(), VideoReformatter()

    def _reopen(self) -> None:
        self._container.close()
        self._open()

    def _packets(self, deadline: Deadline) -> Iterator[Packet]:
        """The packets from here to the end of the file, or to where it can be read no further."""
        import av

        packets = self._container.demux(self._stream)
        while True:
            deadline.check()
            try:
                packet = next(packets, None)
            except av.error.FFmpegError:
                return  # a cut or damaged file ends here
            except IndexError:  # PyAV's, for a packet of a stream that began after the file was opened
                packets = self._container.demux(self._stream)
                continue
            if packet is None:
                return
            if packet.size:
                yield packet

    def _read_index(self) -> PacketIndex | None:
        """The table of the file; None where its packets carry no usable times."""
        deadline = Deadline(self.limits, self.name)
        pts: list[int | None] = []
        is_key: list[bool] = []
        is_shown: list[bool] = []
        for packet in self._packets(deadline):
            pts.append(packet.pts)
            is_key.append(packet.is_keyframe)
            is_shown.append(not packet.is_discard)
            self.limits.check_count(len(pts), self.name)
        if not any(is_shown):
            raise OLMoInputError(f"{self.name} holds no frames; it may be cut short. Copy or download it again")
        first_key = is_key.index(True) if True in is_key else len(is_key)
        pts, is_key, is_shown = pts[first_key:], is_key[first_key:], is_shown[first_key:]
        if not PacketIndex.is_usable(pts, is_key) or not any(is_shown):
            return None
        return PacketIndex(np.array(pts, np.int64), np.array(is_key), np.array(is_shown))

    def _seconds(self, pts: np.ndarray) -> np.ndarray | None:
        """Times from the first frame on."""
        base = self._stream.time_base
        return None if base is None else (pts - pts[0]) * base.numerator / base.denominator

    def _mean_rate(self, fps: float | None) -> float | None:
        """Frames a second: counted where there are times, else as given or as the header says."""
        if self.seconds is not None and self.n_frames > 1:
            return float((self.n_frames - 1) / self.seconds[-1])
        rate = fps or self._stream.average_rate or self._stream.guessed_rate
        return float(rate) if rate else None

    def _first_size(self) -> tuple[int, int]:
        """Size of the first frame that can be decoded, as displayed."""
        wanted = np.arange(self.n_frames)
        for tried in (wanted[:1], wanted[: self.limits.max_walk]):
            if size := self._size_of_first(frame for _, frame in self._decode(tried)):
                return size
        raise OLMoInputError(f"no frame of {self.name} can be decoded; the file is damaged. Copy or download it again")

    def _size_of_first(self, frames: Iterable[VideoFrame]) -> tuple[int, int] | None:
        for frame in frames:
            pixels = self._converted(frame, lambda frame: rgb_pixels(frame, self._to_rgb))
            if pixels is not None:
                return pixels.shape[1], pixels.shape[0]
        return None

    def _decode(self, indices: np.ndarray) -> Iterator[tuple[int, VideoFrame]]:
        """The wanted frames that can be decoded, by rising number."""
        if not self._is_open:
            raise OLMoInputError(f"{self.name} is closed; open it again with open_video")
        wanted = np.unique(indices)
        if self._index is None:
            yield from self._walk(wanted)
            return
        runs = self._index.runs(wanted)
        n_decoded = sum(run.stop - run.start for run in runs)
        if n_decoded > self.limits.max_walk:
            raise OLMoInputError(
                f"{len(wanted)} frames of {self.name} need {n_decoded:,} to be decoded, over the limit of "
                f"{self.limits.max_walk:,}, because its keyframes are rare; write it with a keyframe every second or "
                "two (ffmpeg -g 30), take a part of it, or raise VideoLimits.max_walk"
            )
        numbers = dict(zip(self._index.frame_pts[wanted].tolist(), wanted.tolist(), strict=True))
        deadline = Deadline(self.limits, self.name)
        for run in runs:
            # Frames come out of the decoder in order of presentation, and runs follow one another in it.
            for frame in self._decode_run(run, set(numbers), deadline):
                if frame.pts in numbers and not frame.is_corrupt:
                    yield numbers.pop(frame.pts), frame

    def _decode_run(self, run: Run, wanted: set[int], deadline: Deadline) -> Iterator[VideoFrame]:
        """What a run of packets decodes to."""
        assert self._index is not None, "runs come from an index"
        for packet in self._from_key(run.start, deadline):
            position = self._index.position_of(packet.pts)
            if position is None or position < run.start:
                continue
            # A picture that no other one refers to need not be decoded, unless it is wanted itself.
            self._stream.codec_context.skip_frame = "DEFAULT" if packet.pts in wanted else "NONREF"
            yield from _frames_of(packet.decode)
            if position + 1 >= run.stop:
                break
        yield from _frames_of(lambda: self._stream.codec_context.decode(None))

    def _from_key(self, key: int, deadline: Deadline) -> Iterator[Packet]:
        """Packets from a keyframe on, or from somewhere before it; checked, because seeking is not exact."""
        import av

        assert self._index is not None, "seeking needs an index"
        target = key
        for _ in range(_SEEK_TRIES):
            try:
                self._container.seek(self._index.pts_at(target), stream=self._stream, backward=True)
            except av.error.FFmpegError:
                break
            packets = self._packets(deadline)
            first = next(packets, None)
            landed = None if first is None else self._index.position_of(first.pts)
            if first is not None and landed is not None and landed <= key:
                yield first
                yield from packets
                return
            if target == 0:
                break
            target = self._index.key_before(target)
        self._reopen()
        yield from self._packets(deadline)

    def _walk(self, wanted: np.ndarray) -> Iterator[tuple[int, VideoFrame]]:
        """Frames of a file without times, counted from its beginning."""
        numbers = set(wanted.tolist())
        if not numbers:
            return
        for index, frame in enumerate(self._all_frames()):
            if index in numbers and not frame.is_corrupt:
                yield index, frame
            if index >= max(numbers):
                return

    def _all_frames(self) -> Iterator[VideoFrame]:
        self._reopen()
        # Frames are told by counting here, and with several in flight what follows an error would depend on timing.
        self._stream.codec_context.thread_type = "SLICE"
        deadline = Deadline(self.limits, self.name)
        for packet in self._packets(deadline):
            yield from _frames_of(packet.decode)
        yield from _frames_of(lambda: self._stream.codec_context.decode(None))

    def _count_by_decoding(self, fps: float | None) -> None:
        size: tuple[int, int] | None = None
        times: list[int | None] = []
        for frame in self._all_frames():
            size = size or self._size_of_first([frame])
            times.append(frame.pts)
            if len(times) > self.limits.max_walk:
                raise OLMoInputError(
                    f"{self.name} has no usable times, so its frames are counted by decoding, and there are more than "
                    f"{self.limits.max_walk:,}; write it as MP4 or WebM, or raise VideoLimits.max_walk"
                )
        if size is None:
            raise OLMoInputError(f"no frame of {self.name} can be decoded; the file is damaged. Copy it again")
        self.size, self.n_frames = size, len(times)
        ticks = repaired_ticks(times)
        self.seconds = None if ticks is None else self._seconds(ticks)
        self.fps = self._mean_rate(fps)


def _n_threads() -> int:
    """As many threads as torch takes where it runs (one in the workers of a data loader), else all usable cores."""
    torch = sys.modules.get("torch")
    if torch is not None:
        return torch.get_num_threads()
    return len(os.sched_getaffinity(0)) if _HAS_AFFINITY else os.cpu_count() or 1


def _frames_of(decode: Callable[[], list[VideoFrame]]) -> list[VideoFrame]:
    """What a step of decoding gives; nothing where the data is damaged."""
    import av

    try:
        return decode()
    except av.error.FFmpegError:
        return []
