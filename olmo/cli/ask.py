"""`molmo ask`: a question about pictures or videos, or the same question about each picture of a folder."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, NamedTuple

import typer

from olmo.cli.answer import Answer, picture_format
from olmo.cli.errors import one_line
from olmo.cli.option_groups import with_option_groups
from olmo.cli.options import Choices
from olmo.cli.pictures import has_picture_name, is_path, load_picture, pictures_in
from olmo.cli.selection import Selection
from olmo.cli.session import Session, about, require_he_molmo
from olmo.cli.subject import Subject, open_subject
from olmo.cli.video_answer import VideoAnswer
from olmo.cli.video_options import VideoChoices
from olmo.cli.videos import has_video_name
from olmo.exceptions import OLMoError, OLMoInputError
from olmo.models.tensor_parallel import leave_processes
from olmo.torch_util import launch_facts

SAVE_SELECTION = "--save-selection"


class Targets(NamedTuple):
    """Where pictures are written to, if anywhere."""

    answer: Path | None
    """With points, or a sheet of frames."""

    selection: Path | None
    """With the tokens that were kept."""


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
    save_selection: Annotated[
        Path | None,
        typer.Option(help="Write the pictures or frames with the tokens that a HeMolmo kept; one question, no folder."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object (a folder: one a line).")] = False,
    tensor_parallel: Annotated[
        bool,
        typer.Option("--tensor-parallel", help="Answer together with the other processes that torchrun started."),
    ] = False,
    video: VideoChoices,
) -> None:
    """Ask a question about pictures or a video."""
    paths = paths or []
    is_album = len(paths) == 1 and Path(paths[0]).is_dir() and not video.as_video
    _check_usage(paths, question, video)
    if save is not None:
        _check_target(save, paths, is_album, "--save")
    if save_selection is not None:
        _check_selection_target(save_selection, save, paths, is_album)
    targets = Targets(save, save_selection)
    with _one_voice(tensor_parallel) as is_heard:
        if not is_heard:
            targets = Targets(None, None)
        if is_album:
            _refuse_video_options(video)
            session = Session(choices, tensor_parallel=tensor_parallel)
            _ask_each(session, pictures_in(paths[0]), question, targets.answer, as_json)
        else:
            subject = open_subject(paths, video)
            choices = about(subject, choices)
            if save_selection is not None:
                require_he_molmo(choices, "--save-selection")
            if not subject.videos:
                _refuse_video_options(video)
            session = Session(choices, video if subject.videos else None, tensor_parallel)
            _ask_once(session, subject, question, targets, as_json)


@contextmanager
def _one_voice(tensor_parallel: bool) -> Iterator[bool]:
    """Of several processes that answer together only the first prints; yields whether this one does."""
    if not tensor_parallel:
        yield True
        return
    is_heard = launch_facts().rank == 0
    try:
        with nullcontext() if is_heard else redirect_stdout(io.StringIO()):
            yield is_heard
    finally:
        leave_processes()


def _check_usage(paths: list[str], question: str, video: VideoChoices) -> None:
    """Refuse what cannot be meant, before anything is opened or loaded."""
    if has_picture_name(question) or has_video_name(question) or (not paths and is_path(question)):
        raise typer.BadParameter(f"{question!r} is a picture or a video, not a question; the question comes last")
    if not video.as_video and len(paths) > 1 and (folder := next((p for p in paths if Path(p).is_dir()), None)):
        raise typer.BadParameter(
            f"{folder!r} is a folder; give one folder alone, or pictures, or --as-video where it holds frames"
        )


def _check_target(save: Path, paths: list[str], is_album: bool, option: str) -> None:
    """Refuse to write where nothing can be drawn, or over what is read."""
    if not paths:
        raise typer.BadParameter("there is no picture to draw on", param_hint=option)
    read = [Path(path) for path in paths if is_path(path)]
    is_frame = not is_album and any(path.is_dir() and save.absolute().parent.samefile(path) for path in read)
    if is_frame or (save.exists() and any(save.samefile(path) for path in read)):
        raise OLMoInputError(f"{option} {str(save)!r} is what is read; choose another name, so that nothing is lost")
    if not is_album:
        picture_format(save)
    elif save.is_file() or has_picture_name(save.name):
        raise OLMoInputError(f"{option} {str(save)!r} is a file; the pictures of a folder are saved to a folder")


def _check_selection_target(target: Path, save: Path | None, paths: list[str], is_album: bool) -> None:
    if is_album:
        raise typer.BadParameter("shows one question; name the pictures, not their folder", param_hint=SAVE_SELECTION)
    _check_target(target, paths, is_album, SAVE_SELECTION)
    if save is not None and target.absolute() == save.absolute():
        raise OLMoInputError(f"--save and {SAVE_SELECTION} are both {str(save)!r}; give each a name of its own")


def _refuse_video_options(video: VideoChoices) -> None:
    if names := video.names():
        raise typer.BadParameter("there is no video that this could be about", param_hint=", ".join(names))


def _ask_once(session: Session, subject: Subject, question: str, targets: Targets, as_json: bool) -> None:
    prepared = session.prepare(question, subject)
    text, selection = session.answer(prepared, None if as_json else _show)
    answer: Answer | VideoAnswer
    if subject.videos:
        answer = VideoAnswer(text, session.name, subject.names, prepared.clips)
    else:
        answer = Answer(text, session.name, subject.names, next(iter(subject.pictures), None))
    if as_json:
        typer.echo(_plain(answer, selection))
    else:
        typer.echo()
    if targets.selection is not None:
        assert selection is not None, "other models are refused before they are loaded"
        typer.echo(selection.save(targets.selection, subject.names), err=True)
    if targets.answer is not None:
        typer.echo(answer.save(targets.answer), err=True)


def _ask_each(session: Session, pictures: list[Path], question: str, save: Path | None, as_json: bool) -> None:
    """One line an answer; a picture that cannot be read is reported and the others are answered."""
    has_failed = False
    for path in pictures:
        try:
            picture = load_picture(path)
            text, selection = session.answer(session.prepare(question, Subject(pictures=(picture,))))
        except OLMoError as error:
            typer.echo(f"error: {path.name}: {one_line(error)}", err=True)
            has_failed = True
            continue
        answer = Answer(text, session.name, (str(path),), picture)
        typer.echo(_plain(answer, selection) if as_json else f"{path.name}: {' '.join(text.split())}")
        if save is not None:
            typer.echo(answer.save(save / f"{path.name}.png"), err=True)
    if has_failed:
        raise typer.Exit(1)


def _show(piece: str) -> None:
    typer.echo(piece, nl=False)


def _plain(answer: Answer | VideoAnswer, selection: Selection | None) -> str:
    """One line of JSON."""
    chosen = {} if selection is None else {"selection": selection.as_json()}
    return json.dumps({**answer.as_json(), **chosen})
