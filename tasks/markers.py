"""Why a job does not go on: it was cancelled, or a cause stopped it. A file in its folder."""

import time
from typing import Literal

import msgspec

from storage import delete, list_entries, put
from tasks.folder import Folder, JobError, read_any
from tasks.records import encode

CANCELLED, STOPPED = "cancelled", "stopped.json"


class Halt(msgspec.Struct, frozen=True):
    """A marker. It holds for the run that it names, and for no later one in the same folder."""

    run: str
    reason: str
    at: float
    kind: Literal["cancelled", "stopped"]


class Halted(JobError):
    """The job was cancelled or stopped."""


def cancel(folder: Folder, reason: str = "a person cancelled it") -> None:
    put(folder.file(CANCELLED), encode(Halt(folder.run, reason, time.time(), "cancelled")))


def stop(folder: Folder, reason: str) -> None:
    put(folder.file(STOPPED), encode(Halt(folder.run, reason, time.time(), "stopped")))


def halt_of(folder: Folder) -> Halt | None:
    """What keeps this run from going on, if anything does."""
    halts = (read_any(folder.file(name), Halt) for name in (CANCELLED, STOPPED))
    return next((each for each in halts if each and each.run == folder.run), None)


def look_for_halt(folder: Folder) -> None:
    halt = halt_of(folder)
    if halt is not None:
        raise Halted(
            f"the job in {folder.uri} is {halt.kind}: {halt.reason};"
            f" maskmill resume {folder.uri} lets it go on"
        )


def lift(folder: Folder, *names: str) -> None:
    """Let a job go on; that workers could not load its model is forgotten."""
    for entry in list_entries(folder.file(f"unfit/{folder.run}/")):
        delete(entry.uri)
    for name in names or (CANCELLED, STOPPED):
        delete(folder.file(name))
