"""Celery's consumer, which keeps what it cannot read, and minds an ack that is not heard."""

from typing import Any

from celery.concurrency.solo import TaskPool as SoloPool
from celery.exceptions import Reject
from celery.worker.consumer import Consumer

from worker import jobs
from worker.fleet import FleetStation

MOST = 64 << 10  # of a body: what is larger is no message of ours


class KeepingConsumer(Consumer):  # type: ignore[misc]
    connection_errors: tuple[type[Exception], ...]

    def update_strategies(self) -> None:
        """Celery only logs an ack that cannot be sent, and counts its message as in hand for ever:
        with one message at a time it takes no other. An error that is raised makes it connect anew.
        """
        errors, self.connection_errors = self.connection_errors, ()
        try:
            super().update_strategies()
        finally:
            self.connection_errors = errors

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if isinstance(self.pool, SoloPool) and isinstance(jobs.station, FleetStation):
            jobs.station.consumer = self

    def on_unknown_message(self, body: Any, message: Any) -> None:
        _keep("it is not in Celery's form", "", body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        name = str((message.headers or {}).get("task", ""))
        _keep(f"there is no task {name!r}", name, body, message)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        _keep(f"its body cannot be read: {exc}", "", body, message)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        _keep(f"its body cannot be decoded: {exc}", "", message.body, message)


def _keep(reason: str, task: str, body: Any, message: Any) -> None:
    """Where the state folder could not take it, the queue has it again."""
    said = {"body": repr(body)[:MOST], "headers": repr(message.headers)[:MOST]}
    try:
        jobs.station.bury(reason, task, said)
        message.ack()
    except Reject:
        message.requeue()
