"""How commands end: 0 all well, 2 wrong usage, 3 over the failure budget, 4 stopped, 5 a gate."""

import sys
from collections.abc import Callable

from storage.errors import BadSetting, BadUri, StorageError
from tasks.broker import BrokerDown
from tasks.cards import ModelError
from tasks.environment import SettingError
from tasks.folder import JobDiffers, JobError
from tasks.inputs import InputError
from tasks.progress import Said, say, say_json
from tasks.supervisor import Stopped

OK, WRONG, OVER_BUDGET, STOPPED, GATE_FAILED = 0, 2, 3, 4, 5

_WRONG = (BadSetting, BadUri, InputError, JobDiffers, ModelError, SettingError)
_STOPPED = (BrokerDown, JobError, StorageError, Stopped)


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
