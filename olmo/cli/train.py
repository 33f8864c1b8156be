"""`molmo train`: a recipe, run to its end; or what it would take, with --dry-run."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from olmo.cli.errors import EXIT_INTERRUPTED
from olmo.train.plan.dry_run import as_rows, dry_run
from olmo.train.run import build_trainer


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="YAML file of the run, such as configs/nano.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes of the recipe: max_steps=100.")
    ] = None,
    only_reckon: Annotated[
        bool, typer.Option("--dry-run", help="Show tokens, parameters, arithmetic and memory; start nothing.")
    ] = False,
    devices: Annotated[int, typer.Option(min=1, metavar="N", help="With --dry-run: devices to reckon for.")] = 1,
    allow_changes: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY", help="Resume although this key of the recipe has changed; may be repeated."),
    ] = None,
) -> None:
    """Run a training recipe; it resumes where it stopped."""
    if only_reckon:
        _print(as_rows(dry_run(recipe, overrides or (), devices)))
        return
    trainer = build_trainer(recipe, overrides or (), allow_changes or ())
    trainer.fit()
    if trainer.stopped_by is not None:
        if trainer.parallel.is_main:
            typer.echo(f"stopped by {trainer.stopped_by} at step {trainer.step}; the same command goes on from there")
        trainer.parallel.close()
        raise typer.Exit(EXIT_INTERRUPTED)
    if trainer.parallel.is_main:
        typer.echo(f"metrics: {trainer.run_dir / 'metrics.jsonl'}")
        typer.echo(f"model: {trainer.run_dir / 'final'}")
    trainer.parallel.close()


def _print(rows: list[tuple[str, str]]) -> None:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for label, value in rows:
        table.add_row(label, value)
    Console().print(table)
