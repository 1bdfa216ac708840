"""Versions of what made a dataset. They live in run.json and nowhere else."""

from __future__ import annotations

import platform
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

_PARTS = (
    *("maskmill", "celery", "numpy", "opencv-python-headless"),
    *("pillow", "pycocotools", "onnxruntime"),
)


def producer_versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "platform": platform.platform()}
    for part in _PARTS:
        with suppress(PackageNotFoundError):
            found[part] = version(part)
    return found
