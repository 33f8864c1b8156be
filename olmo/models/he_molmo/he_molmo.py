"""`HeMolmo`: a VideoOlmo whose language model reads only the picture tokens that matter.

Selection happens once, between encoding and the language model. The sequence gets shorter, what is left keeps its
order and its positions, and the cache and the logits shrink with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from olmo.models.he_molmo.crop_choice import crops_to_encode, high_res_crops
from olmo.models.he_molmo.he_molmo_config import Encode, HeMolmoConfig, ScorerType, TokenScorerConfig
from olmo.models.he_molmo.low_res import read_question
from olmo.models.he_molmo.picture_tokens import PictureTokens, picture_tokens, shortened
from olmo.models.he_molmo.selection_losses import selection_losses
from olmo.models.he_molmo.token_selector import SelectionOutput, TokenSelector
from olmo.models.he_molmo.vit_attention import attention_received
from olmo.models.picture_inputs import PictureInputs, Seen
from olmo.models.text_inputs import TextInputs
from olmo.models.video_olmo.frame_choice import is_question
from olmo.models.video_olmo.frame_rows import refuse_packed
from olmo.models.video_olmo.frame_scorer import question_means
from olmo.models.video_olmo.video_olmo import VideoOlmo

__all__ = ["HeMolmo", "HeMolmoConfig", "SelectionOutput", "TokenScorerConfig", "TokenSelector"]


class HeMolmo(VideoOlmo):
    """HeMolmo with hierarchical token selection. See `ModelBase` for `forward`, `generate` and checkpoints.

    The weights of any Molmo or VideoOlmo load into it. `forward` and `generate` also take `selection_ratio`, which
    overrides the configured one for the call. `aux` of their outputs holds `selection_mask` `[B, N]` (which of a row's
    picture tokens are kept), `selection_indices` `[B, K]`, `selection_scores`, `selection_crops` and
    `selection_places` (where each lies); see `PictureTokens`.
    """

    config_class = HeMolmoConfig
    choice_arguments = ("selection_ratio", "exploration")
    config: HeMolmoConfig

    def build_further_parts(self) -> None:
        """The token selector, besides what a VideoOlmo has."""
        super().build_further_parts()
        config = self.config
        self.token_selector = TokenSelector(config.token_scorer, config.llm.d_model, config.selection_ratio)

    def unread_weights(self) -> Sequence[str]:
        """Those of a scorer that learned, where another one was asked for that does not."""
        learns = self.config.token_scorer.scorer in (ScorerType.cross, ScorerType.lowres_llm)
        return () if learns else ("token_selector.",)

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Random initialisation; parts that a VideoOlmo has too are drawn first, as there."""
        super().reset_parameters(generator)
        self.token_selector.reset_parameters(generator)

    def reuses_prefixes(self) -> bool:
        """Never: which picture tokens stay depends on the question behind them."""
        return False

    def see(self, text: TextInputs, pictures: PictureInputs, **settings: Any) -> Seen:
        """Encode pictures, or first their global crops and then those high-resolution crops that are asked for."""
        is_high = high_res_crops(text, pictures, self.config)
        if self.config.encode is Encode.all_crops or not bool(is_high.any()):
            return super().see(text, pictures, **settings)
        ratio = settings.get("selection_ratio") or self.config.selection_ratio
        first = pictures.some(~is_high)
        overview = self.features_of(first)
        scores = overview.new_zeros(pictures.token_index.shape, dtype=torch.float32)
        scores[~is_high] = self._entry_scores(text, first, overview)
        share, ids = self.config.crop_ratio or ratio, self.config.image_token_ids
        is_encoded = crops_to_encode(text, pictures, is_high, scores, share, ids)
        closer = self.features_of(pictures.some(is_encoded & is_high))
        features = overview.new_zeros(len(is_high), *overview.shape[1:])
        features = features.index_put((~is_high,), overview).index_put((is_encoded & is_high,), closer)
        encoded = pictures.some(is_encoded)
        return self.choose_pictures(text, encoded, features[is_encoded], everything=pictures, **settings)

    def choose_pictures(
        self,
        text: TextInputs,
        pictures: PictureInputs,
        features: torch.Tensor,
        *,
        selection_ratio: float | None = None,
        exploration: float = 0.0,
        everything: PictureInputs | None = None,
        **settings: Any,
    ) -> Seen:
        """Keep the picture tokens that matter for the question of each row.

        Args:
            text: the batch.
            pictures: its encoded crops.
            features: `[M, entries, D]` of them.
            selection_ratio: share of a row's picture tokens to keep; None: the configured one.
            exploration: scale of the noise that is added to scores in training.
            everything: all crops, where not all were encoded; None: these.
            **settings: for the choice of frames.
        """
        seen = super().choose_pictures(text, pictures, features, **settings)
        text, pictures, features = seen.text, seen.pictures, seen.features  # type: ignore[assignment]
        if not len(features):
            return seen
        tokens = picture_tokens(pictures, features, len(text.input_ids))
        if everything is None:
            everything = pictures
        scores = None
        if self.config.token_scorer.scorer is ScorerType.vit_attention:
            assert self.vision_backbone is not None, "there are pictures"
            received = attention_received(self.vision_backbone, pictures)  # [M, entries]
            scores = picture_tokens(pictures, received[..., None], len(text.input_ids)).features[..., 0]
        selection = self.token_selector(
            tokens.features,
            self.question_query(text, pictures, features),
            is_valid=tokens.is_valid,
            places=tokens.places,
            crops=tokens.crops,
            scores=scores,
            ratio=selection_ratio,
            n_tokens=_tokens_of_rows(everything, len(text.input_ids)),
            exploration=exploration if self.training else 0.0,
        )
        aux = {**seen.aux, **_told(selection, tokens)}
        if self.training and text.labels is not None:
            ratio = self.config.selection_ratio if selection_ratio is None else selection_ratio
            whole = Seen(text, pictures, features)
            aux |= selection_losses(self, whole, tokens, selection, ratio, self.config.token_scorer)
        is_dropped = _at_their_places(text, everything, tokens, selection)
        shorter, left = shortened(text, pictures, is_dropped, self.config.image_token_ids)
        if torch.is_grad_enabled() and selection.gates.requires_grad:
            features = _gated(features, pictures, tokens, selection)
        return Seen(shorter, left, features, aux)

    def _entry_scores(self, text: TextInputs, pictures: PictureInputs, features: torch.Tensor) -> torch.Tensor:
        """`[M, entries]` scores of the tokens of some crops, without gradient."""
        assert self.vision_backbone is not None, "there are pictures"
        if self.config.token_scorer.scorer is ScorerType.vit_attention:
            return attention_received(self.vision_backbone, pictures)
        tokens = picture_tokens(pictures, features, len(text.input_ids))
        with torch.no_grad():
            query = self.question_query(text, pictures, features)
            scores = self.token_selector.score(tokens.features, query, tokens.places, tokens.crops)  # [B, N]
        by_place = scores.new_zeros(text.input_ids.shape)
        row, slot = tokens.is_valid.nonzero(as_tuple=True)
        by_place[row, tokens.positions[row, slot]] = scores[row, slot]
        return by_place[pictures.rows[:, None], pictures.token_index.clamp(min=0)]

    def question_query(self, text: TextInputs, pictures: PictureInputs, features: torch.Tensor) -> torch.Tensor | None:
        """`[B, D]`: what each row asks, for the scorer; a row without a question has zeros. None: nothing reads it."""
        if self.token_selector.scorer is None:
            return None
        refuse_packed(text)
        asks = is_question(text, self.config.image_token_ids)
        with torch.no_grad():
            embeds = self.llm.embed(text.input_ids)
            if self.config.token_scorer.scorer is ScorerType.lowres_llm:
                return read_question(self.llm, text, embeds, asks, pictures, features, self.config)
            means, is_asked = question_means(embeds, asks)
            return means * is_asked[:, None].to(means.dtype)


