"""The real command in a process of its own, as a person runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MASKMILL = str(Path(sys.executable).parent / "maskmill")
HOOKS = str(Path(__file__).parent / "hooks")


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def environment(fault: dict[str, Any] | None = None, **variables: str) -> dict[str, str]:
    """This process's environment, with faults for the processes started with it."""
    changed = os.environ | variables
    if fault is not None:
        paths = [HOOKS, *filter(None, [changed.get("PYTHONPATH")])]
        changed |= {"PYTHONPATH": os.pathsep.join(paths), "MASKMILL_FAULT": json.dumps(fault)}
    return changed


def maskmill(
    *arguments: object,
    fault: dict[str, Any] | None = None,
    stdin: str = "",
    cwd: Path | None = None,
    **variables: str,
) -> Ran:
    done = subprocess.run(
        [MASKMILL, *map(str, arguments)],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env=environment(fault, **variables),
        check=False,
    )
    return Ran(done.returncode, done.stdout, done.stderr)
