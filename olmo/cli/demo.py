"""`molmo demo`: the bundled models look at the bundled picture and at the bundled clip."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from olmo.cli.answer import Answer, write_picture
from olmo.cli.options import Choices, Model
from olmo.cli.session import Prepared, Session, about
from olmo.cli.subject import Subject, open_subject
from olmo.cli.video_answer import frame_sheet
from olmo.cli.video_options import VideoChoices
from olmo.models.video_olmo.video_olmo import VideoOlmo

ASSETS = Path(__file__).resolve().parent / "assets"
PICTURE, QUESTIONS = ASSETS / "demo.png", ASSETS / "demo.json"
"""Written by `scripts/build_demo_picture.py`. The last question asks for points."""

CLIP, CLIP_QUESTIONS = ASSETS / "demo_clip.webp", ASSETS / "demo_clip.json"
"""Written by `scripts/build_demo_clip.py`."""


def demo(
    model: Model = None,
    output: Annotated[
        Path, typer.Option(help="Folder for the picture with the points drawn on it, and for the frames of the clip.")
    ] = Path("demo_output"),
) -> None:
    """Ask the bundled models about a bundled picture and a bundled clip."""
    picture = open_subject([str(PICTURE)], VideoChoices())
    session = Session(Choices(model=model))
    typer.echo(f"Model:   {session.name}\nPicture: {_shown(PICTURE)}\n")
    text, _ = _ask_all(session, QUESTIONS, picture)
    answer, target = Answer(text, session.name, picture.names, picture.pictures[0]), output / "annotated.png"
    answer.save(target)
    typer.echo(f"\n{len(answer.points)} point(s) of the last answer are drawn on {target}")
    clip = open_subject([str(CLIP)], VideoChoices())
    if model is None:
        session = Session(about(clip, Choices()))
    if isinstance(session.model, VideoOlmo):
        _ask_about_clip(session, clip, output / "frames.png")


def _ask_about_clip(session: Session, clip: Subject, sheet: Path) -> None:
    typer.echo(f"\nModel:   {session.name}\nClip:    {_shown(CLIP)}\n")
    _, prepared = _ask_all(session, CLIP_QUESTIONS, clip)
    write_picture(frame_sheet(prepared.clips, clip.names), sheet)
    typer.echo(f"\nThe frames that the model saw are on {sheet}")


def _ask_all(session: Session, file: Path, subject: Subject) -> tuple[str, Prepared]:
    """Ask every question of a file, and show question and answer; returns the last answer and what it was made from."""
    questions = json.loads(file.read_text(encoding="utf-8"))["questions"]
    for question in questions:
        typer.echo(f"  {question}\n    ", nl=False)
        text, prepared = "", session.prepare(question, subject)
        for piece in session.stream(prepared):
            text += piece
            typer.echo(piece, nl=False)
        typer.echo()
    return text, prepared


def _shown(path: Path) -> str:
    """The path from here where it lies below, else the whole of it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
