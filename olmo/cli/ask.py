"""`molmo ask`: a question about pictures or videos, or the same question about each picture of a folder."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from olmo.cli.answer import Answer, picture_format
from olmo.cli.errors import one_line
from olmo.cli.option_groups import with_option_groups
from olmo.cli.options import Choices
from olmo.cli.pictures import has_picture_name, is_path, load_picture, pictures_in
from olmo.cli.session import Session
from olmo.cli.subject import Subject, open_subject
from olmo.cli.video_answer import VideoAnswer
from olmo.cli.video_options import VideoChoices
from olmo.cli.videos import has_video_name
from olmo.exceptions import OLMoError, OLMoInputError


@with_option_groups
def ask(
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PICTURE|VIDEO", help="Pictures, one folder of them, or a video or animation.", show_default=False
        ),
    ] = None,
    *,
    question: Annotated[
        str, typer.Argument(metavar="QUESTION", help="What to ask; always the last word of the command line.")
    ],
    choices: Choices,
    save: Annotated[
        Path | None,
        typer.Option(
            help="Write the picture with the points drawn on it (a folder's pictures go to a folder of this name), or "
            "a sheet of the frames that the model saw."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object (a folder: one a line).")] = False,
    video: VideoChoices,
) -> None:
    """Ask a question about pictures or a video."""
    paths = paths or []
    is_album = len(paths) == 1 and Path(paths[0]).is_dir() and not video.as_video
    _check_usage(paths, question, video)
    if save is not None:
        _check_target(save, paths, is_album)
    if is_album:
        _refuse_video_options(video)
        _ask_each(pictures_in(paths[0]), question, choices, save, as_json)
    else:
        _ask_once(open_subject(paths, video), question, choices, video, save, as_json)


def _check_usage(paths: list[str], question: str, video: VideoChoices) -> None:
    """Refuse what cannot be meant, before anything is opened or loaded."""
    if has_picture_name(question) or has_video_name(question) or (not paths and is_path(question)):
        raise typer.BadParameter(f"{question!r} is a picture or a video, not a question; the question comes last")
    if not video.as_video and len(paths) > 1 and (folder := next((p for p in paths if Path(p).is_dir()), None)):
        raise typer.BadParameter(
            f"{folder!r} is a folder; give one folder alone, or pictures, or --as-video where it holds frames"
        )


def _check_target(save: Path, paths: list[str], is_album: bool) -> None:
    """Refuse to write where nothing can be drawn, or over what is read."""
    if not paths:
        raise typer.BadParameter("there is no picture to draw on", param_hint="--save")
    read = [Path(path) for path in paths if is_path(path)]
    is_frame = not is_album and any(path.is_dir() and save.absolute().parent.samefile(path) for path in read)
    if is_frame or (save.exists() and any(save.samefile(path) for path in read)):
        raise OLMoInputError(f"--save {str(save)!r} is what is read; choose another name, so that nothing is lost")
    if not is_album:
        picture_format(save)
    elif save.is_file() or has_picture_name(save.name):
        raise OLMoInputError(f"--save {str(save)!r} is a file; the pictures of a folder are saved to a folder")


def _refuse_video_options(video: VideoChoices) -> None:
    if names := video.names():
        raise typer.BadParameter("there is no video that this could be about", param_hint=", ".join(names))


def _ask_once(
    subject: Subject, question: str, choices: Choices, video: VideoChoices, save: Path | None, as_json: bool
) -> None:
    if not subject.videos:
        _refuse_video_options(video)
    session = Session(choices, video if subject.videos else None)
    prepared = session.prepare(question, subject)
    text = _collect(session.stream(prepared), shown=not as_json)
    answer: Answer | VideoAnswer
    if subject.videos:
        answer = VideoAnswer(text, session.name, subject.names, prepared.clips)
    else:
        answer = Answer(text, session.name, subject.names, next(iter(subject.pictures), None))
    if as_json:
        typer.echo(json.dumps(answer.as_json()))
    if save is not None:
        typer.echo(answer.save(save), err=True)


def _ask_each(pictures: list[Path], question: str, choices: Choices, save: Path | None, as_json: bool) -> None:
    """One line an answer; a picture that cannot be read is reported and the others are answered."""
    session = Session(choices)
    has_failed = False
    for path in pictures:
        try:
            picture = load_picture(path)
            text = _collect(session.stream(session.prepare(question, Subject(pictures=(picture,)))), shown=False)
        except OLMoError as error:
            typer.echo(f"error: {path.name}: {one_line(error)}", err=True)
            has_failed = True
            continue
        answer = Answer(text, session.name, (str(path),), picture)
        typer.echo(json.dumps(answer.as_json()) if as_json else f"{path.name}: {' '.join(text.split())}")
        if save is not None:
            typer.echo(answer.save(save / f"{path.name}.png"), err=True)
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
