"""`StoredModel`: a module with a configuration that is written to folders and loaded from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from olmo.checkpoint.native import LoadReport, load_checkpoint, save_checkpoint
from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.models.compiled_decoding import CompiledDecoding
from olmo.models.device_map import Places, Room
from olmo.models.feature_cache import FeatureCache
from olmo.models.molmo.molmo_config import MolmoConfig
from olmo.models.prefix_cache import PrefixCache
from olmo.models.quantize import narrow_model, quantization_config, refuse_torchao
from olmo.quantization.config import QuantizationConfig
from olmo.quantization.layers import pack_layers


class StoredModel(nn.Module):
    """What every model of the family does with its weights in one way."""

    config: MolmoConfig
    """What it was built from."""

    feature_cache: FeatureCache | None
    """Keeps picture features between calls; None keeps none."""

    encodes_once: bool
    """Equal crops of one call are encoded once, in training too; they then share their dropout."""

    places: Places | None
    """Which devices it is on; None: one."""

    spread: str | None
    """Why this process has not all of its weights in its memory; None where it has."""

    prefix_cache: PrefixCache | None
    """Keeps keys and values of the last prompt between calls; None keeps none."""

    compiled_decoding: CompiledDecoding | None
    """Decodes by a compiled step; None: layer by layer. `compile_decoding` makes one."""

    def save_checkpoint(self, path: str | Path, sharded: bool = True) -> None:
        """Write weights, configuration and tokenizer to a folder, completely or not at all.

        Args:
            path: folder; what was there stays until the new one is complete.
            sharded: several files that many processes could write, instead of one.

        Raises:
            OLMoConfigurationError: the matrices are in a form that only torchao can read.
        """
        self._refuse_spread("saved")
        refuse_torchao(self.config.quantization)
        save_checkpoint(self, path, sharded=sharded, write_extra=self.config.save)

    def load_checkpoint(self, path: str | Path, strict: bool = True) -> LoadReport:
        """Load weights that `save_checkpoint` wrote, in either form.

        Args:
            path: checkpoint folder.
            strict: every name and shape must match; False loads the rest and reports.

        Returns:
            Names that were missing, unexpected or of another shape.

        Raises:
            OLMoCheckpointError: missing or damaged files; with strict, any difference. The model is unchanged then.
        """
        return load_checkpoint(self, path, strict=strict)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        revision: str | None = None,
        dtype: str | torch.dtype | None = None,
        device: str | torch.device = "cpu",
        device_map: str | Mapping[str, int | str] | None = None,
        max_memory: Mapping[int | str, int | str] | None = None,
        offload_folder: str | Path | None = None,
        tensor_parallel: bool = False,
        overrides: Sequence[str] = (),
        quantize: str | QuantizationConfig | None = None,
        trust_remote_code: bool = False,
    ) -> Self:
        """Load a model with its weights.

        Args:
            model: a folder (native or released Hugging Face layout) or a hub id such as `"allenai/Molmo-7B-D-0924"`.
            revision: branch, tag or commit on the hub.
            dtype: type of the weights in memory, `"bfloat16"` say; None keeps float32, `"auto"` the stored type.
            device: where the weights go.
            device_map: several devices: `"auto"`, or the device of each part by the beginning of its name. Parts that
                no device has room for stay in the memory of the machine (`"cpu"`) or on disk (`"disk"`).
            max_memory: for `"auto"`, what each device may take: `{0: "20GiB", "cpu": "60GiB"}`; None: what is free.
            offload_folder: where parts on disk are written.
            tensor_parallel: this is one of the processes that `torchrun` started, and takes its share of each layer.
            overrides: dotted changes of the configuration.
            quantize: keep matrices in fewer bits, each rounded as it is read; as in `quantize`. A folder that was saved
                quantised needs none.
            trust_remote_code: accepted for compatibility and ignored; no code of a checkpoint is ever executed.

        Raises:
            OLMoCheckpointError: not found, incomplete, damaged, or of a layout that is not known.
            OLMoConfigurationError: it is quantised already, or cannot be quantised so.
        """
        del trust_remote_code
        from_folder: Callable[..., Self] = cls._load_pretrained
        return from_folder(
            model, revision=revision, dtype=dtype, device=device, overrides=overrides, quantize=quantize,
            room=None if device_map is None else Room(device_map, max_memory, offload_folder),
            tensor_parallel=tensor_parallel,
        )  # fmt: skip

    @classmethod
    def _load_pretrained(cls, model: str | Path, **options: Any) -> Self:
        raise OLMoCheckpointError(
            f"{cls.__name__} has no published layout; load with its subclass, Molmo.from_pretrained for instance, or "
            "with olmo.models.auto.from_pretrained"
        )

    def save_pretrained_hf(self, path: str | Path) -> None:
        """Write a folder in the released Hugging Face layout; `from_pretrained` of it gives equal bits.

        Args:
            path: folder; a published model that was there stays until the new one is complete.

        Raises:
            OLMoCheckpointError: the released layout has no place for something in this model; `save_checkpoint` has.
        """
        raise OLMoCheckpointError(f"there is no released layout for {type(self).__name__}; use save_checkpoint")

    def quantize(
        self, scheme: str | QuantizationConfig, *, keep: Sequence[str] = (), include: Sequence[str] = ()
    ) -> Self:
        """Keep the matrices of the language model's blocks in fewer bits, from now on and for inference alone.

        Picture encoder, connector, routers, embeddings and head stay as they are. `from_pretrained(quantize=...)` does
        the same while it reads, without ever having all weights in full precision.

        Args:
            scheme: `"int8"`, `"int8-dynamic"`, `"int4"` or, on a GPU, `"fp8"`; or a whole configuration.
            keep: layers to leave in full precision, such as `"llm.blocks.0"` or `"*.ff_out"`.
            include: layers to quantise too, such as `"vision_backbone.image_vit"` or `"llm.lm_head"`.

        Returns:
            The model itself, in eval mode.

        Raises:
            OLMoConfigurationError: it is quantised already, a name means no layer, or the scheme cannot be had here.
        """
        self._refuse_spread("quantised")
        if self.config.quantization is not None:
            raise OLMoConfigurationError(
                f"the model is quantised already ({self.config.quantization.scheme}); load it in full precision first"
            )
        quantization = quantization_config(scheme, next(self.parameters()).device, keep, include)
        narrow_model(self, quantization)
        self.config = self.config.replace(quantization=quantization)
        pack_layers(self)
        return self

    def compile_decoding(self, mode: str | None = None, *, backend: str = "inductor", prompts: bool = False) -> Self:
        """Let `generate` and `stream` decode by a compiled step from now on; the first answers wait for the compiler.

        Args:
            mode: of `torch.compile`; None: `"reduce-overhead"`, which records CUDA graphs, on a GPU, else its default.
            backend: who compiles.
            prompts: read prompts by a compiled pass too, but for a routed model; the first answer waits for that as
                well.

        Returns:
            The model itself. `model.compiled_decoding = None` takes it back.

        Raises:
            OLMoConfigurationError: an unknown mode, or a model on several devices or in several processes.
        """
        if self.places is not None or self.spread is not None:
            raise OLMoConfigurationError(
                "is for a model that is whole and on one device; load it without device_map and tensor_parallel",
                "compile_decoding",
            )
        self.compiled_decoding = CompiledDecoding(mode, backend, prompts)
        return self

    def train(self, mode: bool = True) -> Self:
        """Training mode on or off; a quantised model has only the latter.

        Raises:
            OLMoConfigurationError: the model is quantised.
        """
        if mode:
            self._refuse_spread("trained")
        if mode and self.config.quantization is not None:
            raise OLMoConfigurationError(
                "a quantised model does not learn; train the full-precision one, over a narrow base if need be "
                "(lora.base=int8)"
            )
        for remembered in (self.feature_cache, self.prefix_cache, self.compiled_decoding) if mode else ():
            if remembered is not None:
                remembered.clear()  # the weights are about to change, and training needs the memory
        return super().train(mode)

    def _refuse_spread(self, what: str) -> None:
        if self.spread is not None:
            raise OLMoConfigurationError(
                f"the model {self.spread}, so it cannot be {what}; load it on one device, without device_map and "
                "tensor_parallel"
            )
