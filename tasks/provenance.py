"""Versions of what made a dataset. They live in run.json and nowhere else."""

import platform
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

_PARTS = (
    *("maskmill", "celery", "numpy", "opencv-python-headless"),
    *("pillow", "pycocotools", "onnxruntime"),
)


def producer_versions() -> dict[str, str]:
    here = {"python": platform.python_version(), "platform": platform.platform()}
    return here | installed(_PARTS)


def installed(packages: Iterable[str]) -> dict[str, str]:
    """The versions of those that are installed."""
    found = {}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found
