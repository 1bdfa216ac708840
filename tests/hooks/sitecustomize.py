"""Faults in the processes that a test starts: dies, or fails, at a step that the test names.

MASKMILL_FAULT is JSON: `who` ("child" or "parent"), `path` (a part of the path in hand), `nth`
(which of its touches), and `signal` (to die of, with `always` at every touch) or `errno` (to fail
with, then and ever after).
"""

import json
import os
import sys

_STEPS = {"open", "os.link", "os.rename", "os.remove"}


def _install(fault: dict) -> None:
    left = fault.get("nth", 1)

    def hook(event: str, arguments: tuple) -> None:
        nonlocal left
        if event not in _STEPS or not isinstance(arguments[0], str):
            return
        who = "child" if getattr(sys, "argv", [""])[0] == "-c" else "parent"
        if who != fault["who"] or fault["path"] not in arguments[0]:
            return
        left -= 1
        if left > 0:
            return
        if "errno" in fault:
            raise OSError(fault["errno"], "injected", arguments[0])
        if left == 0 or "always" in fault:
            os.kill(os.getpid(), fault["signal"])

    sys.addaudithook(hook)


if os.environ.get("MASKMILL_FAULT"):
    _install(json.loads(os.environ["MASKMILL_FAULT"]))
