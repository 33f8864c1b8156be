"""`VideoOlmo`: video, pictures and text in, text out. A Molmo that encodes frames in its own way."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch

from olmo.models.base import ModelBase
from olmo.models.molmo.load import load_molmo
from olmo.models.picture_inputs import GivenPictures, PictureInputs, Seen
from olmo.models.text_inputs import TextInputs
from olmo.models.video_olmo.frame_choice import FrameScores, choose, most_after_choice, score_frames
from olmo.models.video_olmo.frame_scorer import FrameScorer
from olmo.models.video_olmo.frames import encode_crops, frame_inputs
from olmo.models.video_olmo.temporal import TemporalAttention, TimeEmbedding, join_frames
from olmo.models.video_olmo.video_olmo_config import TemporalAggregation, VideoOlmoConfig

__all__ = ["VideoOlmo", "VideoOlmoConfig"]


class VideoOlmo(ModelBase):
    """VideoOlmo for video understanding. See `ModelBase` for `forward`, `generate` and checkpoints.

    `images` are frames `[B, T, 3, H, W]`. The weights of any Molmo load into it; on pictures it is that Molmo.
    """

    config_class = VideoOlmoConfig
    crop_arguments = ("frame_facts",)
    config: VideoOlmoConfig

    def build_further_parts(self) -> None:
        """Time embedding, attention over time and frame scorer, where the configuration asks for them."""
        config, width = self.config, self.config.llm.d_model
        attends = config.temporal_aggregation is TemporalAggregation.attention
        self.time_embedding = TimeEmbedding(width) if config.time_embedding else None
        self.temporal_attention = TemporalAttention(width) if attends else None
        self.frame_scorer = FrameScorer(width) if config.frame_selection is not None else None

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Random initialisation; parts that a Molmo has too are drawn first, as in a Molmo."""
        super().reset_parameters(generator)
        for part in (self.time_embedding, self.temporal_attention, self.frame_scorer):
            if part is not None:
                part.reset_parameters(generator)

    def read_pictures(self, input_ids: torch.Tensor, given: GivenPictures, **crops: Any) -> PictureInputs:
        """Check the crops of a call and bring them to their one form; see `frame_inputs`."""
        return frame_inputs(input_ids, *given, crops.get("frame_facts"), self.config)

    def encode_images(self, pictures: PictureInputs) -> torch.Tensor:
        """Features `[M, entries, D]` of frames and crops, each encoded by itself, then what time adds."""
        assert self.vision_backbone is not None, "pictures are refused at the door of a model without one"
        assert pictures.facts is not None, "read_pictures gives them"
        config = self.config
        features = encode_crops(self.vision_backbone, pictures, config.frame_batch_size, config.checkpoint_frames)
        if self.time_embedding is not None:
            is_frame = (pictures.facts[:, 0] >= 0)[:, None, None].to(features.dtype)
            features = features + self.time_embedding(pictures.facts[:, 0])[:, None] * is_frame
        if config.temporal_aggregation is not TemporalAggregation.none and len(features):
            features = join_frames(features, pictures, self.temporal_attention)
        return features

    def encodes_alone(self, pictures: PictureInputs) -> bool:
        """Whether no frames are joined, and none takes more entries than it has tokens, for a larger one."""
        if pictures.facts is None or not bool((pictures.facts[:, 0] >= 0).any()):
            return True
        is_joined = self.config.temporal_aggregation is not TemporalAggregation.none
        return not is_joined and bool((pictures.facts[:, 1:] == pictures.facts[:1, 1:]).all())

    def reuses_prefixes(self) -> bool:
        """Not where the frames are chosen by the question behind them."""
        return super().reuses_prefixes() and self.frame_scorer is None

    def choose_pictures(
        self, text: TextInputs, pictures: PictureInputs, features: torch.Tensor, **settings: Any
    ) -> Seen:
        """Keep, or show more finely, the frames that fit the question, where the configuration asks for it."""
        if self.frame_scorer is None or not len(features):
            return Seen(text, pictures, features)
        scored = self.score_frames(text, pictures, features)
        return Seen(*choose(text, pictures, features, scored, self.config, self.encode_images))

    def score_frames(self, text: TextInputs, pictures: PictureInputs, features: torch.Tensor) -> FrameScores:
        """How the frames of a batch fit their questions; the model has a frame scorer."""
        assert self.frame_scorer is not None, "there is one where frame_selection is set"
        embeds = self.llm.embed(text.input_ids)
        return score_frames(self.frame_scorer, text, embeds, pictures, features, self.config.image_token_ids)

    def lengths_after_choice(self, text: TextInputs, pictures: Mapping[str, Any]) -> torch.Tensor:
        """`[B]` int64: at most so many positions of each row reach the language model."""
        lengths = super().lengths_after_choice(text, pictures)
        return most_after_choice(text, pictures.get("frame_facts"), lengths, self.config)

    @classmethod
    def _load_pretrained(cls, model: str | Path, **options: Any) -> Self:
        return load_molmo(cls, model, **options)
