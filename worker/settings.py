"""What an operator sets for a worker by the environment."""

from __future__ import annotations

import os

import msgspec

from tasks.environment import one_of, whole_number


class WorkerSettings(msgspec.Struct, frozen=True):
    threads: int = 0  # of the runtime; 0 lets it take every core
    decode_threads: int = 2
    providers: tuple[str, ...] = ()  # of ONNX Runtime, in order of preference; the CPU comes last
    tflite: str = "auto"  # which interpreter runs .tflite files, see worker/tflite_runtime.py


def read_settings() -> WorkerSettings:
    cores = os.cpu_count() or 1
    return WorkerSettings(
        threads=whole_number("MASKMILL_THREADS", 0),
        decode_threads=whole_number("MASKMILL_DECODE_THREADS", max(2, min(8, cores // 2)), 1),
        providers=tuple(filter(None, os.environ.get("MASKMILL_PROVIDERS", "").split(","))),
        tflite=one_of("MASKMILL_TFLITE", ("auto", "tflite-runtime", "litert")),
    )
