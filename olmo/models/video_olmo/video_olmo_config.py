"""`VideoOlmoConfig`: a `MolmoConfig` with what a video needs. All of it is optional; no field changes a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from olmo.config import ConfigEnum
from olmo.exceptions import OLMoConfigurationError
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.nn.vision_config import ImagePooling
from olmo.preprocessing.video.sampling import FrameSampling
from olmo.preprocessing.video.subtitles import SubtitleMode
from olmo.preprocessing.video.video_preprocessor import VideoPreprocessor
from olmo.preprocessing.video.video_spec import AUTO_RESOLUTION, TimeMode, VideoSpec, pooled_side


class TemporalAggregation(ConfigEnum):
    """How neighbouring frames become one."""

    none = "none"
    mean = "mean"
    attention = "attention"


class FrameChoice(ConfigEnum):
    """What the question decides about frames."""

    query = "query"
    query_resolution = "query_resolution"


@dataclass(kw_only=True)
class VideoOlmoConfig(MolmoConfig):
    """Configuration of VideoOlmo. Any Molmo configuration becomes one by `from_molmo`."""

    model_name = "video_olmo"

    max_frames: int = 16
    """Frames of a video that the language model sees at most; 4 to 64 is usual."""

    frame_sampling: FrameSampling = FrameSampling.uniform
    """How they are chosen: `uniform`, `random` (one in each equal part, to train), `adaptive` (where things change)."""

    frame_sampling_seed: int = 0
    """Seed of random sampling."""

    max_fps: float | None = None
    """Frames at most for each second of video; None: no such limit."""

    time_mode: TimeMode = TimeMode.per_frame_compact
    """Text before each frame: `per_frame_compact` (`1.5 `), `per_frame` (` time 1.50 `), `none`; or once before the
    first, `fps_prefix` (the rate) or `delta_prefix` (the distance of frames in seconds)."""

    pooling_h: int = 3
    """Height of a pooling window of frames, in patches; pictures keep `vision_backbone.image_pooling_h`. Where pictures
    are not pooled (`image_pooling_2d=none`) a window of a frame becomes its mean."""

    pooling_w: int = 3
    """Width of a pooling window of frames, in patches."""

    high_res_every: int | None = None
    """Every so many frames, from the first on, one is pooled more finely; None: none is."""

    high_res_pooling: int = 2
    """Side of the finer windows, in patches."""

    frame_resolution: int | str | None = None
    """Side of frames in pixels, a multiple of the patch, at most that of the encoder; `"auto"`: as large as the context
    allows; None: that of the encoder."""

    frame_batch_size: int | None = None
    """Crops that go through the picture encoder at a time, to save memory; None: all."""

    checkpoint_frames: bool = True
    """In training, keep no activations of the picture encoder and compute them again in the backward pass."""

    subtitle_mode: str = "all"
    """Which subtitles of a video are shown behind it: `all`, `frame_W` (within W seconds of a frame), `truncate_N` (the
    first N lines) or `ignore`."""

    time_embedding: bool = False
    """Add a learned embedding of the time to the features of a frame, besides the text; it starts at zero."""

    temporal_aggregation: TemporalAggregation = TemporalAggregation.none
    """Join `temporal_stride` neighbouring frames place by place: `none`, `mean` or `attention` over time."""

    temporal_stride: int = 1
    """Frames that are joined; 1 joins nothing."""

    frame_selection: FrameChoice | None = None
    """`query`: of `candidate_frames` keep the max_frames that fit the question; `query_resolution`: as many frames as
    high_res_every makes finer, but those that fit the question. None: the question decides nothing."""

    candidate_frames: int | None = None
    """Frames that are read and encoded for `frame_selection=query`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = ("max_frames", "pooling_h", "pooling_w", "high_res_every", "high_res_pooling", "frame_batch_size",
                    "temporal_stride", "candidate_frames")  # fmt: skip
        for name in positive:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise OLMoConfigurationError(f"must be at least 1, got {value}", name)
        if self.frame_sampling_seed < 0:
            raise OLMoConfigurationError(f"must be 0 or more, got {self.frame_sampling_seed}", "frame_sampling_seed")
        if self.max_fps is not None and not self.max_fps > 0:
            raise OLMoConfigurationError(f"must be above 0 or null, got {self.max_fps}", "max_fps")
        try:
            SubtitleMode.parse(self.subtitle_mode)
        except OLMoConfigurationError as error:
            raise OLMoConfigurationError(error.reason, "subtitle_mode") from None
        self._check_frames()
        self._check_joining_and_choice()

    @classmethod
    def from_molmo(cls, config: MolmoConfig, **fields: Any) -> Self:
        """The configuration of a Molmo with other `fields`, also of a VideoOlmo; its tokenizer is still found."""
        values = config.asdict()
        values.pop("model_name")
        video = cls.new(**{**values, **fields})
        video.source_dir = config.source_dir
        return video

    @property
    def frame_pools(self) -> tuple[tuple[int, int], ...]:
        """Height and width of all windows that frames may be pooled with."""
        pools = [(self.pooling_h, self.pooling_w)]
        if self.high_res_every is not None:
            pools.append((self.high_res_pooling, self.high_res_pooling))
        return tuple(pools)

    @property
    def video_spec(self) -> VideoSpec:
        """How videos become frames and tokens, for preprocessing."""
        drops = self.frame_selection is FrameChoice.query
        return VideoSpec(
            n_frames=self.candidate_frames or self.max_frames if drops else self.max_frames,
            sampling=self.frame_sampling,
            seed=self.frame_sampling_seed,
            max_fps=self.max_fps,
            time_mode=self.time_mode,
            pool_h=self.pooling_h,
            pool_w=self.pooling_w,
            high_res_every=self.high_res_every,
            high_res_pool=self.high_res_pooling,
            resolution=self.frame_resolution,
            stride=self.temporal_stride,
            n_kept=self.max_frames if drops else None,
            subtitle_mode=self.subtitle_mode,
            index_width=self.index_width,
        )

    @property
    def index_width(self) -> int:
        """Entries of `image_input_idx` for each crop: the pooled features of a crop at the finest pooling."""
        if self.vision_backbone is None:
            return 0
        grid = self.vision_backbone.vit.spec.grid
        pools = [(self.vision_backbone.image_pooling_h, self.vision_backbone.image_pooling_w), *self.frame_pools]
        return max(pooled_side(grid, h) * pooled_side(grid, w) for h, w in pools)

    def build_preprocessor(
        self,
        for_inference: bool,
        is_training: bool = True,
        include_image: bool = False,
        max_seq_len: int | None = None,
    ) -> VideoPreprocessor:
        """What turns one example, with pictures or videos, into tensors; see `MolmoConfig.build_preprocessor`."""
        return VideoPreprocessor(
            video_spec=self.video_spec,
            **self.preprocessor_options(for_inference, is_training, include_image, max_seq_len),
        )

    def _check_frames(self) -> None:
        vision = self.vision_backbone
        if vision is None:
            return
        own = (vision.image_pooling_h, vision.image_pooling_w)
        if vision.image_pooling_2d is ImagePooling.stack and any(pool != own for pool in self.frame_pools):
            raise OLMoConfigurationError(
                f"frames are pooled {self.pooling_h}x{self.pooling_w} (and {self.high_res_pooling}x"
                f"{self.high_res_pooling} with high_res_every), but image_pooling_2d=stack has weights for windows of "
                f"{own[0]}x{own[1]} only; set pooling_h and pooling_w to these",
                "pooling_h",
            )
        size, patch, wanted = vision.vit.spec.image_size, vision.vit.spec.patch_size, self.frame_resolution
        if isinstance(wanted, str) and wanted != AUTO_RESOLUTION:
            raise OLMoConfigurationError(f"is a number of pixels, 'auto' or null, got {wanted!r}", "frame_resolution")
        if isinstance(wanted, int) and (wanted % patch or not patch <= wanted <= size):
            raise OLMoConfigurationError(
                f"must be a multiple of the patch of {patch} px from {patch} to {size}, got {wanted}",
                "frame_resolution",
            )

    def _check_joining_and_choice(self) -> None:
        joins = self.temporal_aggregation is not TemporalAggregation.none
        if joins != (self.temporal_stride > 1):
            raise OLMoConfigurationError(
                f"is {self.temporal_stride} with temporal_aggregation={self.temporal_aggregation.value}; joining "
                "frames takes mean or attention together with a stride of 2 or more",
                "temporal_stride",
            )
        if self.frame_selection is None:
            if self.candidate_frames is not None:
                raise OLMoConfigurationError("goes with frame_selection=query", "candidate_frames")
            return
        if joins:
            raise OLMoConfigurationError("cannot be combined with temporal_aggregation; choose one", "frame_selection")
        if self.frame_selection is FrameChoice.query:
            if self.candidate_frames is None or self.candidate_frames < self.max_frames:
                raise OLMoConfigurationError(
                    f"must be at least max_frames={self.max_frames} with frame_selection=query, got "
                    f"{self.candidate_frames}",
                    "candidate_frames",
                )
            if self.high_res_every is not None:
                raise OLMoConfigurationError("goes with frame_selection=query_resolution or null", "high_res_every")
        elif self.high_res_every is None or self.candidate_frames is not None:
            raise OLMoConfigurationError(
                "query_resolution takes high_res_every, which says how many frames are finer, and no candidate_frames",
                "frame_selection",
            )
