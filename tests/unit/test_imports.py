"""Imports go one way, and the producer side needs no numpy, OpenCV or runtime."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
import typer

from tasks import cli_options
from tasks.cli import app
from tasks.exits import ended
from tests.running import MASKMILL

ROOT = Path(__file__).parents[2]
HEAVY = ("numpy", "cv2", "PIL", "onnxruntime", "pycocotools", "worker")
PRODUCER = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace("/", ".").removesuffix(".__init__")
    for package in ("storage", "tasks")
    for path in (ROOT / package).rglob("*.py")
)


def test_the_producer_side_loads_nothing_heavy() -> None:
    """Every module of `tasks` and `storage`, imported in a fresh interpreter."""
    code = (
        f"import sys; [__import__(name) for name in {PRODUCER!r}];"
        f" print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("package", "allowed"), [("storage", {"storage"}), ("tasks", {"storage", "tasks"})]
)
def test_imports_go_one_way(package: str, allowed: set[str]) -> None:
    ours = {"storage", "tasks", "worker"}
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            tops = {name.partition(".")[0] for name in names} & ours
            assert tops <= allowed, f"{path} imports {tops - allowed}"


def leaves(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    if not hasattr(command, "commands"):
        yield name, command
    for word, each in getattr(command, "commands", {}).items():
        yield from leaves(f"{name} {word}", each)


COMMANDS = dict(leaves("maskmill", typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_what_a_command_calls_takes_what_is_typed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bound = []

    def binding(target: str) -> Callable[..., Any]:
        found = resolve_name(target)
        if found is ended:
            return ended
        called = inspect.signature(found)
        return lambda **typed: bound.append(called.bind(**typed)) or 0

    monkeypatch.setattr(cli_options, "resolve_name", binding)
    command = COMMANDS[name]
    with pytest.raises(typer.Exit):
        command.callback(**{each.name: None for each in command.params if each.name != "help"})
    assert bound, "or else it ended with a sentence"


def test_the_examples_of_the_help_can_be_typed() -> None:
    tried = 0
    for name, command in COMMANDS.items():
        for example in re.findall(r"^(?: *|Example: )(maskmill .*)", command.help, re.MULTILINE):
            typed = shlex.split(example)[len(name.split()) :]
            assert example.startswith(name)
            command.make_context(name, typed)
            tried += 1
    assert tried > 15


def test_help_starts_without_celery_or_boto() -> None:
    code = (
        "import sys; from tasks.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('celery', 'botocore', 'ijson') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
    start = time.perf_counter()
    subprocess.run([MASKMILL, "--help"], capture_output=True, check=True)
    print(f"maskmill --help: {time.perf_counter() - start:.2f} s")


def test_a_command_without_its_extra_says_which_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    monkeypatch.delitem(sys.modules, "worker.evaluate", raising=False)
    with pytest.raises(SystemExit) as left:
        app(["eval", "out", "--gt", "truth.json"])
    assert left.value.code == 2
    assert "pip install 'maskmill[worker]'" in capsys.readouterr().err
