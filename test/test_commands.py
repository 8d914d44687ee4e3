"""Every command that README.md and docs/*.md name is there and understands its arguments; the quick ones are run.

A command is parsed by its own parser, as it is written. Where a page leaves something out (`...`) or shows what may be
added (`[--force]`), only the names of its options are checked.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from test_packaging import entry_points

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
PROGRAM = re.compile(r"([A-Z_]+=\S+ )*((python3?|torchrun.*) -m \w|ros2 (run|launch) bev_perception|make \w)")
FUNCTION = re.compile(r"[a-z_]+(\.[a-z_0-9]+)+:\w+")  # package.module:function
# Modules that the reader of a worked example writes; test_extending.py does so.
EXAMPLES = re.findall(r"^Write `([\w/]+)\.py`", (ROOT / "docs" / "extending.md").read_text(), re.MULTILINE)
TO_WRITE = {path.replace("/", ".") for path in EXAMPLES}
LAUNCH_FILES = {path.name: path for path in ROOT.glob("launch/*.launch.py")}


@dataclass(frozen=True)
class Command:
    """place: page and the text. kind: `module`, `ros2 run`, `ros2 launch` or `make`; name: which one of that kind."""

    place: str
    kind: str
    name: str
    arguments: tuple[str, ...]

    @property
    def complete(self) -> bool:
        return not any("..." in word or word.startswith("[") for word in self.arguments)


def written(page: str) -> Iterator[str]:
    """Texts of a page that begin like a command: lines of code blocks, and what stands between backquotes."""
    prose = []
    fenced = False
    for line in page.replace("\\\n", " ").splitlines():
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif fenced or line.startswith("    "):
            yield from (part.strip() for part in line.split("&&"))
        else:
            prose.append(line)
    yield from (" ".join(code.split()) for code in re.findall(r"`([^`]+)`", "\n".join(prose)))


def parsed(text: str, page: str) -> Command:
    words = shlex.split(text, comments=True)
    while "=" in words[0]:  # VARIABLE=value before the program
        words.pop(0)
    place = f"{page}: {' '.join(words)}"
    if words[0] == "make":
        return Command(place, "make", "", tuple(words[1:]))
    if words[0] == "ros2":
        return Command(place, f"ros2 {words[1]}", words[3], tuple(words[4:]))
    module = words.index("-m") + 1
    return Command(place, "module", words[module], tuple(words[module + 1 :]))


def commands() -> list[Command]:
    named = {str(page.relative_to(ROOT)): page.read_text() for page in PAGES}
    texts = {(name, text) for name, page in named.items() for text in written(page) if PROGRAM.match(text)}
    found = [parsed(text, page) for page, text in sorted(texts)]
    return [command for command in found if command.name != "..."]


COMMANDS = commands()


def of_kind(kind: str) -> Any:
    chosen = [command for command in COMMANDS if command.kind == kind]
    return pytest.mark.parametrize("command", chosen, ids=[command.place for command in chosen])


class Understood(BaseException):
    """Ends a command where its arguments have been parsed."""


def all_options(parser: argparse.ArgumentParser) -> set[str]:
    names = set(parser._option_string_actions)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            names = names.union(*(all_options(sub) for sub in action.choices.values()))
    return names


def check_module(command: Command, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module is there, its parser takes the arguments, and functions named in them exist."""
    for package in ("bev_perception.ros", "training"):
        if module.startswith(package):
            pytest.importorskip({"training": "torch"}.get(package, "rclpy"), reason=f"{package} needs it")
    spec = importlib.util.find_spec(module)
    assert spec is not None, f"there is no module {module}"
    name = f"{module}.__main__" if spec.submodule_search_locations else module
    program = importlib.import_module(name)
    source = Path(program.__file__).read_text()
    assert "__main__" in source or name.endswith("__main__"), f"{module} is not to be run"
    for word in filter(FUNCTION.fullmatch, command.arguments):
        where, function = word.split(":")
        if where in TO_WRITE:
            continue
        assert callable(getattr(importlib.import_module(where), function))
    if "ArgumentParser" not in source:
        return
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> None:
        if command.complete:
            parse(parser, args, namespace)
        else:
            given = {
                re.split(r"[]=]", word.lstrip("["))[0] for word in command.arguments if word.lstrip("[")[:2] == "--"
            }
            assert given <= all_options(parser), f"{sorted(given - all_options(parser))}: no options of {module}"
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
    monkeypatch.setattr(program, "init_ros", lambda args: None, raising=False)
    with pytest.raises(Understood):
        program.main(list(command.arguments))


