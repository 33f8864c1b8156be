"""`molmo chat`: a conversation about pictures or videos, in a terminal or from a pipe."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import replace
from typing import Annotated

import typer

from olmo.cli.errors import one_line
from olmo.cli.option_groups import with_option_groups
from olmo.cli.options import Choices
from olmo.cli.pictures import is_path
from olmo.cli.session import Session, about
from olmo.cli.subject import NOTHING, Subject, open_subject
from olmo.cli.video_options import VideoChoices
from olmo.exceptions import OLMoError, OLMoInputError

HELP = """\
/image PATH...  talk about other pictures (none: about no picture); a new conversation begins
/video PATH...  talk about a video, an animation or a folder of frames; a new conversation begins
/clear          begin a new conversation about the same pictures or video
/quit           leave, as Ctrl-D does; Ctrl-C stops an answer"""


@with_option_groups
def chat(
    paths: Annotated[
        list[str] | None,
        typer.Argument(metavar="PICTURE|VIDEO", help="Pictures, or a video, to talk about.", show_default=False),
    ] = None,
    *,
    choices: Choices,
    video: VideoChoices,
) -> None:
    """Talk about pictures or a video, turn by turn."""
    subject = open_subject(paths or [], video)
    if not subject.videos and (names := video.of_one_clip()):
        raise typer.BadParameter("there is no video that this could be about", param_hint=", ".join(names))
    conversation = Conversation(Session(about(subject, choices), video), subject, video.for_later_clips())
    is_interactive = sys.stdin.isatty()
    if is_interactive:
        if importlib.util.find_spec("readline"):
            importlib.import_module("readline")  # gives `input` a history and editing where the system has it
        typer.echo(f"{conversation.session.name}, {subject}\n{HELP}", err=True)
    has_failed = False
    for line in _lines("> " if is_interactive else ""):
        try:
            if not _take(conversation, line):
                break
        except OLMoError as error:
            typer.echo(f"error: {one_line(error)}", err=True)
            has_failed = True
    if has_failed and not is_interactive:
        raise typer.Exit(1)


class Conversation:
    """Turns about pictures or videos.

    Args:
        session: the model.
        subject: what is talked about.
        video: how videos that are named later are opened.
    """

    def __init__(self, session: Session, subject: Subject = NOTHING, video: VideoChoices | None = None) -> None:
        self.session = session
        self.subject = subject
        self.video = video or VideoChoices()
        self.messages: list[dict[str, str]] = []

    def turn_to(self, paths: list[str], as_video: bool = False) -> None:
        """Begin anew about other pictures or videos; where they cannot be read, nothing changes."""
        subject = open_subject(paths, replace(self.video, as_video=as_video))
        self.subject.close()
        self.subject = subject
        self.messages.clear()

    def ask(self, question: str) -> Generator[str, None, None]:
        """The answer, piece by piece; both turns are kept, also where the answer is stopped half-way.

        A question that got no answer at all is forgotten.
        """
        text = ""
        asked = {"role": "user", "content": question}
        try:
            for piece in self.session.stream(self.session.prepare([*self.messages, asked], self.subject)):
                text += piece
                yield piece
        finally:
            if text.strip():
                self.messages += [asked, {"role": "assistant", "content": text}]


def _lines(prompt: str) -> Iterator[str]:
    """What is typed, without blank lines; Ctrl-C drops a line that is being typed."""
    while True:
        try:
            line = input(prompt).strip()
        except EOFError:
            if prompt:
                typer.echo()
            return
        except KeyboardInterrupt:
            if not prompt:
                raise
            typer.echo()
            continue
        if line:
            yield line


def _take(conversation: Conversation, line: str) -> bool:
    """Answer a line or do what it says; False to leave."""
    if not line.startswith("/"):
        _answer(conversation, line)
        return True
    command, _, rest = line.partition(" ")
    if command == "/quit":
        return False
    if command == "/clear":
        conversation.messages.clear()
    elif command == "/image":
        conversation.turn_to(_paths(rest.strip()))
    elif command == "/video":
        if not rest.strip():
            raise OLMoInputError("/video takes the path of a video; /image alone leaves all pictures and videos")
        conversation.turn_to(_paths(rest.strip()), as_video=True)
    elif command == "/help":
        typer.echo(HELP, err=True)
    else:
        raise OLMoInputError(
            f"{command} is not a command; there are /image PATH..., /video PATH..., /clear, /help and /quit"
        )
    return True


def _paths(text: str) -> list[str]:
    """Paths as a shell would read them, or one path with blanks in it."""
    if not text or is_path(text):
        return [text] if text else []
    try:
        return shlex.split(text)
    except ValueError as error:
        raise OLMoInputError(f"cannot read the paths in {text!r}: {error}") from None


def _answer(conversation: Conversation, question: str) -> None:
    with closing(conversation.ask(question)) as pieces:
        try:
            for piece in pieces:
                typer.echo(piece, nl=False)
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            typer.echo(" (stopped)", nl=False, err=True)
    typer.echo()
