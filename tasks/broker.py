"""The broker: Celery under settings with which no message matters, and what travels on it.

A message says which job and which shard, and holds no data. Any of them may be lost.
"""

import itertools
import os
import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Annotated, Any, ClassVar
from urllib.parse import unquote, urlsplit

import msgspec
from amqp.exceptions import MessageNacked  # type: ignore[import-untyped]
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import get_session
from celery import Celery
from kombu.connection import Connection
from kombu.exceptions import BatchPublishError, OperationalError
from redis import Redis

from storage import shown
from tasks.environment import SettingError, whole_number
from tasks.folder import ShardName
from tasks.inputs import ListLine
from tasks.records import Job, Priority, Schema

DEFAULT_QUEUE = "celery"  # Celery's own default, so that a bare client needs to know nothing
DEFAULT_BROKER = "redis://localhost:6379/0"
LARGE_JOB = 100  # jobs of more shards than this go to the low queue unless told
PRIORITIES: tuple[Priority, ...] = ("high", "normal", "low")
SCHEMES = ("redis", "rediss", "amqp", "amqps", "sqs", "memory")
# The engines that one card's builds can have between them: a mixed job has a queue for all of them.
MIXES = (("onnx", "openvino"), ("openvino", "tflite"), ("onnx", "openvino", "tflite"))
BATCH = 500
_SOCKETS = {
    "socket_keepalive": True,
    "socket_connect_timeout": 5,
    "socket_timeout": 30,
    "health_check_interval": 25,
}
FAILURES = (OperationalError, MessageNacked, ClientError, OSError)
Number = Annotated[int, msgspec.Meta(ge=0)]
Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{1,64}$")]  # part of a key: nothing else


