"""`maskmill doctor`: what this machine can run."""

import os
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from storage import StorageError, delete, get, join, put, shown
from tasks.broker import DEFAULT_QUEUE, BrokerDown, broker_url, make_app, queues_for, waiting
from tasks.cards import ENGINE_PARTS, ModelError
from tasks.environment import SettingError, WorkerSettings, board, installed, targets_of
from tasks.exits import Said, record_lines
from tasks.state import fleet_state

PACKAGES = ("onnxruntime", "openvino", "ai-edge-litert", "tflite-runtime")  # that run models
_SECRET = ("KEY", "SECRET", "TOKEN", "PASSWORD")


def doctor(output: str, model: str) -> Said:
    if output:
        audited: Said = import_module("worker.audit").check_folder(output)
        return audited
    report = {
        "engines": _engines(),
        "tflite": dict(_tflite()),
        **({model: dict(_tried(model))} if model else {}),
        "formats": _formats(),
        "stores": _stores(),
        "fleet": dict(_fleet()),
        "settings": _settings(),
    }
    return Said({"event": "doctor", **report}, record_lines(report))


def _engines() -> dict[str, str]:
    found = dict.fromkeys(PACKAGES, "not installed") | installed(PACKAGES)
    if found["onnxruntime"] != "not installed":
        providers = import_module("onnxruntime").get_available_providers()
        found["onnxruntime"] += f" with {', '.join(providers)}"
    return found


def _tflite() -> Iterator[tuple[str, str]]:
    """What would run a .tflite here."""
    try:
        settings = WorkerSettings()
        tflite = import_module("worker.tflite_runtime")
        yield "interpreter", tflite.chosen(settings)
        yield "board", board(settings.board_root) or "none that is known"
        found = tflite.find_delegate(settings)
        yield "delegate", found.library if found else "none: the CPU computes"
    except (ModelError, SettingError, ModuleNotFoundError) as exc:
        yield "problem", str(exc)


def _tried(model: str) -> Iterator[tuple[str, str]]:
    with tempfile.TemporaryDirectory(prefix="maskmill-doctor-") as folder:
        for each in import_module("worker.check").try_builds(model, "", Path(folder)):
            stages = (f"{name} {1000 * s:.1f} ms" for name, s in each.get("seconds", {}).items())
            engine = f"{each.get('engine', 'no engine')} {each.get('version', '')}".rstrip()
            found = each.get("problem") or f"{each['device']}: {', '.join(stages)}"
            yield f"{each['build']} with {engine}", found


def _formats() -> dict[str, str]:
    try:
        formats = import_module("worker.images").supported_formats()
    except ModuleNotFoundError as exc:
        return {"images": f"none: {exc.name} is missing, pip install 'maskmill[worker]'"}
    return {name: "read" if works else "not read" for name, works in formats.items()}


def _stores() -> dict[str, str]:
    """This disk, tried for real; another store is tried where the state folder lies in it."""
    with tempfile.TemporaryDirectory(prefix="maskmill-doctor-") as folder:
        return {"file": _try_store(os.path.join(folder, "probe"))}


def _try_store(uri: str) -> str:
    try:
        put(uri, b"probe")
        same = get(uri) == b"probe"
        delete(uri)
    except StorageError as exc:
        return str(exc)
    return "reads and writes" if same else "gives back other bytes than were written"


def _fleet() -> Iterator[tuple[str, str]]:
    """Whether the broker and the state folder that a fleet shares answer from here."""
    try:
        app = make_app(broker_url())
        # to ask SQS for a queue's length makes the queue
        is_sqs = broker_url().startswith("sqs:")
        names = [DEFAULT_QUEUE] if is_sqs else queues_for(list(ENGINE_PARTS), targets_of(()))
        queued = [f"{depth} in {name}" for name in names if (depth := waiting(app, name))]
        yield "broker", f"{shown(broker_url())}: answers"
        yield "messages", ", ".join(queued) or "none waits"
    except (BrokerDown, SettingError) as exc:
        yield "broker", str(exc)
    try:
        uri = fleet_state().uri
        yield "state", f"{shown(uri)}: {_try_store(join(uri, '.maskmill-doctor'))}"
    except SettingError as exc:
        yield "state", str(exc)


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
