"""`molmo data`: commands that look after training data."""

from __future__ import annotations

import typer

from olmo.cli.lazy_group import lazy_group

COMMANDS = {
    "check": "Find rows that cannot be trained on.",
    "show": "Write a page with the crops, tokens, loss mask and points of examples.",
    "download": "Fetch the pictures of a dataset that names them by URL.",
}
"""Commands and their summaries; each lives in the module `data_` and its name."""

data = typer.Typer(cls=lazy_group(COMMANDS, "olmo.cli.data_"), name="data", add_completion=False, no_args_is_help=True)


@data.callback()
def group() -> None:
    """Check, show and download training data."""
