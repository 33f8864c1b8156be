"""`ModelBase`: what every model of the family does in one way: forward, generate, checkpoints, sharding policy.

A forward is always: embed the tokens, fuse the picture features in, apply the transforms, run the language model. A
variant overrides `encode_images` or `transform`; nobody copies a `forward`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask

from olmo.exceptions import OLMoInputError
from olmo.models.feature_cache import encoded_once
from olmo.models.fusing import fused_inputs
from olmo.models.generate import generate, stream
from olmo.models.llm_inputs import LlmInputs, visible_keys
from olmo.models.logits import logits_and_loss
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.outputs import OLMoGenerateOutput, OLMoOutput, PastKeyValues
from olmo.models.picture_inputs import GivenPictures, PictureInputs, Seen, picture_inputs
from olmo.models.quantize import n_narrow_numbers, narrow_model
from olmo.models.router_losses import router_aux
from olmo.models.stored_model import StoredModel
from olmo.models.text_inputs import Past, TextInputs, check_context, refuse_unknown_arguments, row_lengths, text_inputs
from olmo.models.wrap_policy import WrapPolicy, parameters_by_part, wrap_policy
from olmo.nn.kv_cache import KVCache
from olmo.nn.llm import Llm, LlmOutput
from olmo.nn.loss import IGNORE
from olmo.nn.vision_backbone import MolmoVisionBackbone
from olmo.tokenizer import Tokenizer


class ModelBase(StoredModel):
    """Base class of all models.

    Args:
        config: what to build.
        seed: seed of the random initialisation.
    """

    config_class: ClassVar[type[MolmoConfig]] = MolmoConfig
    crop_arguments: ClassVar[tuple[str, ...]] = ()
    """Further tensors `[B, N, ...]` beside `images` that `forward` and `generate` take."""
    choice_arguments: ClassVar[tuple[str, ...]] = ()
    """Further settings of a call that decide what stays of the pictures."""

    def __init__(self, config: MolmoConfig, *, seed: int = 0) -> None:
        super().__init__()
        self.config = config
        self._tokenizer: Tokenizer | None = None
        self.places = self.spread = None
        self.feature_cache = None
        self.encodes_once = False
        self.prefix_cache = None
        self.compiled_decoding = None
        device, vision = torch.get_default_device(), config.vision_backbone
        with torch.device("meta"):  # parts then draw nothing of their own: one draw below, from one generator
            self.llm = Llm(config.llm)
            self.vision_backbone = None if vision is None else MolmoVisionBackbone(vision, config.llm)
            self.build_further_parts()
        if device.type != "meta":
            self.to_empty(device=device)
            self.reset_parameters(torch.Generator().manual_seed(seed))
        if config.quantization is not None:
            narrow_model(self, config.quantization)

    # -- forward ---------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: torch.Tensor,
        images: torch.Tensor | None = None,
        image_masks: torch.Tensor | None = None,
        image_input_idx: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        *,
        position_ids: torch.Tensor | None = None,
        subsegment_ids: torch.Tensor | None = None,
        loss_masks: torch.Tensor | None = None,
        past_key_values: Past | None = None,
        use_cache: bool | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        output_router_load: bool = False,
        logits_at: str = "all",
        z_loss: float = 0.0,
        **kwargs: Any,
    ) -> OLMoOutput:
        """Forward pass. Inputs on another device are brought to that of the model.

        Args:
            input_ids: `[B, L]` token ids, -1 on padding; `[L]` is a batch of one.
            images: `[B, N, C, H, W]` normalised pixels of N crops, or `[B, N, P, p*p*3]` patches.
            image_masks: `[B, N, P]` share of real pixels a patch; None: all real.
            image_input_idx: `[B, I]` first position of each picture's tokens, or `[B, N, tokens]` position of each
                pooled feature; None: rebuilt from input_ids.
            labels: `[B, L]` targets aligned with input_ids, -100 ignored; the shift happens here.
            attention_mask: `[B, L]`, non-zero on real tokens; with past_key_values also `[B, S + L]`.
            position_ids: `[B, L]`; None: counted from the attention mask.
            subsegment_ids: `[B, L]` message-tree segments.
            loss_masks: `[B, L]` weights of the labels; the divisor is their sum.
            past_key_values: keys and values of earlier tokens; pictures belong to the first call.
            use_cache: return past_key_values; None: when not training and no gradient is recorded.
            output_hidden_states: return `[n_layers + 1, B, L, D]`.
            output_attentions: return the attention weights of each layer (eager attention for this call).
            output_router_load: tell what the routers did (`router_aux`) outside training too; not of padding.
            logits_at: `"all"` positions, the `"last"` real one of each row (`[B, 1, V]`), or `"labels"`: only where a
                loss is taken (`[n, V]`), which saves most of the memory in training.
            z_loss: coefficient of the softmax z-loss.
            **kwargs: what `crop_arguments` and `choice_arguments` name. `metadata` is passed over, so that a collated
                batch can be handed in whole; nothing else is taken.

        Returns:
            OLMoOutput with logits and, given labels, the loss.

        Raises:
            OLMoInputError: a shape, range or combination that cannot be meant, or an unknown argument.
        """
        further = (*self.crop_arguments, *self.choice_arguments)
        refuse_unknown_arguments("forward", kwargs, ("metadata", *further))
        if past_key_values is not None and images is not None:
            raise OLMoInputError("images cannot be passed together with past_key_values; they belong to the first call")
        text = text_inputs(
            input_ids, self.config.llm, attention_mask=attention_mask, position_ids=position_ids,
            subsegment_ids=subsegment_ids, labels=labels, loss_masks=loss_masks, past=past_key_values,
            device=self.device,
        )  # fmt: skip
        given = {name: kwargs[name] for name in further if name in kwargs}
        inputs = self.llm_inputs(text, images, image_masks, image_input_idx, **given)
        if use_cache is None:
            is_learning = self.training or torch.is_grad_enabled() or labels is not None
            use_cache = past_key_values is not None or not is_learning
        cache = self.build_cache(inputs, past_key_values) if use_cache or past_key_values is not None else None
        is_trained = self.training and labels is not None
        out = self.run_llm(
            inputs, cache, output_hidden_states=output_hidden_states, output_attentions=output_attentions,
            router_counts=inputs.real_tokens() if is_trained or output_router_load else None,
        )  # fmt: skip
        logits, loss = logits_and_loss(self.llm, out.hidden, inputs, logits_at, z_loss)
        aux = (
            inputs.aux if out.router is None else {**inputs.aux, **router_aux(out.router, self.config.llm, is_trained)}
        )
        if loss is not None:
            loss = sum((value for name, value in aux.items() if name.startswith("loss_")), start=loss)
        return OLMoOutput(
            logits=logits,
            loss=loss,
            past_key_values=PastKeyValues(cache.as_tuple(), inputs.attention_mask) if cache and use_cache else None,
            hidden_states=torch.stack(out.hidden_states) if out.hidden_states is not None else None,
            attentions=out.attentions,
            aux=aux or None,
        )

    def llm_inputs(
        self,
        text: TextInputs,
        images: torch.Tensor | None = None,
        image_masks: torch.Tensor | None = None,
        image_input_idx: torch.Tensor | None = None,
        **further: Any,
    ) -> LlmInputs:
        """Embed, fuse the pictures in, apply the transforms.

        Args:
            text: the tokens.
            images: as in `forward`, like the next two.
            image_masks: see there.
            image_input_idx: see there.
            **further: what `crop_arguments` and `choice_arguments` name.
        """
        seen = Seen(text)
        if images is not None:
            crops = {name: further[name] for name in self.crop_arguments if name in further}
            settings = {name: further[name] for name in self.choice_arguments if name in further}
            pictures = self.read_pictures(text.input_ids, (images, image_masks, image_input_idx), **crops)
            seen = self.see(text, pictures, **settings)
        check_context(int(seen.text.position_ids.max()) + 1, self.config.llm)
        return self.transform(self.fused(seen))

    def fused(self, seen: Seen) -> LlmInputs:
        """Embeddings of the tokens with picture features added, and all that belongs to a token."""
        return fused_inputs(self.llm, self.config, seen)

    def read_pictures(self, input_ids: torch.Tensor, given: GivenPictures, **crops: Any) -> PictureInputs:
        """Check the pictures of a call and bring them to their one form; Molmo takes no further `crops`."""
        return picture_inputs(input_ids, *given, self.config)

    def encode_images(self, pictures: PictureInputs) -> torch.Tensor:
        """Picture features `[M, tokens, D]` of the crops. A variant may override this."""
        assert self.vision_backbone is not None, "pictures are refused at the door of a model without one"
        # The type of a parameter that is neither sharded on its own nor ever quantised.
        images = pictures.images.to(self.vision_backbone.image_vit.positional_embedding.dtype)
        return self.vision_backbone(images, pictures.image_masks)

    def see(self, text: TextInputs, pictures: PictureInputs, **settings: Any) -> Seen:
        """Encode pictures and choose what of them stays; `settings` are what `choice_arguments` names."""
        return self.choose_pictures(text, pictures, self.features_of(pictures), **settings)

    def features_of(self, pictures: PictureInputs) -> torch.Tensor:
        """`encode_images`, but for crops whose features are in `feature_cache`, in inference where there is one.

        Where `encodes_once` is set, equal crops are encoded together.
        """
        if not self.encodes_alone(pictures):
            return self.encode_images(pictures)
        if self.feature_cache is not None and not self.training and not torch.is_grad_enabled():
            return self.feature_cache(pictures, self.encode_images)
        return encoded_once(pictures, self.encode_images) if self.encodes_once else self.encode_images(pictures)

    def reuses_prefixes(self) -> bool:
        """Whether what is computed of a prompt's beginning depends on that alone; picture tokens may look ahead."""
        return self.config.bi_directional_attn is None

    def encodes_alone(self, pictures: PictureInputs) -> bool:
        """Whether the features of each of these crops depend on that crop alone."""
        return True

    def choose_pictures(
        self, text: TextInputs, pictures: PictureInputs, features: torch.Tensor, **settings: Any
    ) -> Seen:
        """Leave out encoded pictures, or parts of them, together with their tokens; Molmo keeps all.

        A variant may override this.
        """
        return Seen(text, pictures, features)

    def transform(self, inputs: LlmInputs) -> LlmInputs:
        """Changes between fusing and the language model; Molmo has none. A variant may override this."""
        return inputs

    def run_llm(self, inputs: LlmInputs, cache: KVCache | None = None, **outputs: Any) -> LlmOutput:
        """The language model over fused inputs, with the attention mask of the configured mode."""
        past_length = 0 if cache is None else cache.length
        mode = None if past_length else self.config.bi_directional_attn
        in_blocks = cache is None and not outputs.get("output_attentions")
        in_blocks = in_blocks and self.llm.takes_blocks(has_segments=inputs.segment_ids is not None)
        response = None
        if self.training and inputs.labels is not None:
            response = inputs.labels != IGNORE if inputs.loss_weights is None else inputs.loss_weights > 0
        return self.llm(
            inputs.embeds,
            position_ids=inputs.position_ids,
            attention_mask=visible_keys(inputs, mode, past_length, in_blocks),
            cache=cache,
            response_mask=response,
            **outputs,
        )

    def read_prompt(self, inputs: LlmInputs, cache: KVCache) -> torch.Tensor:
        """Hidden states `[B, L, D]` of whole prompts, by the compiled pass where there is one; `cache` is filled."""
        compiled = self.compiled_decoding
        if compiled is not None and compiled.prompts:
            mask = visible_keys(inputs, self.config.bi_directional_attn)
            assert not isinstance(mask, BlockMask), "it was not asked for in blocks"
            hidden = compiled.read_prompt(self.llm, inputs.embeds, inputs.position_ids, mask, cache)
            if hidden is not None:
                return hidden
        return self.run_llm(inputs, cache).hidden

    def build_cache(self, inputs: LlmInputs, past: Past | None = None, extra_length: int = 0) -> KVCache:
        """A cache with room for `inputs`, for `extra_length` tokens after them, and for what is `past`."""
        batch_size, length = inputs.embeds.shape[0], inputs.embeds.shape[1] + extra_length
        if past is not None:
            return KVCache.from_tuple(past, length)
        return self.llm.new_cache(batch_size, length, inputs.embeds.dtype)

    # -- generation ------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(
        self,
        input_ids: torch.Tensor,
        images: torch.Tensor | None = None,
        max_new_tokens: int = 200,
        min_new_tokens: int = 0,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_p: float = 1.0,
        top_k: int | None = None,
        num_beams: int = 1,
        eos_token_id: int | list[int] | None = None,
        pad_token_id: int | None = None,
        **kwargs: Any,
    ) -> OLMoGenerateOutput:
        """Generate text autoregressively.

        Args:
            input_ids: `[B, L]` prompts, padded with -1 on either side, or `[L]`.
            images: as in `forward`; so are `image_masks`, `image_input_idx`, `attention_mask`, `position_ids`,
                `subsegment_ids`, `crop_arguments` and `choice_arguments` among the kwargs. What else a preprocessor
                returns is passed over.
            max_new_tokens: most tokens to generate; the context length caps it.
            min_new_tokens: end tokens are forbidden before this many.
            do_sample: draw tokens instead of taking the best one.
            temperature: divides the logits before drawing.
            top_p: draw from the smallest set of tokens with this probability.
            top_k: draw from this many best tokens.
            num_beams: beams of beam search; 1 is greedy.
            eos_token_id: end token or tokens; None: the tokenizer's.
            pad_token_id: fills rows after their end; None: the tokenizer's.
            **kwargs: `stop_strings`, `repetition_penalty`, `length_penalty`, `logits_processors` (callables
                `(generated ids [B, S], logits [B, V]) -> logits`), `output_scores`, `seed` or `generator`,
                and `stream`, a callable that is given the text of a single row piece by piece.

        Returns:
            OLMoGenerateOutput with the new tokens and their text.

        Raises:
            OLMoInputError: an argument out of range or a combination that contradicts itself.
        """
        return generate(
            self, input_ids, images=images, max_new_tokens=max_new_tokens, min_new_tokens=min_new_tokens,
            do_sample=do_sample, temperature=temperature, top_p=top_p, top_k=top_k, num_beams=num_beams,
            eos_token_id=eos_token_id, pad_token_id=pad_token_id, **kwargs,
        )  # fmt: skip

    def stream(self, input_ids: torch.Tensor, images: torch.Tensor | None = None, **kwargs: Any) -> Iterator[str]:
        """Text of one example, piece by piece as it is decoded, cut only at whole characters.

        Args:
            input_ids: `[L]` or `[1, L]`.
            images: as in `generate`.
            **kwargs: as in `generate`.
        """
        return stream(self, input_ids, images=images, **kwargs)

    # -- weights ---------------------------------------------------------------------------------------------------

    def unread_weights(self) -> Sequence[str]:
        """Beginnings of names that a checkpoint may have and this model has no use for."""
        return ()

    def build_further_parts(self) -> None:
        """Make what a variant has besides language model and vision backbone, without memory."""

    def reset_parameters(self, generator: torch.Generator) -> None:
        """Random initialisation, reproducible by the generator."""
        self.llm.reset_parameters(generator)
        if self.vision_backbone is not None:
            self.vision_backbone.reset_parameters(generator)

    # -- facts -----------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the parameters are; over several devices, where inputs and results are."""
        return next(self.parameters()).device if self.places is None else self.places.main

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters."""
        return next(self.parameters()).dtype

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer, built at first need."""
        if self._tokenizer is None:
            self._tokenizer = self.config.build_tokenizer()
        return self._tokenizer

    def lengths_after_choice(self, text: TextInputs, pictures: Mapping[str, Any]) -> torch.Tensor:
        """`[B]` int64: at most so many positions of each row reach the language model, with the pictures of a call."""
        return row_lengths(text)

    def num_params(self, include_inactive: bool = True) -> int:
        """Number of parameters; without inactive ones, only the experts that one token uses are counted."""
        others = sum(p.numel() for name, p in self.named_parameters() if not name.startswith("llm."))
        return others + self.llm.num_params(include_inactive) + n_narrow_numbers(self)

    def components(self) -> dict[str, dict[str, nn.Parameter]]:
        """Parameters by the part they belong to: `connector` (with all that is new), `vit`, `llm`, `selector`."""
        return parameters_by_part(self.named_parameters())

    def get_fsdp_wrap_policy(self, strategy: str | None = "by_block_and_size") -> WrapPolicy | None:
        """The `auto_wrap_policy` for `FullyShardedDataParallel`.

        Args:
            strategy: `by_block`, `by_block_and_size`, `size_based` or None, which wraps nothing.
        """
        blocks: list[nn.Module] = list(self.llm.blocks)
        # A tied table is read outside its own module, by the head, so it stays with the root.
        large: list[nn.Module] = [self.llm.wte, self.llm.lm_head] if self.llm.lm_head is not None else []
        if self.vision_backbone is not None:
            blocks += list(self.vision_backbone.image_vit.blocks)
            large.append(self.vision_backbone.connector)
        return wrap_policy(strategy, blocks, large)
