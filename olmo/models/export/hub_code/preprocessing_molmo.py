"""`MolmoProcessor`: a prompt and its pictures as the tensors of a Molmo.

Written by `molmo export`. It has the methods that `transformers` users and vLLM call on the released processor:
`process` and `get_tokens_input`. It stands alone: nothing of the package that wrote it has to be installed.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, ProcessorMixin

from .image_preprocessing_molmo import MolmoImageProcessor

PICTURE_TOKENS = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>")


class MolmoProcessor(ProcessorMixin):
    """Tokens and crops of one example, without a batch dimension.

    Args:
        image_processor: makes crops.
        tokenizer: makes ids of text.
    """

    image_processor: MolmoImageProcessor

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, **kwargs: Any) -> None:
        super().__init__(image_processor, tokenizer, **kwargs)

    def get_tokens_input(
        self, prompt: str, message_format: str = "role", always_start_with_space: bool = True
    ) -> list[int]:
        """Ids of a prompt.

        Args:
            prompt: text of the user, or all of the prompt with `message_format="none"`.
            message_format: `"role"` writes `User:` before it and `Assistant:` behind it; `"none"` takes it as it is.
            always_start_with_space: put a space before it.

        Raises:
            ValueError: another format.
        """
        if message_format not in ("role", "none"):
            raise ValueError(f"message_format {message_format!r} is not one of 'role', 'none'")
        text = f"User: {prompt} Assistant:" if message_format == "role" else prompt
        if always_start_with_space and not text.startswith(" "):
            text = f" {text}"
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def process(
        self, text: str | None = None, images: Any = None, *, tokens: list[int] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """One example.

        Args:
            text: what the user asks; not read where `tokens` are given.
            images: a picture, a list of them, or None.
            tokens: ids of the whole prompt, in place of `text`.
            **kwargs: `message_format` and `always_start_with_space`, as in `get_tokens_input`; others are passed over.

        Returns:
            `input_ids` int64 `[L]`: the first token, the pictures, the text; with pictures `images` `[N, P, pixels]`,
            `image_masks` `[N, P]` and `image_input_idx` `[N, tokens]`.
        """
        if tokens is None:
            named = {k: kwargs[k] for k in ("message_format", "always_start_with_space") if k in kwargs}
            tokens = [] if text is None else self.get_tokens_input(text, **named)
        first = self.tokenizer.bos_token_id
        first = self.tokenizer.eos_token_id if first is None else first
        if images is None or (isinstance(images, list | tuple) and not images):
            return BatchFeature({"input_ids": torch.tensor([first, *tokens], dtype=torch.long)})
        ids = [self.tokenizer.convert_tokens_to_ids(name) for name in PICTURE_TOKENS]
        seen = self.image_processor.preprocess(images, ids=ids)
        index = seen["image_input_idx"]
        input_ids = np.concatenate([[first], seen.pop("tokens"), np.asarray(tokens, dtype=np.int64)])
        seen["image_input_idx"] = np.where(index >= 0, index + 1, index)
        return BatchFeature(
            {"input_ids": torch.from_numpy(input_ids), **{k: torch.from_numpy(v) for k, v in seen.items()}}
        )

    def __call__(self, images: Any = None, text: str | None = None, **kwargs: Any) -> BatchFeature:
        """The same as `process`."""
        return self.process(text=text, images=images, **kwargs)