class BrokerDown(Exception):
    """The broker does not answer. What is written stays; only sending has to be done again."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    task: ClassVar[str]  # its name, which clients know
    schema: Schema = 1


class ShardMessage(Message, frozen=True):
    task = "maskmill.shard"
    job: str
    run: Hash
    shard: Number | Hash


class MergeMessage(Message, frozen=True):
    task = "maskmill.merge"
    job: str


class Asking(Message, frozen=True, kw_only=True):
    """What any client may ask for.

    output: the job's folder.
    options: those of `maskmill submit` by name, with underscores.
    """

    model: str
    output: str
    options: dict[str, Any] = {}


class SubmitMessage(Asking, frozen=True):
    """A job as `maskmill submit` makes it: it is planned on the worker that takes this."""

    task = "maskmill.submit"
    inputs: tuple[str, ...]


class AnnotateMessage(Asking, frozen=True):
    """Inputs for an open job: stored by the worker that takes this, then sent on.

    items: URIs, or {"uri": …, "file_name": …}, taken as they are. The first message opens the job,
    and later ones ask for the same model and options, save those that choose inputs, number or
    overwrite: threshold, classes, fps (of videos among the items), priority, target, per_image (a
    file for each input as soon as it is done), shard_size (inputs a shard where a message has many)
    and so on.
    """

    task = "maskmill.annotate"
    items: Annotated[tuple[str | ListLine, ...], msgspec.Meta(min_length=1)]


class ReconcileMessage(Message, frozen=True):
    task = "maskmill.reconcile"
    only_schedules: bool = False


def _look(seconds: float, **body: Any) -> dict[str, Any]:
    """Beat has a worker look so often. One that was away finds the last such look, not all."""
    options = {"expires": seconds}
    return {"task": ReconcileMessage.task, "schedule": seconds, "kwargs": body, "options": options}


# A look at all jobs takes several reads for each of them, at the schedules a few in all.
LOOKS = {"jobs": _look(30.0), "schedules": _look(5.0, only_schedules=True)}


def broker_url() -> str:
    url = os.environ.get("MASKMILL_BROKER_URL") or DEFAULT_BROKER
    scheme = url.partition(":")[0]
    if scheme not in SCHEMES:
        raise SettingError(f"MASKMILL_BROKER_URL is of none of the kinds {', '.join(SCHEMES)}")
    try:
        database = Connection(url).virtual_host  # type: ignore[no-untyped-call]
        if scheme.startswith("redis"):
            int(database or 0)
    except (KeyError, TypeError, ValueError) as exc:  # their words may hold a part of the password
        raise SettingError(
            "MASKMILL_BROKER_URL cannot be used: its host, port, database or an option after ? is"
            " wrong, or a special character in its password is not percent-encoded"
        ) from exc
    if scheme == "sqs" and not (find_spec("boto3") and find_spec("pycurl")):
        raise SettingError("MASKMILL_BROKER_URL is an SQS: pip install 'maskmill[sqs]'")
    return url


def make_app(url: str) -> Celery:
    app = Celery("maskmill", broker=url)
    app.conf.update(
        imports=("worker.jobs",),
        beat_scheduler="celery.beat:Scheduler",  # which keeps nothing: what ran is in the state
        beat_schedule=LOOKS,
        task_ignore_result=True,
        task_acks_late=True,
        # A child that dies gives its message back. That cannot go on for ever: the attempts are
        # counted in the job folder, and careful mode ends it.
        task_reject_on_worker_lost=True,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_proc_alive_timeout=600.0,  # a child loads its model before it says that it is up
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        task_publish_retry_policy={"max_retries": 2, "interval_start": 0.2, "interval_max": 1.0},
        **_of_its_kind(url),
    )
    return app


def _of_its_kind(url: str) -> dict[str, Any]:
    """What one kind of broker needs and others do not know."""
    parts = urlsplit(url)
    visibility = {"visibility_timeout": whole_number("MASKMILL_VISIBILITY_TIMEOUT", 3600, 1)}
    if parts.scheme in ("redis", "rediss"):
        # The queues in the order in which they are named.
        transport = {**visibility, "queue_order_strategy": "priority", **_SOCKETS}
        return {
            "worker_disable_prefetch": True,
            "broker_transport_options": transport,
            "broker_use_ssl": _checked("ssl_") if parts.scheme == "rediss" else None,
        }
    if parts.scheme in ("amqp", "amqps"):
        tls = {**_checked(), "server_hostname": parts.hostname}
        return {
            "broker_transport_options": {"confirm_publish": True},
            "broker_use_ssl": tls if parts.scheme == "amqps" else None,
            # A worker that computes reads no socket, so it would miss heartbeats and be cut off.
            # TCP's keepalive, which py-amqp sets, finds a peer that is gone within 150 s; RabbitMQ
            # does so with tcp_listen_options.keepalive. A message that is not acknowledged after
            # RabbitMQ's consumer_timeout, 30 min, goes to another: shards have to be shorter.
            "broker_heartbeat": 0,
            "task_default_queue_type": "quorum",
            "task_create_missing_queue_type": "quorum",
            # An exclusive queue stays locked while RabbitMQ believes in a connection that is gone.
            "control_queue_exclusive": False,
            "control_queue_durable": True,
        }
    if parts.scheme == "sqs":
        transport = {
            **visibility,
            "region": os.environ.get("AWS_REGION"),  # boto3 reads AWS_DEFAULT_REGION
            # sqs:// is AWS, or AWS_ENDPOINT_URL_SQS; sqs://host:port is a server without TLS
            "is_secure": parts.hostname is None,
            # Celery asks ten queues at a time; a worker of every engine has 37.
            "wait_time_seconds": 2,
        }
        # Revoking, pinging and events would take SNS topics; markers in storage cancel jobs.
        return {"worker_enable_remote_control": False, "broker_transport_options": transport}
    return {"broker_transport_options": {"polling_interval": 0.02}}  # in this process's memory


def _checked(prefix: str = "") -> dict[str, Any]:
    """How a certificate and its name are checked: by our own or by the system's authorities."""
    authorities = os.environ.get("MASKMILL_BROKER_CA") or None
    if authorities and not os.path.isfile(authorities):
        raise SettingError(f"MASKMILL_BROKER_CA is {authorities}, which is no file")
    return {f"{prefix}cert_reqs": ssl.CERT_REQUIRED, f"{prefix}ca_certs": authorities}


