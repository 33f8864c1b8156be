"""`molmo demo`: the bundled model looks at the bundled picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from olmo.cli.answer import Answer
from olmo.cli.options import Choices, Model
from olmo.cli.pictures import load_picture
from olmo.cli.session import Session

ASSETS = Path(__file__).resolve().parent / "assets"
PICTURE, QUESTIONS = ASSETS / "demo.png", ASSETS / "demo.json"
"""Written by `scripts/build_demo_picture.py`. The last question asks for points."""


def demo(
    model: Model = None,
    output: Annotated[Path, typer.Option(help="Folder for the picture with the points drawn on it.")] = Path(
        "demo_output"
    ),
) -> None:
    """Ask the bundled model three questions about the bundled picture."""
    picture = load_picture(PICTURE)
    session = Session(Choices(model=model))
    typer.echo(f"Model:   {session.name}\nPicture: {_shown(PICTURE)}\n")
    for question in json.loads(QUESTIONS.read_text(encoding="utf-8"))["questions"]:
        typer.echo(f"  {question}\n    ", nl=False)
        text = ""
        for piece in session.ask(question, [picture]):
            text += piece
            typer.echo(piece, nl=False)
        typer.echo()
    target = output / "annotated.png"
    answer = Answer(text, session.name, (str(PICTURE),), picture)
    answer.save_picture(target)
    typer.echo(f"\n{len(answer.points)} point(s) of the last answer are drawn on {target}")


def _shown(path: Path) -> str:
    """The path from here where it lies below, else the whole of it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
