"""Grounded language training: besides answering, each picture token has to name what it shows.

The loss is taken where the language model reads pictures: the embedding of a picture token, straight from the
connector, goes through the model's own output head, and the right word is the name of the thing that covers the patch.
The plural stands on the patch that holds the thing's point, so things can be told apart and counted; on a sign it is
the word. It costs one small matrix product and puts the pictures' tokens where the words are, so that "find the tokens
that match this word" is there from the start. Only Scenes and moving scenes know what each patch shows;
examples of other sources beside them learn from their answers alone.

Measured on molmo-nano: see docs/log.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from olmo.data.scenes.art import concepts
from olmo.data.scenes.moving.frame_targets import frame_targets
from olmo.data.scenes.moving.moving_scene import MovingScene
from olmo.data.scenes.patch_targets import patch_targets
from olmo.data.scenes.scene import Scene
from olmo.data.scenes.signs import WORDS
from olmo.data.source_config import SourceKind
from olmo.exceptions import OLMoConfigurationError
from olmo.models.base import ModelBase
from olmo.models.picture_inputs import PictureInputs
from olmo.preprocessing.preprocessor import Preprocessor
from olmo.preprocessing.preprocessor_config import CropMode
from olmo.preprocessing.video.video_spec import pooled_side
from olmo.tokenizer import Tokenizer
from olmo.train.parallel.config import Strategy
from olmo.train.task import Batch, Tally
from olmo.train.tasks.language import CollateRows, LanguageTask, PrepareExample
from olmo.train.train_config import TrainConfig

IGNORE = -100
PICTURE_WORDS = "picture_words"
"""Key of an example: the token that names what each picture token shows, int64 `[N, tokens]`, -100 for none."""
TALLIES = ("loss_answers", "loss_grounding", "share_grounded")


class PatchWords:
    """From a scene to the word for each of its patches.

    Args:
        tokenizer: the first token of each name stands for the name.
        grid: picture tokens a side.
    """

    def __init__(self, tokenizer: Tokenizer, grid: int) -> None:
        self.grid = grid
        # Row 0 is for patches that show nothing of the kind.
        self.singular = _first_tokens(tokenizer, [c.name for c in concepts()])
        self.plural = _first_tokens(tokenizer, [c.plural for c in concepts()])
        self.sign = _first_tokens(tokenizer, WORDS)

    def __call__(self, scene: Scene) -> np.ndarray:
        """Token ids, int64 `[grid * grid]`, -100 where a patch shows no thing, or one cannot tell."""
        shown = patch_targets(scene, self.grid, round(100 / scene.point_step_percent))
        kind = shown.kind.clip(min=0)
        names = np.where(shown.is_centre > 0, self.plural[kind], self.singular[kind])
        return np.where(shown.word > 0, self.sign[shown.word.clip(min=0)], names)

    def of_frames(self, scene: MovingScene, facts: torch.Tensor) -> list[np.ndarray]:
        """The same for each frame of `facts` `[T, 4]`, int64 `[tokens]`: the thing that covers most of a token."""
        words = []
        for seconds, grid, height, width in facts.tolist():
            frame = int(np.abs(scene.seconds - seconds).argmin())
            side = pooled_side(int(grid), int(height))
            assert height == width, "frames of molmo-nano are pooled in squares"
            kind, is_middle = frame_targets(scene, frame, side)
            words.append(np.where(is_middle, self.plural[kind], self.singular[kind]))
        return words


def _first_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> np.ndarray:
    return np.array([IGNORE, *(tokenizer.encode(f" {word}")[0] for word in words)], dtype=np.int64)


class PrepareGrounded(PrepareExample):
    """As for the language task, with the words for picture tokens; pictures of other sources have none."""

    def __init__(self, preprocessor: Preprocessor, source_names: Sequence[str], words: PatchWords) -> None:
        super().__init__(preprocessor, source_names)
        self.words = words

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Tensors of one example."""
        tensors = super().__call__(example, rng)
        metadata = example.get("metadata") or {}
        scene, moving = metadata.get("scene"), metadata.get("moving_scene")
        n_crops = len(tensors["images"]) if "images" in tensors else 0
        words = torch.full((n_crops, self.words.grid**2), IGNORE)
        if isinstance(scene, Scene):
            words[0] = torch.from_numpy(self.words(scene))
        if isinstance(moving, MovingScene) and "frame_facts" in tensors:
            for frame, of_frame in enumerate(self.words.of_frames(moving, tensors["frame_facts"])):
                words[frame, : len(of_frame)] = torch.from_numpy(of_frame)
        return {**tensors, PICTURE_WORDS: words}


