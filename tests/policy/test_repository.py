"""The repository as a stranger meets it: nothing of a developer's machine in it, recipes load, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from doc_pages import Page, pages
from source_tree import ROOT, repository_files, text_of

from olmo.config import read_config_file
from olmo.models.auto import load_config
from olmo.train.train_config import TrainConfig

MACHINE_PATHS = re.compile(r"(?<![\w.~-])/(?:work|root|home|Users)/\w|(?<![\w/])[A-Z]:\\\\?Users\\")
"""Absolute paths that exist on one machine only."""

REGISTRY_HOSTS = re.compile(
    r"\b(?:pypi\.org|pythonhosted\.org|download\.pytorch\.org|npmjs\.(?:org|com)|conda\.anaconda\.org|"
    r"proxy\.golang\.org|index\.crates\.io)\b|(?:--|[\"' ])(?:extra-)?index-url[= ]\s*https?:",
    re.IGNORECASE,
)
"""A package index belongs to whoever installs, so none is written down here."""

WORKPLACE_WORDS = re.compile(
    r"co-authored-by|generated (?:with|by) (?:an? )?(?:ai|llm|assistant)|\.library/", re.IGNORECASE
)
"""How a change came about is not part of it."""

MAX_FILE_BYTES = 16 * 1024**2
VIDEO_WEIGHTS = ROOT / "olmo" / "models" / "nano_video" / "model.safetensors"
MAX_VIDEO_WEIGHTS_BYTES = 32 * 1024**2
"""What the model of clips was given from the start; the others have to do with less."""

THIS_FILE = Path(__file__).resolve()


def lines_of_text_files() -> list[tuple[str, str]]:
    found = []
    for path in repository_files():
        if path.resolve() == THIS_FILE or (text := text_of(path)) is None:
            continue
        name = path.relative_to(ROOT)
        found += [(f"{name}:{number}", line) for number, line in enumerate(text.splitlines(), start=1)]
    return found


@pytest.mark.parametrize(
    ("what", "pattern"),
    [("a path of one machine", MACHINE_PATHS), ("a registry host", REGISTRY_HOSTS), ("the workplace", WORKPLACE_WORDS)],
    ids=["machine", "registry", "workplace"],
)
def test_nothing_of_one_machine(what: str, pattern: re.Pattern[str]) -> None:
    wrong = [f"{place}: {line.strip()[:100]}" for place, line in lines_of_text_files() if pattern.search(line)]
    assert not wrong, f"{what} is written down:\n" + "\n".join(wrong)


def test_the_patterns_find_what_they_are_for() -> None:
    assert MACHINE_PATHS.search('open("/' + 'home/ann/x")') and not MACHINE_PATHS.search("olmo/home/x ~/work/y")
    assert REGISTRY_HOSTS.search("pip install torch --index-url https://x") and not REGISTRY_HOSTS.search("an index")


def test_files_are_small_and_of_known_kinds() -> None:
    large = [p for p in repository_files() if p.stat().st_size > MAX_FILE_BYTES and p != VIDEO_WEIGHTS]
    assert not large, f"over {MAX_FILE_BYTES} bytes: {large}"
    assert VIDEO_WEIGHTS.stat().st_size <= MAX_VIDEO_WEIGHTS_BYTES
    pickles = [p for p in repository_files() if p.suffix in {".pt", ".pth", ".bin", ".pkl", ".pickle", ".ckpt"}]
    assert not pickles, f"pickles: {pickles}"


def configuration_files() -> list[Path]:
    return sorted(p for p in (ROOT / "configs").rglob("*.y*ml"))


@pytest.mark.parametrize("path", configuration_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_every_configuration_loads(path: Path) -> None:
    values = read_config_file(path)
    if "run_dir" in values:
        recipe = TrainConfig.load(path)
        assert recipe.model is None or load_config(path.parent / recipe.model, recipe.model_overrides)
    else:
        assert load_config(path).asdict()["model_name"] == values["model_name"]


def test_workflows_and_hooks_are_yaml() -> None:
    for path in [ROOT / ".pre-commit-config.yaml", *(ROOT / "docs").glob("*.y*ml")]:
        assert yaml.safe_load(path.read_text(encoding="utf-8")), path


_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+\s+(.*)$", re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """Anchors of a page, made of its headings as GitHub makes them."""
    text = page.read_text(encoding="utf-8")
    return {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in _HEADING.findall(text)}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_links_lead_somewhere(page: Page) -> None:
    wrong = []
    for target in _LINK.findall(page.prose()):
        if target.startswith(("http://", "https://", "mailto:")):
            continue
        file, _, anchor = target.partition("#")
        path = (page.path.parent / file).resolve() if file else page.path
        if not path.exists():
            wrong.append(f"{page.name}: {target} does not exist")
        elif anchor and path.suffix == ".md" and anchor not in anchors(path):
            wrong.append(f"{page.name}: {path.name} has no heading for #{anchor}")
    assert not wrong, "\n".join(wrong)


def test_readme_leads_to_every_page() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    missing = [f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")) if f"(docs/{p.name}" not in text]
    assert not missing, f"README.md has no link to {missing}"


_CODE = re.compile(r"`([^`\n]+)`")
_FILE = re.compile(r"(?:olmo|docs|tests|configs|scripts|benchmarks|examples)/[\w./*-]+")


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_named_files_and_targets_exist(page: Page) -> None:
    """Files, `make` targets and modules that a page names in running text exist."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    wrong = []
    for code in _CODE.findall(page.prose()):
        if _FILE.fullmatch(code) and not list(ROOT.glob(code.rstrip("/"))):
            wrong.append(f"{page.name}: there is no {code}")
        elif found := re.fullmatch(r"make ([\w-]+)", code):
            if found.group(1) not in targets:
                wrong.append(f"{page.name}: the Makefile has no {found.group(1)}")
        elif re.fullmatch(r"olmo(\.\w+)+", code):
            parts = code.split(".")
            depths = range(1, len(parts) + 1)
            there = [ROOT.joinpath(*parts[:d]) for d in depths]
            if not any(p.with_suffix(".py").is_file() or p.is_dir() for p in there[1:]):
                wrong.append(f"{page.name}: there is no module {code}")
    assert not wrong, "\n".join(wrong)


def test_readme_says_what_works_with_a_command_for_each() -> None:
    """The table of what works names, in its last column, a command or a test that shows it; each exists."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## What works today")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 5, "the table of claims is missing"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for row in rows:
        shown = _CODE.findall(row.strip("|").split("|")[-1])
        assert shown, f"no command or test stands for: {row}"
        for item in shown:
            target = re.fullmatch(r"make ([\w-]+)", item)
            is_there = re.search(rf"^{target.group(1)}:", makefile, re.MULTILINE) if target else (ROOT / item).exists()
            assert is_there, f"{item} does not exist: {row}"
