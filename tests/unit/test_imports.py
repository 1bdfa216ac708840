"""Imports go one way, and the producer side needs no numpy, OpenCV or runtime."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import typer

from tasks.cli_options import end
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


NAMED = [
    pytest.param(*found, id=found[1])
    for path in (ROOT / "tasks").glob("cli*.py")
    for found in re.findall(r'"((?:tasks|worker)\.\w+):(\w+)"', path.read_text())
]


@pytest.mark.parametrize(("module", "name"), NAMED)
def test_what_the_command_calls_by_name_is_there(module: str, name: str) -> None:
    said = inspect.signature(getattr(import_module(module), name)).parameters.values()
    needed = [each.name for each in said if each.default is each.empty]
    assert needed[-1] == "as_json"


def test_help_starts_without_celery_or_boto() -> None:
    code = (
        "import sys; from tasks.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('celery', 'botocore', 'msgspec') if name in sys.modules])"
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
    with pytest.raises(typer.Exit) as ended:
        end("worker.evaluate:evaluate", "out", "truth.json", False)
    assert ended.value.exit_code == 2
    assert "pip install 'maskmill[worker]'" in capsys.readouterr().err
