"""Celery's consumer, which keeps what it cannot read, and minds an ack that is not heard."""

from typing import Any

from celery.exceptions import Reject
from celery.worker.consumer import Consumer

from worker import jobs

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

    def on_invalid_task(
        self, body: Any, message: Any, exc: object = "not in Celery's form"
    ) -> None:
        """Where the state folder cannot take it, the queue has it again."""
        said = {"body": repr(body)[:MOST], "headers": repr(message.headers)[:MOST]}
        task = str((message.headers or {}).get("task", ""))
        try:
            jobs.station.bury(f"it is none of our messages: {exc}", task, said)
            message.ack()
        except Reject:
            message.requeue()

    on_unknown_message = on_unknown_task = on_invalid_task

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        self.on_invalid_task(message.body, message, exc)
