"""Celery's beat as a fleet has it, by `maskmill schedule serve` and by `celery … beat` alike."""

from celery import beat

from storage.errors import StorageError
from tasks.broker import DEFAULT_QUEUE
from tasks.messages import ReconcileMessage
from tasks.runs import read_schedules
from tasks.schedules import ScheduleError
from tasks.state import State, fleet_state

RECONCILE_S = 30.0


class Scheduler(beat.Scheduler):  # type: ignore[misc]
    """Has workers look after jobs and schedules. It keeps nothing: what ran is in the state."""

    def setup_schedule(self) -> None:
        self.app.conf.beat_schedule = {
            "reconcile": {
                "task": ReconcileMessage.task,
                "schedule": period(fleet_state()),
                "kwargs": {"schema": 1},
                # A worker that was away finds those of half a minute, not all.
                "options": {"queue": DEFAULT_QUEUE, "expires": RECONCILE_S},
            }
        }
        super().setup_schedule()


def period(state: State) -> float:
    """Seconds from look to look: two for each run of the schedule that asks for most."""
    try:
        timings = [each.timing() for each in read_schedules(state)]
    except (ScheduleError, StorageError):  # every look says so
        timings = []
    seconds = (max(1.0, each / 2) for each in timings if isinstance(each, int))
    return min([RECONCILE_S, *seconds])
