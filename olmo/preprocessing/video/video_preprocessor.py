"""`VideoPreprocessor`: a `Preprocessor` that also takes videos.

A video becomes frames; each frame becomes one square crop, and a block of tokens behind the time it was taken. Pictures
go the way of every Molmo. Each crop carries its facts (time, patches a side, pooling window), which tell the model what
it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.image_tokens import UNUSED
from olmo.preprocessing.messages import Example
from olmo.preprocessing.multicrop import patch_shares
from olmo.preprocessing.preprocessor import PictureBlock, Preprocessor, Visuals
from olmo.preprocessing.resize import draw_resized, to_float
from olmo.preprocessing.video.clip import Clip, read_frames
from olmo.preprocessing.video.frame_budget import ANSWER_SHARE, count_frame_tokens, frame_grid
from olmo.preprocessing.video.frame_tokens import PICTURE_SECONDS, time_texts, video_layout
from olmo.preprocessing.video.open_video import open_video
from olmo.preprocessing.video.sampling import sample_frames
from olmo.preprocessing.video.subtitles import load_subtitles, select_subtitles, subtitle_lines
from olmo.preprocessing.video.video_spec import AUTO_RESOLUTION, VideoSpec

_MASK_FILLER = -1.0


@dataclass(frozen=True)
class ShownVideo:
    """One video of an example.

    Attributes:
        clip: its chosen frames.
        subtitles: lines that stand behind it; empty for none.
    """

    clip: Clip
    subtitles: str = ""


class VideoPreprocessor(Preprocessor):
    """Turns an example with pictures or videos into the tensors a VideoOlmo takes.

    What it returns is that of `Preprocessor`, and `frame_facts` float32 `[N, 4]` beside the crops: seconds (-1 for the
    crops of pictures), patches a side, height and width of a pooling window. `metadata["frame_seconds"]` lists the
    times of each video's frames.

    Args:
        video_spec: how videos become frames and tokens.
        **options: as for `Preprocessor`; `image_spec` is not None.
    """

    takes_video = True

    def __init__(self, *, video_spec: VideoSpec, **options: Any) -> None:
        super().__init__(**options)
        self.video_spec = video_spec

    def load(self, parsed: Example, rng: np.random.Generator | None) -> Visuals:
        """Decode pictures, or read the chosen frames of videos."""
        if not parsed.videos:
            return super().load(parsed, rng)
        if self.image_spec is None:
            raise OLMoInputError("this model is text-only (vision_backbone=None) and the example has a video")
        clips = [self._read(video, parsed, place, rng) for place, video in enumerate(parsed.videos)]
        shown = [ShownVideo(clip, self._subtitles(parsed, clip)) for clip in clips]
        return Visuals(shown, [(int(c.frames[0].shape[1]), int(c.frames[0].shape[0])) for c in clips])

    def picture_block(self, pictures: list[Any], n_text_tokens: int) -> PictureBlock:
        """Crops and tokens of pictures, or of the frames of videos; see `Preprocessor.picture_block`.

        Raises:
            OLMoInputError: the frames do not fit the context; the message says what would.
        """
        if not isinstance(pictures[0], ShownVideo):
            return self._with_facts(super().picture_block(pictures, n_text_tokens))
        room = self._room(n_text_tokens)
        blocks: list[PictureBlock] = []
        start, used = 1, 0  # after the first token
        for place, video in enumerate(pictures):
            share = None if room is None else (room - used) // (len(pictures) - place)
            blocks.append(self._video_block(video, start, share))
            start += len(blocks[-1].token_ids)
            used += len(blocks[-1].token_ids) - blocks[-1].n_dropped
        largest = max(block.images.shape[-1] for block in blocks)
        return PictureBlock(
            np.concatenate([block.token_ids for block in blocks]),
            np.concatenate([_grown(block.images, largest) for block in blocks]),
            np.concatenate([block.masks for block in blocks]),
            np.concatenate([block.input_idx for block in blocks]),
            np.concatenate([block.facts for block in blocks if block.facts is not None]),
            sum(block.n_dropped for block in blocks),
        )

    def metadata(self, parsed: Example, shown: Visuals) -> dict[str, Any]:
        """What travels beside the tensors; for a video the times of its frames in seconds, and its frames as images."""
        metadata = super().metadata(parsed, shown)
        if parsed.videos:
            metadata["frame_seconds"] = [[float(t) for t in video.clip.seconds] for video in shown.items]
            if self.include_image:
                metadata["images"] = [frame for video in shown.items for frame in video.clip.frames]
        return metadata

    def _read(self, video: Any, parsed: Example, place: int, rng: np.random.Generator | None) -> Clip:
        spec = self.video_spec
        name = f"{parsed.metadata.get('source', '')}/{parsed.metadata.get('row', '')}/{place}"
        source = open_video(video)
        try:
            selection = sample_frames(
                source,
                spec.sampling,
                max_frames=spec.n_frames,
                max_fps=spec.max_fps,
                seed=spec.seed,
                # The generator of an example is drawn anew in each epoch, so what it draws names both.
                example_id=name if rng is None else f"{name}/{rng.integers(2**62)}",
                start_s=parsed.start_s,
                end_s=parsed.end_s,
            )
            return read_frames(source, selection)
        finally:
            if source is not video:
                source.close()

    def _subtitles(self, parsed: Example, clip: Clip) -> str:
        """Lines of subtitles that the mode keeps, under a heading; empty for none."""
        given = parsed.subtitles
        if given is None:
            return ""
        subtitles = given if isinstance(given, list | tuple) else load_subtitles(given)
        start_s, end_s = parsed.start_s or 0.0, parsed.end_s
        subtitles = [s for s in subtitles if s.end_s >= start_s and (end_s is None or s.start_s < end_s)]
        kept = select_subtitles(subtitles, self.video_spec.subtitle_mode, clip.seconds + start_s)
        return "\n".join(["", "subtitles", *subtitle_lines(kept, start_s), ""]) if kept else ""

    def _room(self, n_text_tokens: int) -> int | None:
        """Tokens that all frames together may take."""
        limit, is_auto = self.max_seq_len, self.video_spec.resolution == AUTO_RESOLUTION
        if limit is None:
            return None
        if self.for_inference:
            return limit - 1 - n_text_tokens - (limit // ANSWER_SHARE if is_auto else 0)
        return limit - 1 - (n_text_tokens if is_auto else 1)  # in training the text is what gives way

    def _video_block(self, video: ShownVideo, start: int, room: int | None) -> PictureBlock:
        clip, image, spec, has_cols = video.clip, self.image_spec, self.video_spec, self.config.use_col_tokens
        assert image is not None, "checked when the video was read"
        texts = time_texts(clip.seconds[:: spec.stride], spec.time_mode)
        time_ids = [self.tokenizer.encode(text) if text else [] for text in texts]
        lengths = [len(ids) for ids in time_ids]
        said = np.array(self.tokenizer.encode(video.subtitles) if video.subtitles else [], dtype=np.int64)
        room = None if room is None else room - len(said)
        grid = frame_grid(len(clip.frames), spec, image, has_cols, lengths, room)
        layout = video_layout(clip.seconds, time_ids, grid, spec, has_cols, self.image_token_ids)
        images, masks = frame_crops(clip.frames, grid, image)
        index = np.where(layout.input_idx >= 0, layout.input_idx + start, layout.input_idx)
        token_ids = np.concatenate([layout.token_ids, said])
        n_dropped = len(layout.token_ids) - count_frame_tokens(len(clip.frames), grid, spec, has_cols, lengths)
        return PictureBlock(token_ids, images, masks, index, layout.facts, n_dropped)

    def _with_facts(self, block: PictureBlock) -> PictureBlock:
        """A block of pictures, with indices as wide as those of frames."""
        assert self.image_spec is not None, "there are pictures"
        n_crops, n_tokens = block.input_idx.shape
        index = np.full((n_crops, max(self.video_spec.index_width, n_tokens)), UNUSED, dtype=np.int64)
        index[:, :n_tokens] = block.input_idx
        fact = [PICTURE_SECONDS, self.image_spec.grid, self.image_spec.pool_h, self.image_spec.pool_w]
        facts = np.tile(np.array(fact, dtype=np.float32), (n_crops, 1))
        return block._replace(input_idx=index, facts=facts)


def frame_crops(frames: Any, grid: int, spec: ImageSpec) -> tuple[np.ndarray, np.ndarray]:
    """One square crop of each frame.

    Args:
        frames: uint8 `[H, W, 3]` each.
        grid: patches a side of a crop.
        spec: patch size, pixel statistics and resize mode of the picture encoder.

    Returns:
        Normalised pixels float32 `[frames, 3, side, side]`, and the share of real pixels in each patch float32
        `[frames, P]`, -1 behind the patches that a smaller crop has.
    """
    side = grid * spec.patch_size
    images = torch.empty(len(frames), 3, side, side)
    masks = np.full((len(frames), max(spec.n_patches, grid * grid)), _MASK_FILLER, dtype=np.float32)
    for frame, canvas, mask in zip(frames, images, masks, strict=True):
        placed = draw_resized(to_float(frame, spec), canvas, spec)
        mask[: grid * grid] = patch_shares(placed, (grid, grid), spec.patch_size).reshape(-1)
    return images.numpy(), masks


def _grown(images: np.ndarray, side: int) -> np.ndarray:
    """Frames on a canvas of `side`, so that videos of several resolutions go into one tensor."""
    if images.shape[-1] == side:
        return images
    grown = np.full((*images.shape[:2], side, side), -1, dtype=images.dtype)
    grown[:, :, : images.shape[2], : images.shape[3]] = images
    return grown
