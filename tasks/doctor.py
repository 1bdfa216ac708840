"""`maskmill doctor`: what this machine can run, or whether a job folder is sound."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from rich.console import Console

from storage import delete, get, put
from storage.errors import StorageError
from tasks.cards import ModelError, read_card
from tasks.exits import OK, STOPPED, ended
from tasks.folder import Folder, JobError, read_job
from tasks.progress import say_json
from tasks.shelf import find_model, zoo_cards

ENGINES = {
    "onnxruntime": "onnx",
    "ai-edge-litert": "tflite",
    "tflite-runtime": "tflite",
    "openvino": "openvino",
}
BUILT_IN = ("onnx", "openvino")  # engines that this version runs models with
_SECRET = ("KEY", "SECRET", "TOKEN", "PASSWORD")


def check_machine(as_json: bool) -> int:
    return ended(lambda: _check_machine(as_json), as_json)


def check_folder(output: str, as_json: bool) -> int:
    return ended(lambda: _check_folder(output, as_json), as_json)


def _check_machine(as_json: bool) -> int:
    report = {
        "system": {"python": platform.python_version(), "machine": platform.machine()},
        "engines": _engines(),
        "formats": _formats(),
        "stores": dict(_stores()),
        "models": dict(_models()),
        "settings": _settings(),
    }
    if as_json:
        say_json({"event": "doctor", **report})
    else:
        _print(report)
    return OK


def _engines() -> dict[str, str]:
    found = {}
    for package, engine in ENGINES.items():
        try:
            text = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
            continue
        found[package] = text if engine in BUILT_IN else f"{text}, not used by this version"
    if found["onnxruntime"] != "not installed":
        providers = import_module("onnxruntime").get_available_providers()
        found["onnxruntime"] += f" with {', '.join(providers)}"
    return found


def _formats() -> dict[str, str]:
    try:
        formats = import_module("worker.images").supported_formats()
    except ModuleNotFoundError as exc:
        return {"images": f"none: {exc.name} is missing, pip install 'maskmill[worker]'"}
    return {name: "read" if works else "not read" for name, works in formats.items()}


def _stores() -> Iterator[tuple[str, str]]:
    """Each store tried for real where that needs nothing but this machine and its settings."""
    with tempfile.TemporaryDirectory(prefix="maskmill-doctor-") as folder:
        yield "file", _try_store(os.path.join(folder, "probe"))
    free = shutil.disk_usage(tempfile.gettempdir()).free
    yield "scratch", f"{free / 2**30:.1f} GiB free in {tempfile.gettempdir()}"
    target = os.environ.get("MASKMILL_DOCTOR_S3", "")
    if target:
        yield target, _try_store(f"{target.rstrip('/')}/.maskmill-doctor")
    else:
        yield "s3", "not tried: set MASKMILL_DOCTOR_S3=s3://bucket/prefix to try one"


def _try_store(uri: str) -> str:
    try:
        put(uri, b"probe")
        same = get(uri) == b"probe"
        delete(uri)
    except StorageError as exc:
        return str(exc)
    return "reads and writes" if same else "gives back other bytes than were written"


def _models() -> Iterator[tuple[str, str]]:
    for path in zoo_cards():
        try:
            card = read_card(path)
            yield card.name, f"{find_model(str(path)).path}"
        except ModelError as exc:
            yield path.stem, str(exc)


def _settings() -> dict[str, str]:
    """Ours and AWS's variables that are set; what may be a secret is only said to be set."""
    return {
        name: "set" if any(word in name for word in _SECRET) else _without_password(value)
        for name, value in sorted(os.environ.items())
        if name.startswith(("MASKMILL_", "AWS_"))
    }


def _without_password(value: str) -> str:
    scheme, mark, rest = value.partition("://")
    return f"{scheme}://…@{rest.rpartition('@')[2]}" if mark and "@" in rest else value


def _print(report: dict[str, dict[str, Any]]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    for heading, rows in report.items():
        console.print(f"[bold]{heading}[/bold]")
        for name, value in rows.items():
            console.print(f"  {name}: {value}", markup=False)
        if not rows:
            console.print("  none")


def _check_folder(output: str, as_json: bool) -> int:
    job = read_job(output)
    if job is None:
        raise JobError(f"{output} holds no job: there is no job.json")
    audit = import_module("worker.audit")
    found = list(audit.problems(Folder(output, job.run), job))
    if as_json:
        say_json({"event": "doctor", "output": output, "sound": not found, "problems": found})
    else:
        print("\n".join(found) or f"{output} is sound: {job.counts.items} inputs, each ended once")
    return STOPPED if found else OK
