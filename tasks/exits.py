"""What commands say, and how they end.

0 all well, 2 wrong usage, 3 over the failure budget, 4 stopped, 5 a gate.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal, NamedTuple

import msgspec

from storage.errors import BadSetting, BadUri, StorageError
from tasks.broker import BrokerDown
from tasks.cards import ModelError
from tasks.environment import SettingError
from tasks.folder import JobDiffers, JobError
from tasks.inputs import InputError
from tasks.supervisor import Stopped

Facts = dict[str, Any]
Face = Literal["bar", "lines", "json"]

OK, WRONG, OVER_BUDGET, STOPPED, GATE_FAILED = 0, 2, 3, 4, 5

_WRONG = (BadSetting, BadUri, InputError, JobDiffers, ModelError, SettingError)
_STOPPED = (BrokerDown, JobError, StorageError, Stopped)
# What an empty field means, where it is not that no source publishes it.
_EMPTY = dict.fromkeys(("path", "graph", "ready"), "not here")
_EMPTY |= dict.fromkeys(("notes", "downloads", "settings", "detections", "files"), "none")
_EMPTY |= {"input": "the card's", "decode": "as usual", "takes": "what its graph says"}
_EMPTY |= {"fits": "not tried", "card": "none: the network tells it all"}


def choose_face(as_json: bool) -> Face:
    if as_json:
        return "json"
    return "bar" if sys.stderr.isatty() else "lines"


def say_json(event: Facts) -> None:
    print(msgspec.json.encode(event).decode(), flush=True)


class Said(NamedTuple):
    """What came of a command: for a program, for a person, and as its exit code."""

    event: Facts
    lines: Iterable[str]
    code: int = 0


def say(said: Said, as_json: bool) -> int:
    """The code, when it is told."""
    tell({**said.event, "exit": said.code}, said.lines, as_json)
    return said.code


def tell(event: Facts, lines: Iterable[str], as_json: bool) -> None:
    """What came of a command: the event for a program, else the lines for a person."""
    if as_json:
        say_json(event)
    else:
        print("\n".join(lines), flush=True)


def record_lines(record: Facts, indent: str = "", empty: str = "not published") -> Iterator[str]:
    """A record as indented lines, where what is empty says why."""
    for name, value in record.items():
        records = value if isinstance(value, list | tuple) else [value]
        if records and all(each and isinstance(each, dict) for each in records):
            for each in records:
                yield f"{indent}{name if value is each else name.removesuffix('s')}"
                yield from record_lines(each, indent + "  ", empty)
        else:
            text = "" if value in (None, {}) else ", ".join(map(str, records))
            yield f"{indent}{name:<11} {text or _EMPTY.get(name, empty)}"


def ended(command: Callable[[], int | Said], as_json: bool) -> int:
    """Run a command; what the person can mend is one sentence and an exit code, not a traceback."""
    try:
        done = command()
        return say(done, as_json) if isinstance(done, Said) else done
    except _WRONG as exc:
        return _say(str(exc), WRONG, as_json)
    except ModuleNotFoundError as exc:
        needed = f"this needs {exc.name}, which is not installed: pip install 'maskmill[worker]'"
        return _say(needed, WRONG, as_json)
    except _STOPPED as exc:
        return _say(str(exc), STOPPED, as_json)
    except KeyboardInterrupt:
        return _say("stopped; nothing that was written is lost", STOPPED, as_json)


def _say(message: str, code: int, as_json: bool) -> int:
    if as_json:
        say_json({"event": "error", "message": message, "exit": code})
    else:
        print(f"maskmill: {message}", file=sys.stderr)
    return code
