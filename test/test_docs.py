"""Pages name what exists: links, sections, files, commands and their options, experiments. Indexes have every page."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
WITH_COMMANDS = [
    *PAGES, ROOT / "README.md", *sorted((ROOT / "training" / "checkpoints").glob("*.md")),
    ROOT / "bev_perception" / "bundles" / "demo" / "MODEL_CARD.md",
]  # fmt: skip
SOURCES = [
    p for folder in ("bev_perception", "training", "test", "docs") for p in sorted((ROOT / folder).rglob("*.py"))
]


def names(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def shown(path: Path) -> str:
    """Without comments."""
    return re.sub(r"<!--.*?-->", "", path.read_text(), flags=re.DOTALL)


def anchor(heading: str) -> str:
    """As GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@cache
def anchors(path: Path) -> set[str]:
    return {anchor(line.lstrip("# ")) for line in path.read_text().splitlines() if re.match(r"#+ ", line)}


@cache
def options() -> set[str]:
    """Every option that some parser of the repository has."""
    text = "\n".join(path.read_text() for path in SOURCES)
    return set(re.findall(r'"(--[\w-]+)"', text)) | {"--help"}


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}


def module_file(module: str) -> Path | None:
    """Of a module that can be run with `python -m`."""
    path = ROOT.joinpath(*module.split("."))
    return next((p for p in (path.with_suffix(".py"), path / "__main__.py") if p.is_file()), None)


def commands(text: str) -> list[str]:
    """Indented or fenced lines of shell, with their continuations, and what is between backticks, without comments."""
    shell = re.sub(r"\\\n\s*", " ", text)
    lines = [line.strip() for line in shell.splitlines() if line.startswith("    ")]
    lines += re.findall(r"`([^`]+)`", shell)
    return [line.split(" # ")[0] for line in lines if re.search(r"\B-m (training|bev_perception|docs)", line)]


@pytest.mark.parametrize("path", PAGES, ids=names(PAGES))
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", shown(path)):
        if target.startswith("http"):
            continue
        file, _, section = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), f"{path.name} links to {target}"
        assert not section or section in anchors(found), f"{path.name} links to a section {target} that is not there"


def test_every_page_is_in_an_index() -> None:
    for folder in (ROOT / "docs", ROOT / "docs" / "lab_notes"):
        index = shown(folder / "README.md")
        missing = [
            page.name for page in folder.glob("*.md") if page.name != "README.md" and f"({page.name})" not in index
        ]
        assert not missing, f"{folder.name}/README.md does not list {missing}"


def test_pages_that_are_named_exist() -> None:
    named = {
        (str(path.relative_to(ROOT)), name)
        for path in [*WITH_COMMANDS, *SOURCES]
        for name in re.findall(r"\bdocs/[\w/]+\.(?:md|csv|json)", path.read_text())
    }
    assert len(named) > 20
    assert [where for where in sorted(named) if not (ROOT / where[1]).is_file()] == []


@pytest.mark.parametrize("path", PAGES, ids=names(PAGES))
def test_tables_have_as_many_cells_in_every_row(path: Path) -> None:
    rows = [line for line in path.read_text().splitlines()]
    for number, line in enumerate(rows):
        if re.fullmatch(r"\|( *:?-+:? *\|)+", line):
            table = rows[number - 1 :]
            end = next((i for i, row in enumerate(table) if not row.startswith("|")), len(table))
            assert {row.count("|") for row in table[:end]} == {line.count("|")}, f"{path.name}: {table[0]}"


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=names(WITH_COMMANDS))
def test_commands_name_modules_options_and_experiments_that_exist(path: Path) -> None:
    text = path.read_text()
    for command in commands(text):
        module = re.search(r"\B-m ((?:training|bev_perception|docs)[\w.]*)", command)
        assert module and module_file(module[1]), f"no module to run in: {command}"
        unknown = {o for o in re.findall(r"(?<=\s)--[\w-]+", command.partition(module[0])[2]) if o not in options()}
        assert not unknown, f"no options {unknown}: {command}"
    to_write = re.findall(r"^Write `([\w/]+)\.py`", text, re.MULTILINE)  # by the reader, test_extending.py does it
    for module_name, function in re.findall(r"\b(training\.experiments\.\w+):(\w+)", text):
        if module_name.replace(".", "/") in to_write:
            continue
        file = module_file(module_name)
        assert file and function in functions(file), f"{path.name} names {module_name}:{function}"


def test_no_recipe_needs_an_old_revision() -> None:
    assert [name for name, path in zip(names(WITH_COMMANDS), WITH_COMMANDS) if "git show" in path.read_text()] == []
