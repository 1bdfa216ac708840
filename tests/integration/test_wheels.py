"""Every dependency of a board's worker has a wheel for arm64: asked of the index, not installed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

IMX = Path(__file__).parents[2] / "deploy" / "imx"


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_wheels_for_arm64(python: str, tmp_path: Path) -> None:
    listed = IMX / f"python{python}.txt"
    tags = re.findall(r"manylinux\S+aarch64", (IMX / "bundle").read_text())
    tags = [each for each in tags if "$" not in each]
    tags += [f"manylinux_2_{minor}_aarch64" for minor in (17, 24, 26, 27, 28, 31, 34, 35)]
    report = tmp_path / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--no-deps"]
    command += ["--ignore-installed", "--ignore-requires-python", "--only-binary=:all:"]
    command += ["--python-version", python, "--target", str(tmp_path / "none")]
    command += [word for tag in tags for word in ("--platform", tag)]
    done = subprocess.run(
        [*command, "--report", str(report), "-r", str(listed)], capture_output=True, text=True
    )
    if done.returncode != 0 and "CI" not in os.environ:
        pytest.skip(f"no package index here: {done.stderr.splitlines()[-1:]}")
    assert done.returncode == 0, done.stderr
    found = [
        Path(each["download_info"]["url"]).name
        for each in json.loads(report.read_text())["install"]
    ]
    assert len(found) == len(re.findall(r"^[a-z]", listed.read_text(), re.MULTILINE))
    assert all(re.search(r"-(any|\S*aarch64\S*)\.whl", each) for each in found), found
