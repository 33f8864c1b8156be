"""`MolmoConfig`: the configuration of a Molmo, and the builders of what stands around the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olmo.exceptions import OLMoConfigurationError
from olmo.models.llm_inputs import BiDirectionalAttention
from olmo.models.model_config import BaseModelConfig
from olmo.nn.llm_config import LlmConfig
from olmo.nn.vision_config import MolmoVisionBackboneConfig
from olmo.preprocessing.collator import MMCollator
from olmo.preprocessing.data_formatter import DataFormatter
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.image_tokens import ImageTokenIds
from olmo.preprocessing.preprocessor import Preprocessor
from olmo.preprocessing.preprocessor_config import CropMode, MolmoPreprocessorConfig
from olmo.quantization.config import QuantizationConfig
from olmo.tokenizer import Tokenizer, build_tokenizer

_FILE_SUFFIXES = (".yaml", ".yml", ".json")


@dataclass(kw_only=True)
class MolmoConfig(BaseModelConfig):
    """Configuration of Molmo: language model, vision backbone, prompt format and picture preprocessing."""

    model_name = "molmo"

    llm: LlmConfig
    """Language model."""

    vision_backbone: MolmoVisionBackboneConfig | None = field(default_factory=MolmoVisionBackboneConfig)
    """Picture encoder and connector; None gives a plain language model."""

    data_formatter: DataFormatter = field(default_factory=DataFormatter)
    """How messages become text."""

    mm_preprocessor: MolmoPreprocessorConfig = field(default_factory=MolmoPreprocessorConfig)
    """How pictures become crops and tokens."""

    bi_directional_attn: BiDirectionalAttention | None = None
    """Which picture tokens may look ahead: None, `within_image`, `image_tokens` or `image_to_question`."""

    quantization: QuantizationConfig | None = None
    """Which matrices are kept in fewer bits, and how; None keeps all in full precision."""

    def __post_init__(self) -> None:
        super().__post_init__()
        spec = self.image_spec
        if spec is None:
            return
        wanted = self.image_token_ids.col + 1 - self.llm.resolved_embedding_size
        if wanted > self.llm.additional_vocab_size:
            raise OLMoConfigurationError(
                f"must be at least {wanted}, which picture tokens need behind the vocabulary, got "
                f"{self.llm.additional_vocab_size}",
                "llm.additional_vocab_size",
            )
        margins = self.mm_preprocessor.overlap_margins
        if sum(margins) >= spec.grid and self.mm_preprocessor.crop_mode is not CropMode.resize:
            raise OLMoConfigurationError(
                f"margins {margins} leave nothing of the {spec.grid} patches of a crop",
                "mm_preprocessor.overlap_margins",
            )

    @property
    def image_spec(self) -> ImageSpec | None:
        """Sizes and pixel statistics of one crop, for preprocessing; None without a vision backbone."""
        if self.vision_backbone is None:
            return None
        vit = self.vision_backbone.vit.spec
        return ImageSpec(
            image_size=vit.image_size,
            patch_size=vit.patch_size,
            pool_h=self.vision_backbone.image_pooling_h,
            pool_w=self.vision_backbone.image_pooling_w,
            resize=vit.resize,
            mean=vit.mean,
            std=vit.std,
        )

    @property
    def image_token_ids(self) -> ImageTokenIds:
        """Ids of the picture tokens: the four right after the base vocabulary."""
        first = self.llm.vocab_size
        return ImageTokenIds(start=first, end=first + 1, patch=first + 2, col=first + 3)

    def build_tokenizer(self) -> Tokenizer:
        """The tokenizer of this model.

        Raises:
            OLMoConfigurationError: its files are not here; the message says how to get them.
        """
        return build_tokenizer(self.llm.tokenizer, self.llm.vocab_size, self.source_dir)

    def build_preprocessor(
        self,
        for_inference: bool,
        is_training: bool = True,
        include_image: bool = False,
        max_seq_len: int | None = None,
    ) -> Preprocessor:
        """What turns one example into tensors.

        Args:
            for_inference: no answer, no randomness; wins over is_training.
            is_training: random prompts and length hints, as in training.
            include_image: keep the decoded picture in the metadata.
            max_seq_len: longest sequence in tokens, at least 1; None means the model's context.
        """
        return Preprocessor(**self.preprocessor_options(for_inference, is_training, include_image, max_seq_len))

    def preprocessor_options(
        self, for_inference: bool, is_training: bool, include_image: bool, max_seq_len: int | None
    ) -> dict[str, Any]:
        """Arguments of a `Preprocessor` for this model; those given are as for `build_preprocessor`."""
        if max_seq_len is not None and max_seq_len < 1:
            raise OLMoConfigurationError(f"must be at least 1 or None, got {max_seq_len}", "max_seq_len")
        return {
            "tokenizer": self.build_tokenizer(),
            "formatter": self.data_formatter,
            "config": self.mm_preprocessor,
            "image_spec": self.image_spec,
            "for_inference": for_inference,
            "is_training": is_training,
            "include_image": include_image,
            "max_seq_len": max_seq_len or self.llm.max_sequence_length,
        }

    def build_collator(
        self, sequence_length: int | None = None, pad_mode: str | None = None, include_metadata: bool = True
    ) -> MMCollator:
        """What turns a list of examples into a batch.

        Args:
            sequence_length: longest sequence; longer text is cut, picture tokens never.
            pad_mode: None pads to the longest example, `"to_max"` to sequence_length.
            include_metadata: pass fields that are not tensors through under `metadata`.
        """
        return MMCollator(sequence_length, pad_mode, include_metadata)

    def save(self, path: str | Path) -> None:
        """Write YAML with the tokenizer's files beside it; `load` of it gives an equal configuration.

        A tokenizer that was named by a path is named `tokenizer.json` in the file, so the folder can be moved.

        Args:
            path: a `.yaml` or `.json` file, or a folder that gets `config.yaml`.
        """
        target = Path(path)
        if target.suffix not in _FILE_SUFFIXES:
            target = target / "config.yaml"
        try:
            tokenizer = self.build_tokenizer()
        except OLMoConfigurationError:
            tokenizer = None  # a configuration without its tokenizer at hand is still a configuration
        config = self
        if tokenizer is not None:
            tokenizer.save(target.parent)
            named = self.llm.tokenizer.identifier
            if named is not None and ((self.source_dir or Path()) / named).exists():
                beside = self.llm.tokenizer.replace(identifier="tokenizer.json")
                config = self.replace(llm=self.llm.replace(tokenizer=beside))
        super(MolmoConfig, config).save(target)
