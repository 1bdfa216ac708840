"""Faults in the processes that a test starts: dies, fails or dawdles at a step that the test names.

MASKMILL_FAULT is JSON: one fault or a list of them. `who` is "child", "parent" or "all"; the step
is `path` (a part of the path in hand) or `call` ("module:function", with `when` "before" or
"after"), and `nth` counts its touches. What happens there:

signal   the process dies of it, with `always` at every touch; `kill` "parent" or "both" sends it to
         the process above instead, or to that one first
errno    it fails, then and ever after
raises   the built-in exception of that name is raised
sleep    it waits so many seconds

`ledger` is a path beside which each blow leaves a file: with it there are no more than `times` (1)
of them, over all processes. Without a step, `clock` is added to time.time, and `set` gives
attributes ("module:Class.name") other values.
"""

import builtins
import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

_STEPS = {"open", "os.link", "os.rename", "os.remove"}


def _who() -> str:
    return "child" if sys.orig_argv[1:2] == ["-c"] else "parent"


class _Fault:
    def __init__(self, fault: dict[str, Any]) -> None:
        self._fault = fault
        self._left = fault.get("nth", 1)

    def touch(self, what: str) -> None:
        self._left -= 1
        if self._left > 0:
            return
        if "errno" in self._fault and not self._spent():
            raise OSError(self._fault["errno"], "injected", what)
        if "errno" in self._fault:
            return
        if (self._left == 0 or "always" in self._fault) and not self._spent():
            self._strike()

    def _strike(self) -> None:
        fault = self._fault
        if "raises" in fault:
            raise getattr(builtins, fault["raises"])("injected")
        if "sleep" in fault:
            time.sleep(fault["sleep"])
            return
        if fault.get("kill") in ("parent", "both"):
            os.kill(os.getppid(), fault["signal"])
        if fault.get("kill") != "parent":
            os.kill(os.getpid(), fault["signal"])

    def _spent(self) -> bool:
        if "ledger" not in self._fault:
            return False
        for number in range(self._fault.get("times", 1)):
            try:
                flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
                os.close(os.open(f"{self._fault['ledger']}.{number}", flags))
                return False
            except FileExistsError:
                continue
        return True


def _watch_paths(fault: dict[str, Any]) -> None:
    made, path = _Fault(fault), fault["path"]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _STEPS:
            touched = next((a for a in arguments if isinstance(a, str) and path in a), None)
            if touched is not None:
                made.touch(touched)

    sys.addaudithook(hook)


def _found(name: str) -> tuple[Any, str]:
    """The object that holds an attribute, and the attribute's name."""
    module, _, rest = name.partition(":")
    holder: Any = importlib.import_module(module)
    *above, last = rest.split(".")
    for each in above:
        holder = getattr(holder, each)
    return holder, last


def _watch_calls(fault: dict[str, Any]) -> None:
    made = _Fault(fault)
    holder, name = _found(fault["call"])
    function: Callable[..., Any] = getattr(holder, name)

    def called(*arguments: Any, **options: Any) -> Any:
        if fault.get("when", "before") == "before":
            made.touch(fault["call"])
            return function(*arguments, **options)
        result = function(*arguments, **options)
        made.touch(fault["call"])
        return result

    setattr(holder, name, called)


def _turn_clock(seconds: float) -> None:
    real = time.time
    time.time = lambda: real() + seconds


def _install(fault: dict[str, Any]) -> None:
    if fault.get("who", "all") not in ("all", _who()):
        return
    if "clock" in fault:
        _turn_clock(fault["clock"])
    for name, value in fault.get("set", {}).items():
        setattr(*_found(name), value)
    if "path" in fault:
        _watch_paths(fault)
    if "call" in fault:
        _watch_calls(fault)


if os.environ.get("MASKMILL_FAULT"):
    _given = json.loads(os.environ["MASKMILL_FAULT"])
    for _each in _given if isinstance(_given, list) else [_given]:
        _install(_each)
