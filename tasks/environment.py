"""What this machine is: its settings, each checked where it is read, its board, its versions.

Without numpy, so that producers can ask too.
"""

import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

BOARDS = ("imx8mp", "imx93", "imx95")
_SOC_ID = "sys/devices/soc0/soc_id"  # "i.MX8MP" and so on, by the drivers soc-imx8m and soc-imx9
_VERSIONED = (
    *("maskmill", "celery", "numpy", "opencv-python-headless"),
    *("pillow", "pycocotools", "onnxruntime"),
)


_DECODERS = max(2, min(8, (os.cpu_count() or 1) // 2))


class SettingError(Exception):
    """What was set, by a variable or an option, and cannot be used; the message names it."""


def as_set(read: Callable[..., Any], *how: Any) -> Any:
    """A field of a dataclass that is what one of these reads, where nothing else is given."""
    return field(default_factory=lambda: read(*how))


def whole_number(name: str, default: int, least: int = 0) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise SettingError(f"{name} is {text!r}; it takes a whole number from {least}")
    return int(text)


def size_of(name: str) -> int:
    """Bytes, as in 512M or 2G; 0 where nothing is set."""
    text = os.environ.get(name, "")
    found = re.fullmatch("([1-9][0-9]*)([MG])", text)
    if text and not found:
        raise SettingError(f"{name} is {text!r}; it takes a size, as in 512M or 2G")
    return int(found[1]) << {"M": 20, "G": 30}[found[2]] if found else 0


def one_of(name: str, words: Sequence[str]) -> str:
    """The word that is set, or else the first."""
    word = os.environ.get(name) or words[0]
    if word not in words:
        raise SettingError(f"{name} is {word!r}; it takes {', '.join(words)}")
    return word


def _word(name: str, default: str) -> str:
    return os.environ.get(name) or default


def _names(name: str) -> tuple[str, ...]:
    return tuple(filter(None, os.environ.get(name, "").split(",")))


def _options(name: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in os.environ.get(name, "").split()]
    if not all(key and mark for key, mark, _ in pairs):
        raise SettingError(f"{name} is {os.environ[name]!r}; it takes KEY=VALUE KEY=VALUE …")
    return {key: value for key, _, value in pairs}


@dataclass(frozen=True)
class WorkerSettings:
    """What an operator sets for a worker."""

    # of the runtime; 0 lets it take every core
    threads: int = as_set(whole_number, "MASKMILL_THREADS", 0)
    decode_threads: int = as_set(whole_number, "MASKMILL_DECODE_THREADS", _DECODERS, 1)
    # of ONNX Runtime, in order of preference; the CPU comes last
    providers: tuple[str, ...] = as_set(_names, "MASKMILL_PROVIDERS")
    # which interpreter runs .tflite files, see worker/tflite_runtime.py
    tflite: str = as_set(one_of, "MASKMILL_TFLITE", ("auto", "tflite-runtime", "litert"))
    # of TFLite: "auto", that of this board; "none", or a library's path
    delegate: str = as_set(_word, "MASKMILL_DELEGATE", "auto")
    delegate_options: Mapping[str, str] = as_set(_options, "MASKMILL_DELEGATE_OPTIONS")
    # what happens to a model that the delegate cannot run right
    delegate_unfit: str = as_set(one_of, "MASKMILL_DELEGATE_UNFIT", ("refuse", "cpu"))
    # bytes for the whole worker; 0 is no limit
    memory: int = as_set(size_of, "MASKMILL_MEMORY")
    # where the board's /sys and /usr/lib are
    board_root: str = as_set(_word, "MASKMILL_BOARD_ROOT", "/")
    spool_bytes: int = as_set(whole_number, "MASKMILL_SPOOL_BYTES", 64 << 20)


def board(root: str | Path = "") -> str:
    """The board whose system tree lies at `root`, one of BOARDS; empty for any other machine."""
    try:
        place = Path(root or os.environ.get("MASKMILL_BOARD_ROOT") or "/")
        text = (place / _SOC_ID).read_text("ascii", errors="replace")
    except OSError:
        return ""
    name = text.strip().lower().replace(".", "")
    return name if name in BOARDS else ""


def targets_of(labels: Sequence[str]) -> tuple[str, ...]:
    """What this machine takes besides work for any: its labels, its board, and edge or cloud.

    A board is edge and all else is cloud, unless a label says otherwise.
    """
    for label in labels:
        check_target(label)
    here = board()
    kind = [] if {"edge", "cloud"} & set(labels) else ["edge" if here else "cloud"]
    return tuple(dict.fromkeys((*labels, *([here] if here else []), *kind)))


def check_target(target: str) -> None:
    """A target is a part of a queue's name."""
    if not re.fullmatch("[a-z0-9][a-z0-9-]{0,39}", target):
        raise SettingError(
            f"the target {target!r} is no name of small letters, digits and hyphens, 40 at most;"
            f" there are any, cloud, edge, {', '.join(BOARDS)}, and the labels of your workers"
        )


def producer_versions() -> dict[str, str]:
    here = {"python": platform.python_version(), "platform": platform.platform()}
    return here | installed(_VERSIONED)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
