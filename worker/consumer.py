"""Celery's consumer, which keeps what it cannot read instead of only logging it."""

from __future__ import annotations

from typing import Any

from celery.worker.consumer import Consumer

from worker import jobs
from worker.fleet import FleetStation

MOST = 64 << 10  # of a body: what is larger is no message of ours


class KeepingConsumer(Consumer):  # type: ignore[misc]
    def on_unknown_message(self, body: Any, message: Any) -> None:
        _keep("it is not in Celery's form", "", body, message)
        super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        name = str((message.headers or {}).get("task", ""))
        _keep(f"there is no task {name!r}", name, body, message)
        super().on_unknown_task(body, message, exc)

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        _keep(f"its body cannot be read: {exc}", "", body, message)
        super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        _keep(f"its body cannot be decoded: {exc}", "", message.body, message)
        super().on_decode_error(message, exc)


def _keep(reason: str, task: str, body: Any, message: Any) -> None:
    station = jobs.station
    if isinstance(station, FleetStation):
        said = {"body": repr(body)[:MOST], "headers": repr(message.headers)[:MOST]}
        station.bury(reason, task, said)
