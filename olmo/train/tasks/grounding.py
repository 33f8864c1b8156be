"""Grounded language training: besides answering, each picture token has to name what it shows.

The loss is taken where the language model reads pictures: the embedding of a picture token, straight from the
connector, goes through the model's own output head, and the right word is the name of the thing that covers the patch.
The plural stands on the patch that holds the thing's point, so things can be told apart and counted; on a sign it is
the word. It costs one small matrix product and puts the pictures' tokens where the words are, so that "find the tokens
that match this word" is there from the start. Only Scenes and moving scenes know what each patch shows;
examples of other sources beside them learn from their answers alone. Of moving scenes it is also known what becomes of
the things; that is asked further up, of picture tokens and of the words of questions, see `inside`.

Measured on molmo-nano: see docs/log.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from olmo.data.scenes.art import concepts
from olmo.data.scenes.moving.moving_scene import MovingScene
from olmo.data.scenes.patch_targets import patch_targets
from olmo.data.scenes.scene import Scene
from olmo.data.scenes.signs import WORDS
from olmo.data.source_config import SourceKind
from olmo.exceptions import OLMoConfigurationError
from olmo.models.base import ModelBase
from olmo.preprocessing.preprocessor import Preprocessor
from olmo.preprocessing.preprocessor_config import CropMode
from olmo.tokenizer import Tokenizer
from olmo.train.parallel.config import Strategy
from olmo.train.task import Batch, Tally
from olmo.train.tasks.inside.asked_model import (
    EVENT_TALLIES,
    MENTION_TALLIES,
    AskedModel,
    Encoded,
    asked_loss,
    asked_tally,
    encoded,
)
from olmo.train.tasks.inside.clip_events import event_targets, shown_things
from olmo.train.tasks.inside.clip_mentions import clip_mentions
from olmo.train.tasks.inside.facets import MENTIONED, SHOWN, UNKNOWN
from olmo.train.tasks.inside.mentions import MentionFinder
from olmo.train.tasks.inside.scene_mentions import scene_mentions
from olmo.train.tasks.language import CollateRows, LanguageTask, PrepareExample
from olmo.train.train_config import TrainConfig

IGNORE = -100
PICTURE_WORDS = "picture_words"
"""Key of an example: the token that names what each picture token shows, int64 `[N, tokens]`, -100 for none."""
MENTIONS = "mentions"
"""Key of an example: what is known of what each token names, int64 `[L, facets]`."""
EVENTS = "events"
"""Key of an example: what becomes of the thing that each picture token shows, int64 `[N, tokens, facets]`."""
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

    def of_frame(self, scene: MovingScene, owner: np.ndarray, is_middle: np.ndarray) -> np.ndarray:
        """The same for the tokens of a frame, int64 `[tokens]`, from what `frame_targets` says of them."""
        # The last is for tokens that show nothing, number -1.
        kinds = np.array([*(thing.concept.index + 1 for thing in scene.things), 0])
        return np.where(is_middle, self.plural[kinds[owner]], self.singular[kinds[owner]])


def _first_tokens(tokenizer: Tokenizer, words: Sequence[str]) -> np.ndarray:
    return np.array([IGNORE, *(tokenizer.encode(f" {word}")[0] for word in words)], dtype=np.int64)


class PrepareGrounded(PrepareExample):
    """As for the language task, with the words for picture tokens, and with what becomes of things where that is asked.

    Where it is asked of questions too, so is what their words name. Pictures of other sources have none of it.
    """

    def __init__(
        self,
        preprocessor: Preprocessor,
        source_names: Sequence[str],
        words: PatchWords,
        has_events: bool = False,
        mentions: MentionFinder | None = None,
    ) -> None:
        super().__init__(preprocessor, source_names)
        self.words, self.has_events, self.mentions = words, has_events, mentions

    def __call__(self, example: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """Tensors of one example."""
        tensors = super().__call__(example, rng)
        metadata = example.get("metadata") or {}
        scene, moving = metadata.get("scene"), metadata.get("moving_scene")
        n_crops = len(tensors["images"]) if "images" in tensors else 0
        words = torch.full((n_crops, self.words.grid**2), IGNORE)
        events = torch.full((*words.shape, len(SHOWN)), UNKNOWN)
        if isinstance(scene, Scene):
            words[0] = torch.from_numpy(self.words(scene))
        if isinstance(moving, MovingScene) and "frame_facts" in tensors:
            known = event_targets(moving)
            for frame, (owner, is_middle) in enumerate(shown_things(moving, tensors["frame_facts"])):
                words[frame, : len(owner)] = torch.from_numpy(self.words.of_frame(moving, owner, is_middle))
                events[frame, : len(owner)] = torch.from_numpy(known[owner])
        targets = {PICTURE_WORDS: words, **({EVENTS: events} if self.has_events else {})}
        if self.mentions is not None:
            ids, is_answer = tensors["input_ids"].tolist(), (tensors["labels"] != IGNORE).tolist()
            if isinstance(moving, MovingScene):
                targets[MENTIONS] = clip_mentions(self.mentions, moving, ids, is_answer)
            elif isinstance(scene, Scene):
                targets[MENTIONS] = scene_mentions(self.mentions, scene, ids, is_answer)
            else:
                targets[MENTIONS] = torch.full((len(ids), len(MENTIONED)), UNKNOWN)
        return {**tensors, **targets}


class CollateGrounded(CollateRows):
    """As for the language task; the words of all crops follow one another as the crops do."""

    def __call__(self, rows: Sequence[Any]) -> Batch:
        """A padded batch of rows; a row is an example or a list of them."""
        examples = [example for row in rows for example in (row if isinstance(row, list) else [row])]
        names = [name for name in (PICTURE_WORDS, EVENTS) if name in examples[0]]
        targets = {name: torch.cat([e[name] for e in examples]) for name in names}
        batch = super().__call__(rows)
        if MENTIONS in examples[0]:
            found = torch.full((*batch["input_ids"].shape, len(MENTIONED)), UNKNOWN)
            for i, row in enumerate(rows):
                of_row = torch.cat([example[MENTIONS] for example in (row if isinstance(row, list) else [row])])
                found[i, : len(of_row)] = of_row
            targets[MENTIONS] = found
        return {**batch, **targets}


def _check_layers(config: TrainConfig, n_blocks: int, kinds: set[SourceKind]) -> None:
    """Refuse questions inside that the data or the depth of the model has no room for."""
    if config.event_weight and (SourceKind.moving_scenes not in kinds or config.event_layer >= n_blocks):
        raise OLMoConfigurationError(
            f"needs a source of kind moving_scenes, and event_layer below {n_blocks}, the blocks of this model's llm",
            "event_weight",
        )
    if config.mention_weight and config.event_layer + 1 >= n_blocks:
        raise OLMoConfigurationError(
            f"needs an event_layer below {n_blocks - 1}, all but one of the blocks of this model's llm",
            "mention_weight",
        )


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
        kinds = {source.kind for group in config.data.resolved_groups() for source in group.sources}
        if kinds.isdisjoint((SourceKind.scenes, SourceKind.moving_scenes)):
            raise OLMoConfigurationError(
                "grounded_language needs to know what each patch shows, as Scenes alone does; add a source of kind "
                "scenes or moving_scenes, or take task: language",
                "data",
            )
        _check_layers(config, len(model.llm.blocks), kinds)
        spec = model.config.image_spec
        if spec is None or model.config.mm_preprocessor.crop_mode is not CropMode.resize:
            raise OLMoConfigurationError(
                "grounded_language takes a model that sees a picture as one crop (mm_preprocessor.crop_mode=resize)",
                "model",
            )
        words = PatchWords(model.tokenizer, spec.grid // spec.pool_h)
        build = model.config.build_preprocessor
        preprocessor = build(False, True, max_seq_len=self.sequence_length)
        shows, names = config.event_weight > 0, config.mention_weight > 0
        finder = MentionFinder(model.tokenizer) if names else None
        self.prepare = PrepareGrounded(preprocessor, self.source_names, words, shows, finder)
        self.collate = CollateGrounded(model.config.build_collator(self.sequence_length, None, include_metadata=False))
        self.asked = AskedModel(model, config.event_layer, shows=shows, names=names) if shows or names else None
        if self.asked is not None:
            self.module = self.asked
        of_events, of_mentions = EVENT_TALLIES if shows else (), MENTION_TALLIES if names else ()
        self.tally_names = (*self.tally_names, *TALLIES, *of_events, *of_mentions)

    def components(self) -> Mapping[str, Mapping[str, nn.Parameter]]:
        """Those of the model; heads learn at the connector's rate."""
        parts = dict(super().components())
        if self.asked is not None:
            heads = {name: p for name, p in self.asked.named_parameters() if not name.startswith("model.")}
            parts["connector"] = {**parts["connector"], **heads}
        return parts

    def loss(self, batch: Batch) -> tuple[torch.Tensor, Tally]:
        """Mean loss of the answers plus the weighted mean losses of picture tokens and of the words of questions."""
        answered = {name: value for name, value in batch.items() if name not in (PICTURE_WORDS, EVENTS, MENTIONS)}
        if not self.module.training:
            return super().loss(answered)
        asked = {name: batch[name] for name in (EVENTS, MENTIONS) if name in batch}
        with encoded(self.model) as seen:
            out = self.run({**answered, **asked}, z_loss=self.config.z_loss)
        answers, tally = self.of_answers(out, answered)
        grounding, of_words = self._grounding(seen, batch[PICTURE_WORDS])
        loss = answers + self.config.grounding_weight * grounding
        tally = {**tally, "loss_answers": (answers.detach(), 1.0), **of_words}
        if not asked:
            return loss, tally
        assert out.aux is not None, "the heads were asked"
        inside = asked_loss(out.aux, self.config.event_weight, self.config.mention_weight)
        return loss + inside, {**tally, **asked_tally(out.aux)}

    def _grounding(self, seen: Sequence[Encoded], words: torch.Tensor) -> tuple[torch.Tensor, Tally]:
        """Loss of picture tokens that have words `[M, tokens]`, and what to log."""
        llm, is_named = self.model.llm, words != IGNORE
        wanted, n = words[is_named], float(is_named.sum())
        if not n:
            nothing = torch.zeros((), device=words.device)
            return nothing, {"loss_grounding": (nothing, 0.0), "share_grounded": (nothing, 0.0)}
        tokens = seen[0][1][:, : words.shape[1]]
        logits = llm.logits(llm.ln_f(tokens[is_named])).float()  # [n, V]
        loss, n_right = F.cross_entropy(logits, wanted), (logits.argmax(dim=-1) == wanted).float().sum()
        return loss, {"loss_grounding": (loss.detach() * n, n), "share_grounded": (n_right, n)}
