"""The delegates that bring a network onto an i.MX board's NPU, and whether one can be trusted."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.board import board
from tasks.cards import ModelError
from tasks.shelf import cache_folder
from worker.settings import WorkerSettings

log = logging.getLogger("maskmill.worker")

Raw = Mapping[str, NDArray[np.float32]]

# The board's delegate, in /usr/lib/lib…_delegate.so.
BOARDS = {"imx8mp": "vx", "imx93": "ethosu", "imx95": "neutron"}
# What each one reads; Neutron's takes any option and reads none.
_OPTIONS = {
    "vx": "allowed_cache_mode cache_file_path device_id allowed_builtin_code error_during_init"
    " error_during_prepare error_during_invoke",
    "ethosu": "device_name timeout cache_file_path enable_cycle_counter enable_profiling"
    " profiling_buffer_size pmu_event0 pmu_event1 pmu_event2 pmu_event3",
    "neutron": "",
}
# Operators of converted files, which only that delegate runs.
_OPERATORS = {"ethos-u": "ethosu", "NeutronGraph": "neutron"}
_LIKE = 0.9  # least concordance of an output with the CPU's, see `_concordance`


class Unfit(ModelError):
    """The delegate is not to be used; the CPU may do."""


class Delegate(NamedTuple):
    name: str
    library: str
    options: Mapping[str, str]

    def loaded(self, module: Any) -> Any:
        """It, made by the interpreter's module; each interpreter needs one of its own."""
        if self.name == "vx":  # compiling a graph takes it minutes, reading a compiled one seconds
            cache = cache_folder().parent / "vx"
            cache.mkdir(parents=True, exist_ok=True)
            os.environ.setdefault("VIV_VX_ENABLE_CACHE_GRAPH_BINARY", "1")
            os.environ.setdefault("VIV_VX_CACHE_BINARY_GRAPH_DIR", str(cache))
        try:
            return module.load_delegate(self.library, dict(self.options))
        except (ValueError, OSError) as exc:
            reason = " ".join(str(exc).split())
            raise Unfit(f"the delegate {self.library} cannot be had: {reason}") from exc


def find_delegate(settings: WorkerSettings) -> Delegate | None:
    """The delegate asked for, or that of this board."""
    if settings.delegate == "none":
        return None
    library = Path(settings.delegate).absolute()  # the loader would look for a bare name elsewhere
    if settings.delegate == "auto":
        here = board(settings.board_root)
        if here not in BOARDS:
            return None
        library = Path(settings.board_root) / f"usr/lib/lib{BOARDS[here]}_delegate.so"
        if not library.is_file():
            log.warning("this board is an %s, but %s is not there: the CPU computes", here, library)
            return None
    if not library.is_file():
        raise ModelError(f"there is no delegate {library}; give auto, none or a library's path")
    name = library.stem.removeprefix("lib").removesuffix("_delegate")
    known = _OPTIONS.get(name, " ".join(settings.delegate_options)).split()
    for option in settings.delegate_options:
        if option not in known:
            takes = ", ".join(known) or "none"
            raise ModelError(f"the delegate {library} has no option {option!r}; it takes {takes}")
    return Delegate(name, str(library), settings.delegate_options)


def check_operators(operators: Sequence[str], delegate: Delegate | None, path: str) -> bool:
    """Whether the file was converted for a delegate; refused where that is not the one here."""
    name = delegate.name if delegate else ""
    needed = {_OPERATORS[each] for each in operators if each in _OPERATORS}
    if needed - {name}:
        (other,) = needed - {name}
        raise ModelError(
            f"{path} was converted for the NPU of lib{other}_delegate.so, which is not used here:"
            " run it on that board, with --delegate auto or the library's path"
        )
    if name == "neutron" and not needed:
        raise Unfit(
            f"{path} has no operator NeutronGraph, so all of it would run on the CPU: convert it"
            " with the Neutron converter of the board's BSP"
        )
    return bool(needed)


def operators_taken(nodes: Sequence[Mapping[str, Any]]) -> tuple[int, int]:
    """How many of the graph's operators lie behind the nodes that delegates put in their place,
    and how many there are. The interpreter lists both, one after the other."""
    own = [each for each in nodes if each["op_name"] != "DELEGATE"]
    makers = {tensor: place for place, each in enumerate(own) for tensor in each["outputs"]}
    taken: set[int] = set()
    for each in nodes[len(own) :]:
        given, wanted = set(each["inputs"]), list(each["outputs"])
        while wanted:
            place = makers.get(wanted.pop())
            if place is not None and place not in taken:
                taken.add(place)
                wanted += [tensor for tensor in own[place]["inputs"] if tensor not in given]
    return len(taken), len(own)


def unlike(told: Sequence[Raw], wanted: Sequence[Raw]) -> str:
    """What is wrong with a delegate's outputs, beside the CPU's where that runs the file at all."""
    for name in told[0]:
        ours = np.stack([each[name] for each in told])
        if not np.isfinite(ours).all():
            return f"its output {name} is not finite"
        if not wanted and ours.min() == ours.max():
            return f"its output {name} is {ours.flat[0]} everywhere"
        if wanted:
            likeness = _concordance(ours, np.stack([each[name] for each in wanted]))
            if likeness < _LIKE:
                return f"its output {name} is not the CPU's (concordance {likeness:.2f})"
    return ""


def _concordance(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """Lin's coefficient: 1 for equal numbers, less for others, another scale or a shift."""
    if np.array_equal(first, second):
        return 1.0
    (ours, together), (_, theirs) = np.cov(first.ravel(), second.ravel(), bias=True)
    apart = first.mean(dtype=np.float64) - second.mean(dtype=np.float64)
    return float(2 * together / (ours + theirs + apart**2))
