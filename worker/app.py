"""The Celery application of a fleet: `celery -A worker.app worker` and `… beat` run it."""

from __future__ import annotations

from typing import Any

from celery import signals

from tasks.broker import DEFAULT_QUEUE, broker_url, make_app
from tasks.messages import RECONCILE
from tasks.state import fleet_state

RECONCILE_S = 30.0

state = fleet_state()
app = make_app(broker_url())
app.conf.worker_consumer = "worker.consumer:KeepingConsumer"
app.conf.beat_schedule = {
    "reconcile": {
        "task": RECONCILE,
        "schedule": RECONCILE_S,
        "kwargs": {"schema": 1},
        # A worker that was away finds one of these, not one for each half minute.
        "options": {"queue": DEFAULT_QUEUE, "expires": RECONCILE_S},
    }
}


def man_station(**_: Any) -> None:
    """Give the tasks a station that follows up. Plain Celery starts without our own command."""
    from worker import jobs
    from worker.fleet import FleetStation
    from worker.limits import read_limits

    jobs.station = FleetStation(app=app, state=state, limits=read_limits())


signals.worker_init.connect(man_station, weak=False)
