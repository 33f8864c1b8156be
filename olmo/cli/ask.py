"""`molmo ask`: a question about pictures, or the same question about each picture of a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from olmo.cli.answer import Answer, picture_format
from olmo.cli.errors import one_line
from olmo.cli.options import Adapter, Choices, Device, Dtype, MaxNewTokens, Model, Seed, Temperature
from olmo.cli.pictures import has_picture_name, is_path, load_picture, pictures_in
from olmo.cli.session import Session
from olmo.exceptions import OLMoError, OLMoInputError


def ask(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE", help="Pictures, or one folder of them.", show_default=False)
    ] = None,
    *,
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="What to ask; always the last word of the command line.")
    ],
    model: Model = None,
    adapter: Adapter = None,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write the picture with the points drawn on it; a folder's pictures go to a folder of this name."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object (a folder: one a line).")] = False,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Ask a question about pictures."""
    images = images or []
    _check_usage(images, question, save)
    choices = Choices(
        model=model,
        adapter=adapter,
        device=device,
        dtype=dtype,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    if len(images) == 1 and Path(images[0]).is_dir():
        _ask_each(pictures_in(images[0]), question, choices, save, as_json)
    else:
        _ask_once(images, question, choices, save, as_json)


def _check_usage(images: list[str], question: str, save: Path | None) -> None:
    """Refuse what cannot be meant, before anything is loaded."""
    if has_picture_name(question) or (not images and is_path(question)):
        raise typer.BadParameter(f"{question!r} is a picture, not a question; the question comes last")
    if len(images) > 1 and (folder := next((i for i in images if Path(i).is_dir()), None)):
        raise typer.BadParameter(f"{folder!r} is a folder; give one folder alone, or pictures")
    if save is None:
        return
    if not images:
        raise typer.BadParameter("there is no picture to draw on", param_hint="--save")
    if save.exists() and any(is_path(image) and save.samefile(image) for image in images):
        raise OLMoInputError(f"--save {str(save)!r} is what is read; choose another name, so that nothing is lost")
    if not Path(images[0]).is_dir():
        picture_format(save)
    elif save.is_file() or has_picture_name(save.name):
        raise OLMoInputError(f"--save {str(save)!r} is a file; the pictures of a folder are saved to a folder")


def _ask_once(images: list[str], question: str, choices: Choices, save: Path | None, as_json: bool) -> None:
    pictures = [load_picture(image) for image in images]
    session = Session(choices)
    text = _collect(session.ask(question, pictures), shown=not as_json)
    answer = Answer(text, session.name, tuple(images), pictures[0] if pictures else None)
    if as_json:
        typer.echo(json.dumps(answer.as_json()))
    if save is not None:
        _save(answer, save)


def _ask_each(paths: list[Path], question: str, choices: Choices, save: Path | None, as_json: bool) -> None:
    """One line an answer; a picture that cannot be read is reported and the others are answered."""
    session = Session(choices)
    has_failed = False
    for path in paths:
        try:
            picture = load_picture(path)
            text = _collect(session.ask(question, [picture]), shown=False)
        except OLMoError as error:
            typer.echo(f"error: {path.name}: {one_line(error)}", err=True)
            has_failed = True
            continue
        answer = Answer(text, session.name, (str(path),), picture)
        typer.echo(json.dumps(answer.as_json()) if as_json else f"{path.name}: {' '.join(text.split())}")
        if save is not None:
            _save(answer, save / f"{path.name}.png")
    if has_failed:
        raise typer.Exit(1)


def _collect(pieces: Iterable[str], shown: bool) -> str:
    """The whole text; printed while it comes where `shown`."""
    text = ""
    for piece in pieces:
        text += piece
        if shown:
            typer.echo(piece, nl=False)
    if shown:
        typer.echo()
    return text


def _save(answer: Answer, path: Path) -> None:
    answer.save_picture(path)
    typer.echo(f"{len(answer.points)} point(s) drawn on {path}", err=True)