class CollateGrounded(CollateRows):
    """As for the language task; the words of all crops follow one another as the crops do."""

    def __call__(self, rows: Sequence[Any]) -> Batch:
        """A padded batch of rows; a row is an example or a list of them."""
        examples = [example for row in rows for example in (row if isinstance(row, list) else [row])]
        return {**super().__call__(rows), PICTURE_WORDS: torch.cat([e[PICTURE_WORDS] for e in examples])}


class GroundedLanguageTask(LanguageTask):
    """The language task with the second loss, for Scenes and what is mixed with it.

    Args:
        config: the recipe; `grounding_weight` weighs the second loss.
        model: the model; one token a patch or pooled window, and one crop a picture.
        base_dir: folder that relative paths of the data start from.
    """

    def __init__(self, config: TrainConfig, model: ModelBase, base_dir: str | Path | None = None) -> None:
        super().__init__(config, model, base_dir)
        strategy = config.parallel.strategy
        if strategy.shards or (strategy is Strategy.auto and torch.distributed.is_initialized()):
            raise OLMoConfigurationError(
                "grounded_language reads the output head apart from the model's forward, where it is not sharded; use "
                "ddp or one process",
                "parallel.strategy",
            )
        groups = config.data.resolved_groups()
        if all(source.kind is not SourceKind.scenes for group in groups for source in group.sources):
            raise OLMoConfigurationError(
                "grounded_language needs to know what each patch shows, as Scenes alone does; add a source of kind "
                "scenes, or take task: language",
                "data",
            )
        spec = model.config.image_spec
        if spec is None or model.config.mm_preprocessor.crop_mode is not CropMode.resize:
            raise OLMoConfigurationError(
                "grounded_language takes a model that sees a picture as one crop (mm_preprocessor.crop_mode=resize)",
                "model",
            )
        words = PatchWords(model.tokenizer, spec.grid // spec.pool_h)
        build = model.config.build_preprocessor
        preprocessor = build(False, True, max_seq_len=self.sequence_length)
        self.prepare = PrepareGrounded(preprocessor, self.source_names, words)
        self.collate = CollateGrounded(model.config.build_collator(self.sequence_length, None, include_metadata=False))
        self.tally_names = (*self.tally_names, *TALLIES)

    def loss(self, batch: Batch) -> tuple[torch.Tensor, Tally]:
        """Mean loss of the answers plus the weighted mean loss of the picture tokens."""
        if not self.module.training:
            return super().loss(_without_words(batch))
        with _encoded(self.model) as features:
            answers, tally = super().loss(_without_words(batch))
        grounding, share, n = self._grounding(features, batch[PICTURE_WORDS])
        seen = {"loss_answers": (answers.detach(), 1.0), "loss_grounding": (grounding.detach() * n, n)}
        return answers + self.config.grounding_weight * grounding, {**tally, **seen, "share_grounded": (share * n, n)}

    def _grounding(
        self, features: Sequence[torch.Tensor], words: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Loss, share of right words and their number, of picture tokens `[M, tokens, D]` and words `[M, tokens]`."""
        llm, is_named = self.model.llm, words != IGNORE
        if not bool(is_named.any()):
            return words.new_zeros((), dtype=torch.float32), words.new_zeros((), dtype=torch.float32), 0.0
        tokens = features[0][:, : words.shape[1]]
        logits = llm.logits(llm.ln_f(tokens[is_named])).float()  # [n, V]
        wanted = words[is_named]
        share = (logits.argmax(dim=-1) == wanted).float().mean()
        return F.cross_entropy(logits, wanted), share, float(len(wanted))


@contextmanager
def _encoded(model: ModelBase) -> Iterator[list[torch.Tensor]]:
    """Collects what `model.encode_images` returns while the context is open."""
    features: list[torch.Tensor] = []
    encode = model.encode_images

    def recording(pictures: PictureInputs) -> torch.Tensor:
        features.append(encode(pictures))
        return features[-1]

    model.encode_images = recording  # type: ignore[method-assign]
    try:
        yield features
    finally:
        del model.encode_images


def _without_words(batch: Batch) -> Batch:
    return {name: value for name, value in batch.items() if name != PICTURE_WORDS}
