"""`molmo chat`: a conversation about pictures, in a terminal or from a pipe."""

from __future__ import annotations

import importlib.util
import shlex
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import Annotated

import numpy as np
import typer

from olmo.cli.errors import one_line
from olmo.cli.options import Adapter, Choices, Device, Dtype, MaxNewTokens, Model, Seed, Temperature
from olmo.cli.pictures import is_path, load_picture
from olmo.cli.session import Session
from olmo.exceptions import OLMoError, OLMoInputError

HELP = """\
/image PATH...  talk about other pictures (none: about no picture); a new conversation begins
/clear          begin a new conversation about the same pictures
/quit           leave, as Ctrl-D does; Ctrl-C stops an answer"""


def chat(
    images: Annotated[
        list[str] | None, typer.Argument(metavar="IMAGE", help="Pictures to talk about.", show_default=False)
    ] = None,
    model: Model = None,
    adapter: Adapter = None,
    max_new_tokens: MaxNewTokens = None,
    temperature: Temperature = None,
    seed: Seed = None,
    device: Device = None,
    dtype: Dtype = None,
) -> None:
    """Talk about pictures, turn by turn."""
    pictures = [load_picture(image) for image in images or ()]
    choices = Choices(
        model=model,
        adapter=adapter,
        device=device,
        dtype=dtype,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        seed=seed,
    )
    conversation = Conversation(Session(choices), pictures)
    is_interactive = sys.stdin.isatty()
    if is_interactive:
        if importlib.util.find_spec("readline"):
            importlib.import_module("readline")  # gives `input` a history and editing where the system has it
        typer.echo(f"{conversation.session.name}, {len(pictures)} picture(s)\n{HELP}", err=True)
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
    """Turns about a set of pictures.

    Args:
        session: the model.
        pictures: uint8 `[H, W, 3]`.
    """

    def __init__(self, session: Session, pictures: list[np.ndarray]) -> None:
        self.session = session
        self.pictures = pictures
        self.messages: list[dict[str, str]] = []

    def ask(self, question: str) -> Generator[str, None, None]:
        """The answer, piece by piece; both turns are kept, also where the answer is stopped half-way.

        A question that got no answer at all is forgotten.
        """
        text = ""
        asked = {"role": "user", "content": question}
        try:
            for piece in self.session.stream([*self.messages, asked], self.pictures):
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
        conversation.pictures = [load_picture(path) for path in _paths(rest.strip())]
        conversation.messages.clear()
    elif command == "/help":
        typer.echo(HELP, err=True)
    else:
        raise OLMoInputError(f"{command} is not a command; there are /image PATH..., /clear, /help and /quit")
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
