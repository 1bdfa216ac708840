"""What an operator sets for a worker by the environment."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from tasks.environment import SettingError, as_set, one_of, size_of, whole_number

_DECODERS = max(2, min(8, (os.cpu_count() or 1) // 2))


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
