"""`molmo quantize`: a model with its matrices in fewer bits, as a folder, with a report on what that does to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from olmo.cli.session import model_folder
from olmo.cli.steps import check_target, steps
from olmo.eval.quantization_report import QuantizationReport, behaviour, compare, scene_questions
from olmo.models.auto import from_pretrained
from olmo.models.quantize import n_narrow_numbers, quantization_config
from olmo.quantization.config import Scheme

MIB = 2**20


def quantize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or hub id, in full precision.")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write.")],
    to: Annotated[Scheme, typer.Option(help="Numbers to keep the matrices in; fp8 is for GPUs and not written.")],
    keep: Annotated[
        list[str] | None, typer.Option(help="Layers to leave in full precision, llm.blocks.0 say; may be repeated.")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(help="Layers to quantise beside the language model's blocks, vision_backbone.image_vit say."),
    ] = None,
    dtype: Annotated[str | None, typer.Option(help="Number format of the rest; without it, the stored one.")] = None,
    scenes: Annotated[int, typer.Option(min=0, help="Drawn pictures to ask about for the report; 0 for none.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a checkpoint that is already at OUT.")] = False,
) -> None:
    """Write a model with its matrices in fewer bits, and report what that does to it."""
    check_target(model, target, force)
    config = quantization_config(to, keep=keep or (), include=include or ())
    folder, report = model_folder(model), None
    with steps() as step:
        step(f"Quantising {model} to {to} as it is read")
        quantized = from_pretrained(folder, dtype=dtype or "auto", quantize=config)
        step(f"Writing {target}")
        quantized.save_checkpoint(target)
        if scenes and quantized.vision_backbone is not None:
            items = scene_questions(scenes)
            step(f"Asking the quantised model {len(items)} questions")
            after, n_narrow = behaviour(quantized, items), n_narrow_numbers(quantized)
            del quantized  # the two are never in memory together
            step("Asking the model in full precision")
            report = compare(behaviour(from_pretrained(folder, dtype=dtype or "auto"), items), after, n_narrow)
    if as_json:
        typer.echo(json.dumps({"folder": str(target), "scheme": str(to), **(report.asdict() if report else {})}))
        return
    typer.echo(f"{target} ({to})")
    if report is not None:
        _show(report)


def _show(report: QuantizationReport) -> None:
    low, high = report.interval_after
    rows: Sequence[tuple[str, str, str]] = (
        ("weights, MiB", f"{report.bytes_before / MIB:,.1f}", f"{report.bytes_after / MIB:,.1f}"),
        (
            "quantised matrices, MiB (before in float32)",
            f"{report.linear_bytes_before / MIB:,.1f}",
            f"{report.linear_bytes_after / MIB:,.1f}",
        ),
        (
            f"right answers to {report.n_questions} questions about scenes",
            f"{report.accuracy_before:.3f}",
            f"{report.accuracy_after:.3f} ({low:.3f} to {high:.3f})",
        ),
    )
    table = Table("", "before", "after", box=None, padding=(0, 3, 0, 0))
    for row in rows:
        table.add_row(*row)
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    console.print(
        f"at {report.n_positions} tokens of right answers: the same likeliest token at {report.top1_agreement:.1%}, "
        f"logits {report.logit_distance:.3f} standard deviations apart, divergence {report.kl:.4f} nats"
    )