def _tokens_of_rows(pictures: PictureInputs, n_rows: int) -> torch.Tensor:
    """`[B]`: picture tokens of each row."""
    crop, entry = (pictures.token_index >= 0).nonzero(as_tuple=True)
    places = torch.stack([pictures.rows[crop], pictures.token_index[crop, entry]], dim=1)
    return torch.bincount(places.unique(dim=0)[:, 0], minlength=n_rows)  # joined frames share their tokens


def _at_their_places(
    text: TextInputs, everything: PictureInputs, tokens: PictureTokens, selection: SelectionOutput
) -> torch.Tensor:
    """`[B, L]` bool: picture tokens that are not kept."""
    is_dropped = torch.zeros_like(text.input_ids, dtype=torch.bool)
    crop, entry = (everything.token_index >= 0).nonzero(as_tuple=True)
    is_dropped[everything.rows[crop], everything.token_index[crop, entry]] = True
    row, slot = selection.selection_mask.nonzero(as_tuple=True)
    is_dropped[row, tokens.positions[row, slot]] = False
    return is_dropped


def _gated(
    features: torch.Tensor, pictures: PictureInputs, tokens: PictureTokens, selection: SelectionOutput
) -> torch.Tensor:
    """The features of all crops, those of kept tokens with the gradient of their scores; no value changes."""
    factor = 1 + (selection.gates - selection.gates.detach())  # [B, N]
    length = int(tokens.positions.max()) + 1
    by_place = factor.new_ones(len(factor), length)
    row, slot = selection.selection_mask.nonzero(as_tuple=True)
    by_place = by_place.index_put((row, tokens.positions[row, slot]), factor[row, slot])
    index = pictures.token_index
    return features * by_place[pictures.rows[:, None], index.clamp(min=0)][..., None].to(features.dtype)


def _told(selection: SelectionOutput, tokens: PictureTokens) -> dict[str, torch.Tensor]:
    return {
        "selection_mask": selection.selection_mask,
        "selection_indices": selection.selection_indices,
        "selection_scores": selection.scores.detach(),
        "selection_crops": tokens.crops,
        "selection_places": tokens.places,
    }
