"""Options that several commands share. Nothing here has a default of its own: what is not given is not passed on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import typer

Model = Annotated[
    str | None,
    typer.Option("--model", "-m", help="Folder or hub id of a model; without it, the bundled one.", show_default=False),
]
Adapter = Annotated[
    str | None,
    typer.Option(help="Folder of an adapter for the model; without --model, for the one it was made for."),
]
Device = Annotated[str | None, typer.Option(help="Where to run: cpu, cuda, cuda:1, mps.", show_default=False)]
Dtype = Annotated[
    str | None, typer.Option(help="Number format of the weights: float32, bfloat16, float16.", show_default=False)
]
MaxNewTokens = Annotated[int | None, typer.Option(help="Most tokens of an answer.", show_default=False)]
Temperature = Annotated[
    float | None,
    typer.Option(help="Draw tokens at random; higher is more varied. Without it, the likeliest.", show_default=False),
]
Seed = Annotated[
    int | None, typer.Option(min=0, max=2**32 - 1, help="Makes random answers repeatable.", show_default=False)
]
PromptLookup = Annotated[
    int | None,
    typer.Option(
        help="Guess so many tokens ahead from the text so far, 0 to 64. The answers stay the same; those that repeat "
        "themselves come sooner.",
        show_default=False,
    ),
]
Quantize = Annotated[
    str | None,
    typer.Option(help="Keep matrices in fewer bits: int8, int8-dynamic, int4, fp8 (GPU).", show_default=False),
]
DeviceMap = Annotated[
    str | None,
    typer.Option(
        metavar="auto",
        help="auto: spread the model over all GPUs, then the memory of the machine, then --offload-folder.",
        show_default=False,
    ),
]
OffloadFolder = Annotated[
    str | None, typer.Option(help="Where --device-map writes what no memory has room for.", show_default=False)
]
SelectionRatio = Annotated[
    float | None,
    typer.Option(
        help="Share of the picture tokens that a HeMolmo keeps, above 0 to 1; without it, as the model is set.",
        show_default=False,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What a user chose about loading and generating; None was left open. `with_option_groups` makes options of it."""

    model: Model = None
    adapter: Adapter = None
    max_new_tokens: MaxNewTokens = None
    temperature: Temperature = None
    seed: Seed = None
    selection_ratio: SelectionRatio = None
    prompt_lookup: PromptLookup = None
    device: Device = None
    dtype: Dtype = None
    quantize: Quantize = None
    device_map: DeviceMap = None
    offload_folder: OffloadFolder = None

    def loading(self) -> dict[str, Any]:
        """Arguments for `from_pretrained`."""
        return given(
            device=self.device, dtype=self.dtype, quantize=self.quantize, device_map=self.device_map,
            offload_folder=self.offload_folder,
        )  # fmt: skip

    def overrides(self) -> list[str]:
        """Changes of the model's configuration."""
        return [f"{name}={value}" for name, value in given(selection_ratio=self.selection_ratio).items()]

    def generating(self) -> dict[str, Any]:
        """Arguments for `stream`."""
        do_sample = None if self.temperature is None else True
        return given(
            max_new_tokens=self.max_new_tokens,
            do_sample=do_sample,
            temperature=self.temperature,
            seed=self.seed,
            prompt_lookup=self.prompt_lookup,
        )


def given(**values: Any) -> dict[str, Any]:
    """The values that are not None."""
    return {name: value for name, value in values.items() if value is not None}