def redis_at(url: str) -> Redis:
    """A Redis that may be another than the broker. What is not UTF-8 stays as it is."""
    tls = _checked("ssl_") if url.startswith("rediss:") else {}
    text = {"decode_responses": True, "encoding_errors": "surrogateescape"}
    return Redis.from_url(url, **text, **_SOCKETS, **tls)


def sqs_client() -> Any:
    """At AWS, or AWS_ENDPOINT_URL_SQS."""
    config = Config(connect_timeout=5, read_timeout=30, retries={"total_max_attempts": 3})
    return get_session().create_client("sqs", os.environ.get("AWS_REGION"), config=config)


def queue_name(engine: str, target: str, priority: str) -> str:
    return f"maskmill.{engine}.{target}.{priority}"


def queue_of(job: Job) -> str:
    priority = job.routing.priority
    if priority == "normal" and job.counts.shards > LARGE_JOB:
        priority = "low"
    engines = {each.engine for each in (job.asked.model, *job.asked.alternates)}
    return queue_name("-".join(sorted(engines)), job.routing.target, priority)


def queues_for(engines: Sequence[str], targets: Sequence[str]) -> list[str]:
    """What a worker takes from, the most urgent first."""
    places = dict.fromkeys((*targets, "any"))
    kinds = (*engines, *("-".join(mix) for mix in MIXES if set(mix) & set(engines)))
    names = [queue_name(e, t, p) for p in PRIORITIES for t in places for e in kinds]
    return [DEFAULT_QUEUE, *names]


@contextmanager
def answering(app: Celery, job: str = "") -> Iterator[None]:
    """What talking to the broker can fail with becomes one sentence, without its password.

    job: what is sent for; all of that is in its folder, so only the sending is to be done again.
    """
    connection = app.connection_for_write()
    url = str(app.conf.broker_url)
    try:
        yield
    except (*FAILURES, *connection.connection_errors, *connection.channel_errors) as exc:
        reason = " ".join(str(exc).split()) or type(exc).__name__
        given = urlsplit(url).password
        for secret in {given, unquote(given)} if given else ():
            reason = reason.replace(secret, "…")
        again = f"; all is stored, and maskmill resume {job} sends it" if job else ""
        raise BrokerDown(f"the broker does not answer: {shown(url)}: {reason}{again}") from exc


def send_shards(app: Celery, uri: str, job: Job, shards: Iterable[ShardName]) -> int:
    """One message a shard; how many were sent."""
    sent = 0
    queue, messages = queue_of(job), (ShardMessage(uri, job.run, shard) for shard in shards)
    with answering(app, uri), app.producer_pool.acquire(block=True) as producer:
        while chosen := tuple(itertools.islice(messages, BATCH)):
            try:
                with producer.batch(BATCH):
                    _publish(app, producer, queue, chosen)
            except BatchPublishError:  # some may be there; a doubled one costs a look at the folder
                _publish(app, producer, queue, chosen)
            sent += len(chosen)
    return sent


def _publish(app: Celery, producer: Any, queue: str, messages: Iterable[Message]) -> None:
    """In a producer's batch Redis gets them in one go, untried again; else each by itself."""
    for each in messages:
        app.send_task(each.task, kwargs=msgspec.to_builtins(each), queue=queue, producer=producer)


def send_merge(app: Celery, uri: str) -> None:
    with answering(app, uri):
        _publish(app, None, DEFAULT_QUEUE, [MergeMessage(uri)])


def waiting(app: Celery, queue: str) -> int:
    """How many messages are in a queue; none where there is no such queue."""
    with answering(app), app.connection_for_read() as connection:
        try:
            return int(connection.channel().queue_declare(queue, passive=True).message_count)
        except connection.channel_errors as exc:
            if str(getattr(exc, "reply_code", "")) != "404":
                raise
            return 0