@of_kind("module")
def test_module_understands_its_arguments(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    check_module(command, command.name, monkeypatch)


@of_kind("ros2 run")
def test_ros2_run_names_an_entry_point(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert command.name in entry_points()
    if command.arguments:
        check_module(command, entry_points()[command.name].split(":")[0], monkeypatch)


@of_kind("ros2 launch")
def test_ros2_launch_passes_what_the_file_declares(command: Command) -> None:
    declared = re.findall(r'DeclareLaunchArgument\(\s*"(\w+)"', LAUNCH_FILES[command.name].read_text())
    assert {word.split(":=")[0] for word in command.arguments if ":=" in word} <= set(declared)


@of_kind("make")
def test_make_has_target_and_variables(command: Command) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in command.arguments:
        known = rf"^{word.split('=')[0]} \?=" if "=" in word else rf"^{re.escape(word)}:"
        assert re.search(known, makefile, re.MULTILINE), f"the Makefile has no {word}"


def test_every_command_is_on_the_page_of_commands() -> None:
    listed = {(c.kind, c.name) for c in COMMANDS if c.place.startswith("docs/commands.md")}
    modules = set()
    for part in ("bev_perception", "training", "docs"):
        for path in ROOT.glob(f"{part}/**/*.py"):
            if '\nif __name__ == "__main__":' in path.read_text():
                modules.add(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__"))
    assert modules == {name for kind, name in listed if kind == "module"}
    assert set(entry_points()) == {name for kind, name in listed if kind == "ros2 run"}
    assert set(LAUNCH_FILES) == {name for kind, name in listed if kind == "ros2 launch"}
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)[1].split()
    page = [c for c in COMMANDS if c.place.startswith("docs/commands.md")]
    made = {word for c in page if c.kind == "make" for word in c.arguments}
    assert set(targets) - {"help"} <= made


def test_a_wrong_command_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = "python -m bev_perception.replay BAG --bundle B"
    check_module(parsed(right, ""), "bev_perception.replay", monkeypatch)
    for wrong in (
        f"{right} --bag X",
        "python -m bev_perception.replay BAG",
        f"{right} ... --bag",
        f"{right} [--bag X]",
    ):
        with pytest.raises((SystemExit, AssertionError)):
            check_module(parsed(wrong, ""), "bev_perception.replay", monkeypatch)
    with pytest.raises(AssertionError, match="there is no module"):
        check_module(parsed("python -m bev_perception.play", ""), "bev_perception.play", monkeypatch)


# Commands of the README that take seconds on the small data set. Training would take hours: it prints the run instead.
SMALL = {"bev_perception.replay", "training.evaluate", "training.export", "training.train"}
QUICK = [c for c in COMMANDS if c.place.startswith("README.md") and c.name in SMALL and c.complete]


def small(command: Command, dataset: Path, checkpoint: Path, bag: Path) -> list[str]:
    """The arguments with data set, checkpoint and bag of the tests in place of the user's."""
    shipped = [ROOT / word for word in command.arguments if word.endswith(".ckpt") and (ROOT / word).is_file()]
    words = ["--print-config"] if command.name == "training.train" else []
    for before, word in zip(("", *command.arguments), command.arguments):
        if before in ("--data", "--golden-data"):
            word = str(dataset)
        elif word.endswith(".ckpt") and "=" not in word and before != "--out":
            word = str(next(iter(shipped), checkpoint))
        elif word == "BAG":
            word = str(bag)
        elif (ROOT / word).exists():
            word = str(ROOT / word)
        words.append(word)
    return words


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of a synthetic drive with all sensors of the shipped model."""
    from training.world.bag_writer import BagSettings, write_bag

    path = tmp_path_factory.mktemp("bag") / "drive"
    write_bag(path, BagSettings(seed=903, duration_s=1.0, scale=0.04), workers=1)
    return path


def test_quick_commands_are_in_the_readme() -> None:
    assert {command.name for command in QUICK} == SMALL


@pytest.mark.parametrize("command", QUICK, ids=[command.place for command in QUICK])
def test_quick_command_runs_on_the_small_set(
    command: Command,
    tiny_dataset: Path,
    tiny_checkpoint: Path,
    bag: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    program = importlib.import_module(command.name)
    assert program.main(small(command, tiny_dataset, tiny_checkpoint, bag)) == 0
    assert capsys.readouterr().out
