"""What travels on the queue: which job and which shard, never data. Any of it may be lost."""

from __future__ import annotations

from typing import Any

import msgspec
from celery import Celery

from tasks.records import SCHEMA, Job

SHARD = "maskmill.shard"
MERGE = "maskmill.merge"
DEFAULT_QUEUE = "celery"  # Celery's own default, so that a bare client needs to know nothing
LARGE_JOB = 100  # jobs of more shards than this go to the low queue


class ShardMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    job: str
    run: str
    shard: int
    schema: int = SCHEMA


class MergeMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    job: str
    schema: int = SCHEMA


def make_app(broker_url: str) -> Celery:
    """Celery with the settings under which no message matters: the folder is the truth."""
    app = Celery("maskmill", broker=broker_url)
    app.conf.update(
        imports=("worker.jobs",),
        accept_content=["json"],
        task_serializer="json",
        task_default_queue=DEFAULT_QUEUE,
        task_ignore_result=True,
        task_acks_late=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=broker_url.startswith(("redis", "rediss")),
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
    )
    return app


def queue_of(job: Job) -> str:
    priority = "low" if job.counts.shards > LARGE_JOB else "normal"
    return f"maskmill.{job.asked.model.engine}.any.{priority}"


def send_shard(app: Celery, uri: str, job: Job, shard: int) -> None:
    message = ShardMessage(uri, job.run, shard)
    app.send_task(SHARD, kwargs=msgspec.to_builtins(message), queue=queue_of(job))


def send_merge(app: Celery, uri: str) -> None:
    app.send_task(MERGE, kwargs=msgspec.to_builtins(MergeMessage(uri)), queue=DEFAULT_QUEUE)


def parse(kind: type[Any], body: dict[str, Any]) -> Any:
    """A message's body as its type; a wrong one is refused with the field that is wrong."""
    message = msgspec.convert(body, kind)
    if message.schema != SCHEMA:
        raise msgspec.ValidationError(f"schema {message.schema} is not one this worker reads")
    return message
