"""`Preprocessor`: one example in, the tensors of one (unbatched) example out.

Order of the sequence: first token, the tokens of all pictures, then the text. It joins the formatter, the tokenizer and
the picture modules, and it alone knows about labels and conversations that share their pictures. Source: Molmo v1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.data_formatter import DataFormatter, Piece
from olmo.preprocessing.image import ImageSpec, load_image
from olmo.preprocessing.image_tokens import ImageTokenIds, image_token_layout
from olmo.preprocessing.messages import Example, parse_example
from olmo.preprocessing.multicrop import make_crops
from olmo.preprocessing.packed import SHARED_SEGMENT
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig
from olmo.tokenizer import Tokenizer

IGNORE_LABEL = -100


class PictureBlock(NamedTuple):
    """All pictures of an example: token ids `[T]`, crops `[N, 3, H, W]`, masks `[N, P]`, indices `[N, tokens]`.

    Where crops may be frames of a video there are `facts` `[N, 4]` of each; see `FrameLayout`.
    """

    token_ids: np.ndarray
    images: np.ndarray
    masks: np.ndarray
    input_idx: np.ndarray
    facts: np.ndarray | None = None
    n_dropped: int = 0
    """Tokens that the model itself leaves out, at least."""


class Visuals(NamedTuple):
    """What an example shows: decoded pictures (or clips of a video), and width and height of each in pixels."""

    items: list[Any]
    sizes: list[tuple[int, int]]


class _Text(NamedTuple):
    """All text of an example: ids, whether each is to be learned, and its conversation (from 1), each `[T]`."""

    ids: np.ndarray
    is_target: np.ndarray
    conversation: np.ndarray


class Preprocessor:
    """Turns an example into the tensors a model takes; see `parse_example` for what an example may be."""

    takes_video: ClassVar[bool] = False
    """Whether examples may hold videos."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        formatter: DataFormatter,
        config: MolmoPreprocessorConfig,
        image_spec: ImageSpec | None,
        for_inference: bool,
        is_training: bool = True,
        include_image: bool = False,
        max_seq_len: int | None = None,
    ) -> None:
        """Set up for one model and one purpose.

        Args:
            tokenizer: tokenizer of the model.
            formatter: how examples become text.
            config: how pictures become crops.
            image_spec: sizes and statistics the vision encoder expects; None for a text-only model.
            for_inference: leave out the answer and draw nothing; wins over `is_training`.
            is_training: draw wordings and prefixes; False gives labels without randomness, for an evaluation loss.
            include_image: keep the decoded pictures under `metadata["images"]`.
            max_seq_len: longest sequence in tokens. Training text past it is cut, a prompt past it is an error,
                pictures are never cut. None: no limit.
        """
        self.tokenizer = tokenizer
        self.formatter = formatter
        self.config = config
        self.image_spec = image_spec
        self.for_inference = for_inference
        self.is_training = is_training and not for_inference
        self.include_image = include_image
        self.max_seq_len = max_seq_len

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator | None = None) -> dict[str, Any]:
        """Preprocess one example.

        Args:
            example: pictures and messages.
            rng: draws wordings, prefixes and the order of conversations in training. None draws nothing.

        Returns:
            `input_ids` int64 `[L]`; with pictures `images` float32 `[N, 3, H, W]`, `image_masks` float32 `[N, P]` and
            `image_input_idx` int64 `[N, tokens]` (position of each pooled feature, negative = unused); with labels
            `labels` int64 `[L]` (-100 = ignored, same positions as `input_ids`) and `loss_masks` float32 `[L]`; where
            several conversations share the pictures `position_ids` and `subsegment_ids` int64 `[L]`; and `metadata`, a
            dict with `style`, `image_sizes` (width, height) and what the example's own `metadata` holds.

        Raises:
            OLMoInputError: the example cannot be used, or does not fit `max_seq_len`.
        """
        if rng is not None and not isinstance(rng, np.random.Generator):
            raise OLMoInputError(f"rng is a numpy Generator (numpy.random.default_rng(seed)), got {type(rng).__name__}")
        parsed = parse_example(example, self.takes_video)
        if parsed.images and self.image_spec is None:
            raise OLMoInputError(
                "this model is text-only (vision_backbone=None) and the example has a picture; leave it out"
            )
        shown = self.load(parsed, rng if self.is_training else None)
        conversations = self.formatter.format_conversations(
            parsed.conversations,
            shown.sizes[0] if shown.sizes else None,
            rng if self.is_training else None,
            self.for_inference,
        )
        text = self._encode(conversations)
        block = self.picture_block(shown.items, len(text.ids)) if shown.items else None
        prefix = np.array([self.tokenizer.bos_token_id], dtype=np.int64)
        if block is not None:
            prefix = np.concatenate([prefix, block.token_ids])
        text = self._fit(text, len(prefix) - (block.n_dropped if block is not None else 0), len(shown.items))
        inputs: dict[str, Any] = {"input_ids": torch.from_numpy(np.concatenate([prefix, text.ids]))}
        if block is not None:
            inputs["images"] = torch.from_numpy(block.images)
            inputs["image_masks"] = torch.from_numpy(block.masks)
            inputs["image_input_idx"] = torch.from_numpy(block.input_idx)
            if block.facts is not None:
                inputs["frame_facts"] = torch.from_numpy(block.facts)
        if not self.for_inference:
            inputs.update(self._targets(text, len(prefix), len(conversations), parsed.weight))
        inputs["metadata"] = self.metadata(parsed, shown)
        return inputs

    def load(self, parsed: Example, rng: np.random.Generator | None) -> Visuals:
        """Decode what the example shows; `rng` draws what is to be drawn in training."""
        del rng
        pictures = [load_image(image, self.config.max_pixels) for image in parsed.images]
        return Visuals(pictures, [(int(p.shape[1]), int(p.shape[0])) for p in pictures])

    def _encode(self, conversations: list[list[Piece]]) -> _Text:
        ids: list[int] = []
        is_target: list[bool] = []
        conversation: list[int] = []
        for number, pieces in enumerate(conversations, start=1):
            for piece in pieces:
                tokens = self.tokenizer.encode(piece.text)
                if piece.is_answer:
                    tokens.append(self.tokenizer.eos_token_id)
                ids += tokens
                is_target += [piece.is_answer] * len(tokens)
                conversation += [number] * len(tokens)
        return _Text(
            np.array(ids, dtype=np.int64), np.array(is_target, dtype=bool), np.array(conversation, dtype=np.int64)
        )

    @property
    def image_token_ids(self) -> ImageTokenIds:
        """Ids of the tokens that make up a picture."""
        return ImageTokenIds(
            self.tokenizer.im_start_id, self.tokenizer.im_end_id, self.tokenizer.im_patch_id, self.tokenizer.im_col_id
        )

    def picture_block(self, pictures: list[Any], n_text_tokens: int) -> PictureBlock:
        """Crops and tokens of the pictures, at least one, as they stand behind the first token of the sequence.

        Args:
            pictures: what `load` returned.
            n_text_tokens: tokens of the text that follows.
        """
        del n_text_tokens  # pictures take what they take; the text is cut or refused after
        assert self.image_spec is not None, "checked at the door"
        ids = self.image_token_ids
        token_ids_of, images, masks, indices = [], [], [], []
        start = 1  # after the first token
        for picture in pictures:
            crops = make_crops(picture, self.image_spec, self.config)
            token_ids, input_idx = image_token_layout(crops.tiling, self.image_spec, self.config, ids)
            indices.append(np.where(input_idx >= 0, input_idx + start, input_idx).astype(np.int64))
            token_ids_of.append(token_ids.astype(np.int64))
            images.append(crops.images)
            masks.append(crops.masks)
            start += len(token_ids)
        return PictureBlock(
            np.concatenate(token_ids_of), np.concatenate(images), np.concatenate(masks), np.concatenate(indices)
        )

    def _fit(self, text: _Text, prefix_length: int, n_pictures: int) -> _Text:
        """The text that fits behind the pictures."""
        limit, length = self.max_seq_len, prefix_length + len(text.ids)
        if limit is None or length <= limit:
            return text
        if prefix_length >= limit:
            raise OLMoInputError(
                f"{n_pictures} picture(s) take {prefix_length - 1} tokens, which with the first token leaves no room "
                f"for text in max_seq_len={limit}; lower mm_preprocessor.max_crops, give fewer pictures or raise "
                "max_seq_len"
            )
        if self.for_inference:
            raise OLMoInputError(
                f"the prompt needs {length} tokens ({prefix_length} for the first token and {n_pictures} picture(s), "
                f"{len(text.ids)} for text), but max_seq_len={limit}; shorten the text, lower "
                "mm_preprocessor.max_crops or give fewer pictures"
            )
        return _Text(*(part[: limit - prefix_length] for part in text))

    def _targets(self, text: _Text, prefix_length: int, n_conversations: int, weight: float) -> dict[str, torch.Tensor]:
        labels = np.full(prefix_length + len(text.ids), IGNORE_LABEL, dtype=np.int64)
        labels[prefix_length:] = np.where(text.is_target, text.ids, IGNORE_LABEL)
        targets: dict[str, np.ndarray] = {}
        if n_conversations > 1:
            begins = np.diff(text.conversation, prepend=0) != 0
            # The token before belongs to another conversation or to what all share; it must not learn to predict this.
            labels[prefix_length:][begins] = IGNORE_LABEL
            shared = np.full(prefix_length, SHARED_SEGMENT, dtype=np.int64)
            targets["subsegment_ids"] = np.concatenate([shared, text.conversation])
            starts = np.flatnonzero(begins)
            offsets = np.arange(len(text.ids)) - starts[np.cumsum(begins) - 1]
            targets["position_ids"] = np.concatenate([np.arange(prefix_length), prefix_length + offsets])
        token_weight = weight * self.formatter.loss_weight(n_conversations)
        targets["labels"] = labels
        targets["loss_masks"] = (labels != IGNORE_LABEL).astype(np.float32) * np.float32(token_weight)
        return {name: torch.from_numpy(values) for name, values in targets.items()}

    def metadata(self, parsed: Example, shown: Visuals) -> dict[str, Any]:
        """What travels beside the tensors."""
        styles = [c.style for c in parsed.conversations]
        metadata = {**parsed.metadata, "style": styles[0] if len(styles) == 1 else styles, "image_sizes": shown.sizes}
        if self.include_image:
            metadata["images"] = shown.items
        return metadata
