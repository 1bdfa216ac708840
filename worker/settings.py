"""What an operator sets for a worker by the environment."""

import os

import msgspec

from tasks.environment import SettingError, one_of, size_of, whole_number


class WorkerSettings(msgspec.Struct, frozen=True):
    threads: int = 0  # of the runtime; 0 lets it take every core
    decode_threads: int = 2
    providers: tuple[str, ...] = ()  # of ONNX Runtime, in order of preference; the CPU comes last
    tflite: str = "auto"  # which interpreter runs .tflite files, see worker/tflite_runtime.py
    delegate: str = "auto"  # of TFLite: that of this board; "none", or a library's path
    delegate_options: dict[str, str] = {}
    delegate_unfit: str = "refuse"  # or "cpu": what happens to a model that it cannot run right
    memory: int = 0  # bytes for the whole worker; 0 is no limit
    board_root: str = "/"  # where the board's /sys and /usr/lib are
    spool_bytes: int = 64 << 20


def read_settings() -> WorkerSettings:
    cores = os.cpu_count() or 1
    return WorkerSettings(
        threads=whole_number("MASKMILL_THREADS", 0),
        decode_threads=whole_number("MASKMILL_DECODE_THREADS", max(2, min(8, cores // 2)), 1),
        providers=tuple(filter(None, os.environ.get("MASKMILL_PROVIDERS", "").split(","))),
        tflite=one_of("MASKMILL_TFLITE", ("auto", "tflite-runtime", "litert")),
        delegate=os.environ.get("MASKMILL_DELEGATE") or "auto",
        delegate_options=_options("MASKMILL_DELEGATE_OPTIONS"),
        delegate_unfit=one_of("MASKMILL_DELEGATE_UNFIT", ("refuse", "cpu")),
        memory=size_of("MASKMILL_MEMORY"),
        board_root=os.environ.get("MASKMILL_BOARD_ROOT") or "/",
        spool_bytes=whole_number("MASKMILL_SPOOL_BYTES", 64 << 20),
    )


def _options(name: str) -> dict[str, str]:
    pairs = [word.partition("=") for word in os.environ.get(name, "").split()]
    if not all(key and mark for key, mark, _ in pairs):
        raise SettingError(f"{name} is {os.environ[name]!r}; it takes KEY=VALUE KEY=VALUE …")
    return {key: value for key, _, value in pairs}
