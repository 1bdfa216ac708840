"""The Celery application of a fleet: `celery -A worker.app worker` and `… beat` run it."""

import os
from typing import Any

from celery.exceptions import Reject
from celery.worker.consumer import Consumer

from tasks.broker import broker_url, make_app, queues_for
from tasks.cards import engines_here
from tasks.environment import targets_of
from tasks.state import fleet_state
from worker import jobs
from worker.limits import read_limits
from worker.station import FleetStation

MOST = 64 << 10  # of a body: what is larger is no message of ours


class KeepingConsumer(Consumer):  # type: ignore[misc]
    """Keeps what it cannot read, and minds an ack that is not heard."""

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


state = fleet_state()
app = make_app(broker_url())
# What Celery takes from without -Q, made as producers make the queues they name: RabbitMQ
# refuses a queue that is declared in two ways.
for name in queues_for(engines_here(), targets_of(os.environ.get("MASKMILL_TARGET", "").split())):
    app.amqp.queues.select_add(app.amqp.queues[name])
app.conf.worker_consumer = KeepingConsumer
# The tasks' station follows up. Plain Celery starts without our own command.
jobs.station = FleetStation(app=app, state=state, limits=read_limits())
