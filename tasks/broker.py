"""The broker: Celery under settings with which no message matters, and how messages are sent."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
from celery import Celery
from kombu.exceptions import OperationalError

from tasks.environment import SettingError, whole_number
from tasks.folder import ShardName
from tasks.messages import MERGE, SHARD, MergeMessage, ShardMessage
from tasks.records import Job, Priority

DEFAULT_QUEUE = "celery"  # Celery's own default, so that a bare client needs to know nothing
DEFAULT_BROKER = "redis://localhost:6379/0"
LARGE_JOB = 100  # jobs of more shards than this go to the low queue unless told
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
SCHEMES = ("redis", "rediss", "amqp", "amqps", "sqs", "memory")
BATCH = 500


class BrokerDown(Exception):
    """The broker does not answer. What is written stays; only sending has to be done again."""


def broker_url() -> str:
    url = os.environ.get("MASKMILL_BROKER_URL") or DEFAULT_BROKER
    if urlsplit(url).scheme not in SCHEMES:
        raise SettingError(f"MASKMILL_BROKER_URL is of none of the kinds {', '.join(SCHEMES)}")
    return url


def make_app(url: str) -> Celery:
    app = Celery("maskmill", broker=url)
    scheme = urlsplit(url).scheme
    app.conf.update(
        imports=("worker.jobs",),
        accept_content=["json"],
        task_serializer="json",
        task_default_queue=DEFAULT_QUEUE,
        task_ignore_result=True,
        task_acks_late=True,
        # A child that dies gives its message back. That cannot go on for ever: the attempts are
        # counted in the job folder, and careful mode ends it.
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=scheme.startswith("redis"),
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_send_task_events=False,
        worker_proc_alive_timeout=600.0,  # a child loads its model before it says that it is up
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_publish_retry_policy={"max_retries": 2, "interval_start": 0.2, "interval_max": 1.0},
        broker_transport_options=_transport_options(scheme),
    )
    if scheme.startswith("amqp"):
        # A worker that computes does not answer heartbeats; TCP's keepalive finds a dead peer.
        app.conf.update(
            broker_heartbeat=0,
            task_default_queue_type="quorum",
            worker_detect_quorum_queues=True,
        )
    return app


def _transport_options(scheme: str) -> dict[str, Any]:
    if scheme.startswith("redis"):
        return {
            "visibility_timeout": whole_number("MASKMILL_VISIBILITY_TIMEOUT", 3600, 1),
            "queue_order_strategy": "priority",  # the queues in the order in which they are named
            "socket_keepalive": True,
            "socket_connect_timeout": 5,
            "socket_timeout": 30,
            "health_check_interval": 25,
        }
    if scheme.startswith("amqp"):
        return {"confirm_publish": True}
    if scheme == "sqs":
        options: dict[str, Any] = {
            "region": os.environ.get("AWS_REGION", "us-east-1"),
            "visibility_timeout": whole_number("MASKMILL_VISIBILITY_TIMEOUT", 3600, 1),
            "wait_time_seconds": 10,
        }
        return options
    return {}


def queue_name(engine: str, target: str, priority: str) -> str:
    return f"maskmill.{engine}.{target}.{priority}"


def queue_of(job: Job) -> str:
    priority = job.routing.priority
    if priority == "normal" and job.counts.shards > LARGE_JOB:
        priority = "low"
    return queue_name(job.asked.model.engine, job.routing.target, priority)


def queues_for(engines: Sequence[str], target: str) -> list[str]:
    """What a worker takes from, the most urgent first."""
    targets = dict.fromkeys((target, "any"))
    names = [queue_name(e, t, p) for p in PRIORITIES for t in targets for e in engines]
    return [DEFAULT_QUEUE, *names]


def send_shards(app: Celery, uri: str, job: Job, shards: Iterable[ShardName]) -> int:
    """One message a shard; how many were sent."""
    sent = 0
    queue = queue_of(job)
    try:
        with app.producer_pool.acquire(block=True) as producer:
            for shard in shards:
                body = msgspec.to_builtins(ShardMessage(uri, job.run, shard))
                app.send_task(SHARD, kwargs=body, queue=queue, producer=producer)
                sent += 1
    except (OperationalError, OSError) as exc:
        raise BrokerDown(f"the broker does not answer: {exc}") from exc
    return sent


def send_merge(app: Celery, uri: str) -> None:
    try:
        body = msgspec.to_builtins(MergeMessage(uri))
        app.send_task(MERGE, kwargs=body, queue=DEFAULT_QUEUE)
    except (OperationalError, OSError) as exc:
        raise BrokerDown(f"the broker does not answer: {exc}") from exc


def waiting(app: Celery, queue: str) -> int:
    """How many messages are in a queue; none where there is no such queue."""
    with app.connection_for_read() as connection:
        try:
            found = connection.default_channel.queue_declare(queue, passive=True)
            return int(found.message_count)
        except connection.channel_errors:
            return 0
