"""`molmo train`: a recipe, run to its end."""

from __future__ import annotations

from typing import Annotated

import typer

from olmo.train.run import build_trainer


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="YAML file of the run, such as configs/nano.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes of the recipe: max_steps=100.")
    ] = None,
) -> None:
    """Run a training recipe; it resumes where it stopped."""
    build_trainer(recipe, overrides or ()).fit()
