"""What the papers show works: every Python snippet runs as printed, every command line is one the program takes.

Snippets of a page run one after the other in one namespace, in a temporary folder that has the `examples` of the
project. See `doc_pages.py` for the comments that steer this.
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from doc_pages import Block, Page, pages, read_page
from source_tree import ROOT
from typer.testing import CliRunner

from olmo.cli.main import app
from olmo.exceptions import OLMoCheckpointError
from olmo.models.bundled import bundled_model_folder

PROGRAMS = {"molmo", "make", "python", "pip", "git", "cd", "hf", "source", "pre-commit"}
"""What a bash block may begin a line with."""

LANGUAGES = {"python", "bash", "yaml", "text", "json"}

WRONG_USAGE: Any = typer.BadParameter.__mro__[1]
"""What is raised for options and arguments that are not known: a class of click, or of typer's own copy of it."""


def has_bundled_model() -> bool:
    try:
        bundled_model_folder()
    except OLMoCheckpointError:
        return False
    return True


def require(page: Page) -> None:
    unknown = page.needs - {"bundled model"}
    assert not unknown, f"{page.name} needs {unknown}, which nobody knows how to check"
    if "bundled model" in page.needs and not has_bundled_model():
        pytest.skip(f"{page.name} needs the bundled model, and olmo/models/nano is not there")


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary current folder that looks like the project to a reader's commands."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def with_blocks(language: str) -> list[Page]:
    return [page for page in pages() if any(b.language == language for b in page.blocks)]


@pytest.mark.parametrize("page", with_blocks("python"), ids=lambda page: page.name)
def test_python_snippets_run(page: Page, workplace: Path) -> None:
    require(page)
    namespace: dict[str, object] = {"__name__": "__main__"}
    run(page.setup, namespace, f"setup of {page.name}", 1)
    printed = ""
    with torch.random.fork_rng():
        for block in page.blocks:
            if block.language == "python" and not block.note("not run"):
                printed = run(block.code, namespace, page.name, block.line)
            elif block.language == "text" and block.note("output"):
                assert printed == block.code, f"{page.name}:{block.line}: the snippet above printed\n{printed}"


def run(code: str, namespace: dict[str, object], name: str, line: int) -> str:
    """Execute a snippet and return what it printed. Error messages carry the page's own line numbers."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile("\n" * (line - 1) + code, name, "exec"), namespace)
    return out.getvalue()


def command_lines(block: Block) -> list[tuple[int, str]]:
    """(line, command) of a bash block; lines joined at a backslash, comments left out."""
    found, current, start = [], "", block.line
    for number, text in enumerate(block.code.splitlines(), start=block.line):
        if not current:
            start = number
        current += text.removesuffix("\\")
        if not text.endswith("\\"):
            if current.strip() and not current.lstrip().startswith("#"):
                found.append((start, current.strip()))
            current = ""
    return found


def bash_commands() -> list[tuple[str, Page, Block, str]]:
    return [
        (f"{page.name}:{line}", page, block, command)
        for page in with_blocks("bash")
        for block in page.blocks
        if block.language == "bash" and not block.note("not run")
        for line, command in command_lines(block)
    ]


@pytest.mark.parametrize(
    ("place", "page", "block", "command"), bash_commands(), ids=lambda v: v if isinstance(v, str) else ""
)
def test_command_lines_are_real(place: str, page: Page, block: Block, command: str, workplace: Path) -> None:
    words = shlex.split(command, comments=True)
    assert words[0] in PROGRAMS, f"{place}: {words[0]!r} is not one of {sorted(PROGRAMS)}"
    named = [w for w in words[1:] if w.startswith(("configs/", "examples/", "scripts/", "benchmarks/"))]
    assert all((ROOT / w).exists() for w in named), f"{place}: not all of {named} exist"
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        asked = {word for word in words[1:] if "=" not in word}
        assert asked <= set(targets), f"{place}: the Makefile has {targets}"
    elif words[0] == "python":
        script = next((w for w in words[1:] if not w.startswith("-")), None)
        assert script and (ROOT / script).is_file(), f"{place}: there is no {script}"
    elif words[0] == "molmo":
        check_parses(place, words[1:])
        if block.note("run"):
            require(page)
            result = CliRunner().invoke(app, words[1:])
            assert result.exit_code == 0, f"{place}: exit code {result.exit_code}\n{result.output}\n{result.exception}"
            shown = printed_by(page, block)
            assert shown is None or result.stdout == shown.code, f"{place}: the command printed\n{result.stdout}"


def printed_by(page: Page, block: Block) -> Block | None:
    """The block behind a bash block that shows what its command prints."""
    following = page.blocks[page.blocks.index(block) + 1 :][:1]
    if not following or not following[0].note("printed"):
        return None
    assert block.note("run") and len(command_lines(block)) == 1, f"{page.name}:{block.line}: show the output of one"
    return following[0]


def check_parses(place: str, words: list[str]) -> None:
    """Walk down the commands as the program would, without calling any."""
    command: Any = typer.main.get_command(app)
    context: Any = None
    rest = list(words)
    try:
        while True:
            context = command.make_context(command.name or "molmo", rest, parent=context)
            rest = [*context._protected_args, *context.args]
            if not hasattr(command, "resolve_command") or not rest:
                return
            _, command, rest = command.resolve_command(context, rest)
    except typer.Exit as stop:  # --help and --version end here
        assert stop.exit_code == 0, f"{place}: exit code {stop.exit_code}"
    except WRONG_USAGE as error:
        raise AssertionError(f"{place}: {error.format_message()}") from None


@pytest.mark.parametrize(
    "line", ["aks x.png What?", "ask", "serve --no-such-option", "data sho x", "doctor --json=3", "eval --limit x m t"]
)
def test_a_command_line_that_is_wrong_is_found(line: str) -> None:
    with pytest.raises(AssertionError, match="here: "):
        check_parses("here", line.split())


def test_every_block_says_what_it_is() -> None:
    wrong = [
        f"{page.name}:{block.line - 1}: a block of {block.language or 'nothing'!r}; use one of {sorted(LANGUAGES)}"
        for page in pages()
        for block in page.blocks
        if block.language not in LANGUAGES
    ]
    assert not wrong, "\n".join(wrong)


def test_blocks_that_are_not_run_say_why() -> None:
    wrong = [
        f"{page.name}:{block.line}"
        for page in pages()
        for block in page.blocks
        if (note := block.note("not run")) and not note.text
    ]
    assert not wrong, "\n".join(wrong)


def test_pages_are_read_as_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("doc_pages.ROOT", tmp_path)
    path = tmp_path / "page.md"
    path.write_text("<!-- setup:\nx = 1\n-->\nText.\n\n<!-- not run: slow -->\n```python\nx\n```\n\n```bash\nls\n```\n")
    page = read_page(path)
    assert page.setup == "x = 1"
    first, second = page.blocks
    assert (first.language, first.code, first.line) == ("python", "x\n", 8)
    assert first.note("not run") is not None and not second.notes
    assert page.prose().strip() == "Text."
