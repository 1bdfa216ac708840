"""What stores tell of new objects: messages in the form of S3's notifications, from a queue.

The queue is an SQS, `sqs://NAME`, or a list in Redis, `redis://host:6379/0/LIST`, to which MinIO
and others append. A message is deleted once what it tells of is stored; so it may come twice.
"""

import re
from collections.abc import Callable, Iterator
from functools import partial
from itertools import groupby
from time import monotonic
from urllib.parse import unquote_plus

import msgspec
from botocore.exceptions import BotoCoreError, ClientError
from redis import RedisError

from storage import Entry, parse, shown
from storage.s3 import version_of
from tasks.broker import BrokerDown, redis_at, sqs_client
from tasks.inputs import Found, listed

AT_ONCE = 1000  # messages that are taken before what they tell of is stored
TAKING_S = 20.0  # for those of SQS, which gives a message again after 30 unless told otherwise
# What stands where a port belongs may be a password.
_REDIS = (
    r'(rediss?://(?:[^\s"/\\?#@]*@)?(?:[^\s/?#@:]+|\[[\da-f:]+\])(?::\d{1,5})?/\d+)/([^\s/?#]+)'
)
# Only from the list's head: another process may have deleted them, and the list may be long.
_DELETE = """for n, message in ipairs(ARGV) do
  if redis.call('LINDEX', KEYS[1], 0) ~= message then return n - 1 end
  redis.call('LPOP', KEYS[1])
end return #ARGV"""


def check_queue(url: str) -> tuple[str, ...]:
    """An SQS's name, a Redis and its list. Nothing is asked of them, and the URL is not shown."""
    if found := re.fullmatch(rf"sqs://([\w.-]+)|{_REDIS}", url):
        return found.groups()
    raise ValueError("it takes sqs://NAME or redis://user:password@host:6379/0/LIST, URL-encoded")


def drain(url: str, store: Callable[[list[Found]], object], bury: Callable[..., object]) -> None:
    """Have `store` take the images and videos that a queue tells of, of one bucket at a time.

    Of an object that changed in between, its last event counts.
    bury: takes why a message cannot be read, and what it says, as State.bury_message does.
    """
    sqs, *redis = check_queue(url)
    try:
        for bodies in _of_sqs(sqs) if sqs else _of_redis(*redis):
            made, letters = list[tuple[str, Found]](), list[tuple[str, dict[str, str]]]()
            for body in bodies:
                try:
                    made += _made(body)
                except Exception as exc:  # noqa: BLE001  anything may be in a queue
                    letters.append((f"it is no notification of S3: {exc!r}", {"message": body}))
            last = {each.uri: each for _, each in sorted(made, key=lambda each: each[0])}
            for _, some in groupby(sorted(last), lambda uri: parse(uri).host):
                store([last[uri] for uri in some])
            for letter in letters:
                bury(*letter)
    except (RedisError, BotoCoreError, ClientError) as exc:
        raise BrokerDown(shown(f"{url} cannot be read: {exc}")) from exc


def _made(body: str) -> Iterator[tuple[str, Found]]:
    """The images and videos that were made, each behind what orders its events.

    What was removed is for a schedule that lists to find.
    """
    told = msgspec.json.decode(body)
    (message,) = told if isinstance(told, list) else [told]  # MinIO appends a list of one to Redis
    if "Message" in message:  # as SNS passes it on
        message = msgspec.json.decode(message["Message"])
    records = message.get("Event") or message["Records"]
    for record in [] if records == "s3:TestEvent" else records:
        bucket, there = record["s3"]["bucket"]["name"], record["s3"]["object"]
        is_plain = str(record.get("eventSource")).startswith("ceph:")  # not encoded, as in a form
        key = there["key"] if is_plain else unquote_plus(there["key"], errors="strict")
        if "ObjectCreated:" in record["eventName"] and not key.endswith("/"):
            version = version_of({"ETag": there.get("eTag") or ""})
            entry = Entry(f"s3://{bucket}/{key}", -1, version)
            found = listed(f"s3://{parse(entry.uri).host}", [entry])
            yield from ((str(there.get("sequencer")), each) for each in found if each.is_image)


def _of_redis(url: str, key: str) -> Iterator[list[str]]:
    """Messages, deleted when the next are asked for. A batch that is not full is the last."""
    with redis_at(url) as client:
        bodies, deleted = [""] * AT_ONCE, 1
        while deleted and len(bodies) == AT_ONCE:
            bodies = client.lrange(key, 0, AT_ONCE - 1)
            yield bodies
            deleted = client.eval(_DELETE, 1, key, *bodies)


def _of_sqs(name: str) -> Iterator[list[str]]:
    client = sqs_client()
    url = client.get_queue_url(QueueName=name)["QueueUrl"]
    ask = partial(client.receive_message, QueueUrl=url, MaxNumberOfMessages=10, WaitTimeSeconds=1)
    more = True
    while more:
        taken, end = list[list[dict[str, str]]](), monotonic() + TAKING_S
        while len(taken) < AT_ONCE // 10 and (more := monotonic() < end and ask().get("Messages")):
            taken.append(more)
        yield [each["Body"] for ten in taken for each in ten]
        for ten in taken:
            done = [{"Id": m["MessageId"], "ReceiptHandle": m["ReceiptHandle"]} for m in ten]
            client.delete_message_batch(QueueUrl=url, Entries=done)
