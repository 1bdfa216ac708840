"""What a board gets by `deploy/imx/bundle` is all that the worker needs, at versions that fit."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMX = Path(__file__).parents[2] / "deploy" / "imx"
CONSTRAINTS = IMX.parents[1] / "constraints.txt"
PYTHONS = ("3.11", "3.12", "3.13")
# Left out on purpose: boards have no use for it, and it is the largest of all.
WITHOUT = {"onnxruntime"}


def pinned(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ \n]+)", path.read_text(), re.MULTILINE))


def needed(python: str) -> set[str]:
    """Names of everything that the worker needs on a board, and what those need in turn."""
    board = {
        "python_version": python,
        "python_full_version": f"{python}.0",
        "platform_machine": "aarch64",
        "sys_platform": "linux",
    }
    found: set[str] = set()
    waiting = [("maskmill", frozenset({"", "worker"}))]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        name, extras = waiting.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            lines = requires(name) or ()
        except PackageNotFoundError:  # needed by the oldest patch release of that Python only
            continue
        for line in lines:
            each = Requirement(line)
            wanted = each.marker is None or any(
                each.marker.evaluate({**board, "extra": extra}) for extra in extras
            )
            needs = canonicalize_name(each.name)
            if wanted and needs not in WITHOUT:
                found.add(needs)
                waiting.append((needs, frozenset({"", *each.extras})))
    return found


@pytest.mark.parametrize("python", PYTHONS)
def test_the_list_of_a_bundle_is_complete(python: str) -> None:
    listed = set(pinned(IMX / f"python{python}.txt")) - {"tflite-runtime"}
    assert listed == needed(python)


@pytest.mark.parametrize("python", PYTHONS)
def test_boards_run_the_versions_that_are_tested(python: str) -> None:
    board, here = pinned(IMX / f"python{python}.txt"), pinned(CONSTRAINTS)
    own = {"numpy", "opencv-python-headless", "ml-dtypes", "av", "tflite-runtime"}
    assert {name: v for name, v in board.items() if name not in own} == {
        name: here[name] for name in board if name not in own
    }
    if python != "3.13":
        assert board["numpy"].startswith("1.26."), "the BSP's tflite_runtime wants numpy 1"


def test_the_unit_can_be_watched_and_may_write_only_its_own() -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(IMX / "maskmill-edge.service")
    service = parser["Service"]
    assert (service["Type"], service["NotifyAccess"]) == ("notify", "all")
    assert service["User"] == "maskmill"
    settings = dict(re.findall(r"^(\w+)=(.*)$", (IMX / "maskmill.env").read_text(), re.MULTILINE))
    spool, cache = Path(settings["MASKMILL_SPOOL"]), Path(settings["XDG_CACHE_HOME"])
    assert spool.parent == Path("/var/lib") / service["StateDirectory"]
    assert cache == Path("/run") / service["RuntimeDirectory"]
    grace = float(service["ExecStart"].split("--grace ")[1])
    assert float(service["TimeoutStopSec"].removesuffix("s")) > grace + 15


@pytest.mark.parametrize("own", [True, False])
def test_the_interpreter_of_the_board_comes_before_that_of_the_bundle(
    tmp_path: Path, own: bool
) -> None:
    bundle, board, place = tmp_path / "bundle", tmp_path / "board", tmp_path / "maskmill"
    pip = bundle / "wheels" / "pip-1.whl" / "pip"
    for folder in (pip, board / "bin", board / "lib"):
        folder.mkdir(parents=True)
    (board / "bin" / "python3").symlink_to(sys.executable)
    if own:
        (board / "lib" / "tflite_runtime.py").touch()
    (pip / "__main__.py").write_text(
        "import os, sys\n"
        "there = sys.argv[sys.argv.index('--target') + 1]\n"
        "for name in ('bin', 'tflite_runtime', 'tflite_runtime-2.14.0.dist-info'):\n"
        "    os.makedirs(os.path.join(there, name))\n"
        "open(os.path.join(there, 'bin', 'maskmill'), 'w').close()\n"
    )
    version = "{}.{}".format(*sys.version_info)
    (bundle / "versions.txt").write_text(f"# For a board whose Python is {version}. Made by x.\n")
    script = (IMX / "install").read_text()
    script = script.replace("/run/systemd/system", str(tmp_path / "none"))  # no unit, no user
    (bundle / "install").write_text(script)
    path = f"{board / 'bin'}:{os.environ['PATH']}"
    variables = {**os.environ, "PATH": path, "PYTHONPATH": str(board / "lib")}
    command = ["sh", str(bundle / "install"), str(place)]
    ran = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert "maskmill is in" in ran.stdout, ran.stderr
    assert (place / "lib" / "tflite_runtime").exists() != own
    assert bool(list((place / "lib").glob("tflite_runtime-*"))) != own
