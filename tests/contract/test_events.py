"""What queues tell of new objects, over a real Redis and moto's SQS and S3: nothing is lost."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote_plus

import msgspec
import pytest
from redis import Redis

from storage import get, list_entries
from storage.s3_clients import client_for
from storage.uris import parse
from tasks import events
from tasks.broker import BrokerDown, make_app, sqs_client
from tasks.events import check_queue, drain
from tasks.inputs import Found, find
from tasks.open_jobs import append
from tasks.records import Item
from tasks.state import Fleet, State
from tests.fleet import until
from tests.graphs import write_model
from tests.services import free_port, redis_server

ITEMS = msgspec.json.Decoder(Item)
ETAG = "9bb58f26192e4ba00f01e2e7b136bbd8"
KEYS = [
    *("plain.jpg", "a/deep/one.PNG", "with space.jpg", "plus+sign.jpg", "100%.jpg", "a%20b.jpg"),
    *(
        "hash#frame=3.jpg",
        "question?mark.jpg",
        "été/日本 語.jpg",
        "clip.mp4",
        "no suffix/it",
        "a&b=c.jpg",
    ),
]


class Queue(Protocol):
    url: str

    def send(self, *bodies: str) -> None: ...

    def waiting(self) -> int: ...


class RedisList:
    def __init__(self, url: str) -> None:
        self.key = uuid.uuid4().hex
        self.url = f"{url}/{self.key}"
        self.client = Redis.from_url(url)

    def send(self, *bodies: str | bytes) -> None:
        self.client.rpush(self.key, *bodies)

    def waiting(self) -> int:
        return int(self.client.llen(self.key))


class Sqs:
    def __init__(self, visibility_s: int = 30) -> None:
        name = f"q-{uuid.uuid4().hex}"
        self.url = f"sqs://{name}"
        self.client = sqs_client()
        attributes = {"VisibilityTimeout": str(visibility_s)}
        self.at = self.client.create_queue(QueueName=name, Attributes=attributes)["QueueUrl"]

    def send(self, *bodies: str) -> None:
        for start in range(0, len(bodies), 10):
            some = enumerate(bodies[start : start + 10])
            entries = [{"Id": str(n), "MessageBody": body} for n, body in some]
            self.client.send_message_batch(QueueUrl=self.at, Entries=entries)

    def waiting(self) -> int:
        """Those that are taken and not deleted count too."""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=self.at, AttributeNames=names)
        return sum(int(found["Attributes"][name]) for name in names)


class Taken:
    """What a drain had stored and buried."""

    def __init__(self) -> None:
        self.lots: list[list[Found]] = []
        self.letters: list[tuple[str, dict[str, Any]]] = []

    @property
    def found(self) -> list[Found]:
        return [each for lot in self.lots for each in lot]

    @property
    def uris(self) -> list[str]:
        return [each.uri for each in self.found]

    def bury(self, reason: str, letter: dict[str, Any]) -> None:
        self.letters.append((reason, letter))

    def drain(self, queue: Queue) -> Taken:
        drain(queue.url, self.lots.append, self.bury)
        return self


@pytest.fixture(scope="module")
def redis_url() -> Iterator[str]:
    with redis_server() as url:
        yield url


@pytest.fixture
def aws(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", moto)
    monkeypatch.setenv("AWS_REGION", "us-east-1")


@pytest.fixture
def redis_list(redis_url: str) -> RedisList:
    return RedisList(redis_url)


@pytest.fixture(params=["redis", "sqs"])
def queue(request: pytest.FixtureRequest) -> Queue:
    if request.param == "redis":
        return RedisList(request.getfixturevalue("redis_url"))
    request.getfixturevalue("aws")
    return Sqs()


def record(key: str, /, *, bucket: str = "photos", **more: Any) -> dict[str, Any]:
    """As AWS tells of an object that was put; `more`: fields of the object, or an eventName."""
    name = more.pop("name", "ObjectCreated:Put")
    of = {
        "key": quote_plus(key, safe="/"),
        "size": 1024,
        "eTag": ETAG,
        "sequencer": "0A1B2C",
        **more,
    }
    place = {"s3SchemaVersion": "1.0", "bucket": {"name": bucket, "arn": "arn:x"}, "object": of}
    return {"eventVersion": "2.1", "eventSource": "aws:s3", "eventName": name, "s3": place}


def aws_body(*records: dict[str, Any]) -> str:
    return json.dumps({"Records": records})


def sns_body(key: str) -> str:
    told = aws_body(record(key))
    return json.dumps(
        {"Type": "Notification", "Subject": "Amazon S3 Notification", "Message": told}
    )


def minio_record(key: str) -> dict[str, Any]:
    """It encodes the slash too, and its events have AWS's names in full."""
    made = record(key, name="s3:ObjectCreated:Put", key=quote_plus(key), contentType="image/jpeg")
    return {**made, "eventSource": "minio:s3", "source": {"host": "127.0.0.1"}}


def minio_list(key: str) -> str:
    """Its format `access` in Redis."""
    return json.dumps([{"Event": [minio_record(key)], "EventTime": "2026-11-21T20:00:00Z"}])


def minio_log(key: str) -> str:
    """As it sends to its other targets."""
    about = {"EventName": "s3:ObjectCreated:Put", "Key": f"photos/{key}"}
    return json.dumps({**about, "Records": [minio_record(key)]})


def ceph_body(key: str) -> str:
    """It does not encode the key, and says of the size what its documents show: text."""
    made = record(key, name="s3:ObjectCreated:Put", key=key, size="1024", versionId="")
    return json.dumps({"Records": [{**made, "eventSource": "ceph:s3", "opaqueData": "me"}]})


FORMS = [lambda key: aws_body(record(key)), sns_body, minio_list, minio_log, ceph_body]


@pytest.mark.parametrize("form", FORMS, ids=["aws", "sns", "minio-list", "minio-log", "ceph"])
def test_the_forms_of_stores(redis_list: RedisList, form: Callable[[str], str]) -> None:
    redis_list.send(*map(form, KEYS))
    taken = Taken().drain(redis_list)
    assert taken.letters == []
    assert {(each.uri, each.file_name) for each in taken.found} == {
        (f"s3://photos/{key}", key) for key in KEYS
    }
    assert {each.version for each in taken.found} == {ETAG}
    assert {each.uri for each in taken.found if each.part} == {"s3://photos/clip.mp4"}
    assert redis_list.waiting() == 0


def test_an_event_and_a_listing_of_one_object_are_one(moto_s3: str, aws: None) -> None:
    """The store itself tells of them, in requests that are no test's."""
    queue, bucket = Sqs(), parse(moto_s3).host
    s3 = client_for(parse(moto_s3))
    arn = f"arn:aws:sqs:us-east-1:123456789012:{queue.url[6:]}"
    told = {"QueueArn": arn, "Events": ["s3:ObjectCreated:*", "s3:ObjectRemoved:*"]}
    s3.put_bucket_notification_configuration(
        Bucket=bucket, NotificationConfiguration={"QueueConfigurations": [told]}
    )
    for n, key in enumerate([*KEYS, "folder/", "notes.txt", "gone.jpg"]):
        s3.put_object(Bucket=bucket, Key=key, Body=b"%d" % n)
    s3.put_object(Bucket=bucket, Key="plain.jpg", Body=b"again")
    s3.delete_object(Bucket=bucket, Key="gone.jpg")
    upload = {"Bucket": bucket, "Key": "in parts.jpg"}
    upload["UploadId"] = s3.create_multipart_upload(**upload)["UploadId"]
    part = s3.upload_part(**upload, PartNumber=1, Body=b"x")
    parts = {"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]}
    s3.complete_multipart_upload(**upload, MultipartUpload=parts)

    def facts(found: Any) -> set[Any]:
        return {(e.uri, e.file_name, e.version, e.part) for e in found if e.is_image}

    listed = facts(find([moto_s3]))
    taken = Taken().drain(queue)
    gone = {each for each in facts(taken.found) if each[1] == "gone.jpg"}
    assert len(gone) == 1, "it is for the fetch to find out"
    assert facts(taken.found) - gone == listed
    assert len(listed) == len(KEYS) + 1
    assert len(taken.found) == len(listed) + 1, "of what was put twice, what it is now"
    assert (taken.letters, queue.waiting()) == ([], 0)


def test_what_is_not_for_us_is_passed_over(queue: Queue) -> None:
    removed = record("a.jpg", name="ObjectRemoved:DeleteMarkerCreated")
    del removed["s3"]["object"]["eTag"]
    queue.send(
        json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "photos"}),
        aws_body(removed, record("b.jpg", name="ObjectRestore:Completed")),
        aws_body(record("notes.txt"), record("folder/"), record("kept.jpg")),
    )
    taken = Taken().drain(queue)
    assert taken.uris == ["s3://photos/kept.jpg"]
    assert (taken.letters, queue.waiting()) == ([], 0)


def test_the_last_event_of_an_object_counts(redis_list: RedisList) -> None:
    """Queues mix up their order; a sequencer that begins as another is older than that."""
    redis_list.send(
        aws_body(record("a.jpg", eTag="new", sequencer="0A2")),
        aws_body(record("a.jpg", eTag="old", sequencer="0A1FF")),
        aws_body(record("b.jpg", eTag="first", sequencer=None)),
        aws_body(record("b.jpg", eTag="second", sequencer=None)),
        aws_body(record("c.jpg", eTag='"quoted"')),
        aws_body(record("d.jpg", eTag=None)),
    )
    versions = {each.file_name: each.version for each in Taken().drain(redis_list).found}
    assert versions == {"a.jpg": "new", "b.jpg": "second", "c.jpg": "quoted", "d.jpg": None}


def test_two_buckets_may_have_the_same_keys(redis_list: RedisList) -> None:
    """In one lot, names that are the same would be refused."""
    keys = [("one", "a.jpg"), ("two", "a.jpg"), ("one", "b.jpg")]
    redis_list.send(*(aws_body(record(key, bucket=bucket)) for bucket, key in keys))
    lots = [[each.uri for each in lot] for lot in Taken().drain(redis_list).lots]
    assert lots == [["s3://one/a.jpg", "s3://one/b.jpg"], ["s3://two/a.jpg"]]


NO_NOTIFICATIONS = [
    *("", "not JSON", "17", "null", '"text"', "[]", "{}", "[[]]", '{"Records": 3}', "[" * 100_000),
    *('{"Message": "no JSON either"}', '{"Message": {}}', '{"Event": "s3:Other"}'),
    json.dumps({"detail-type": "Object Created", "detail": {"object": {"key": "a.jpg"}}}),
    json.dumps({"Records": [{"eventName": "ObjectCreated:Put"}]}),
    aws_body(record("a.jpg", key=5)),
    aws_body(record("a.jpg", key="%FF.jpg")),
    aws_body(record("a.jpg", bucket="no bucket/../name")),
    aws_body(record("a%00.jpg", key="a%00.jpg")),
    aws_body(record("a.jpg", key="")),
]


def test_what_cannot_be_read_is_buried_once_and_the_rest_goes_on(
    redis_list: RedisList, tmp_path: Path
) -> None:
    bad = [*NO_NOTIFICATIONS, b'{"Records": "\xff"}']
    for n, body in enumerate(bad):
        redis_list.send(body, aws_body(record(f"{n}.jpg")))
    taken, state = Taken(), State(str(tmp_path))
    for _ in range(2):
        drain(redis_list.url, taken.lots.append, state.bury_message)
    assert set(taken.uris) == {f"s3://photos/{n}.jpg" for n in range(len(bad))}
    assert redis_list.waiting() == 0
    letters = [json.loads(get(each.uri)) for each in list_entries(str(tmp_path / "dead") + "/")]
    assert len(letters) == len(bad)
    assert all(each["reason"].startswith("it is no notification of S3: ") for each in letters)
    assert {each["message"] for each in letters} >= {*NO_NOTIFICATIONS}


def test_sqs_goes_on_after_what_cannot_be_read(aws: None) -> None:
    queue = Sqs()
    queue.send("not JSON", aws_body(record("a.jpg")), "{}")
    taken = Taken().drain(queue)
    assert (taken.uris, queue.waiting()) == (["s3://photos/a.jpg"], 0)
    assert sorted(letter["message"] for _, letter in taken.letters) == ["not JSON", "{}"]


@pytest.mark.parametrize("kind", ["redis", "sqs"])
def test_a_crash_between_storing_and_deleting(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """All comes again, and the open job has each once all the same."""
    queue: Queue
    if kind == "redis":
        queue = RedisList(request.getfixturevalue("redis_url"))
    else:
        request.getfixturevalue("aws")
        queue = Sqs(visibility_s=1)
    queue.send(*(aws_body(record(f"{n}.jpg")) for n in range(25)), "not JSON")
    card, out = str(write_model(tmp_path / "model", "b")), str(tmp_path / "out")
    fleet = Fleet(make_app("memory://"), State(str(tmp_path / "state")))
    crashes, taken = [True], Taken()

    def store(found: list[Found]) -> None:
        append(found, card, out, shard_size=10, shared_paths=True, fleet=fleet)
        taken.lots.append(found)
        if crashes.pop():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drain(queue.url, store, taken.bury)
    assert queue.waiting() == 26, "nothing is deleted before all is stored"
    assert taken.letters == [], "nor buried, or each try would bury it anew"
    crashes += [False] * 100
    until(lambda: drain(queue.url, store, taken.bury) or not queue.waiting(), what="it is empty")
    assert [letter["message"] for _, letter in taken.letters] == ["not JSON"]
    assert set(taken.uris) == {f"s3://photos/{n}.jpg" for n in range(25)}
    assert len(taken.uris) >= 50, "it came twice"
    parts = [get(each.uri) for each in list_entries(f"{out}/plan/") if each.uri.endswith(".jsonl")]
    planned = [i.uri for data in parts for i in ITEMS.decode_lines(data)]
    assert set(planned) == set(taken.uris)
    if kind == "redis":
        assert len(planned) == 25, "the same messages are the same parts"


@pytest.mark.parametrize("count", [999, 1000, 3501])
def test_thousands_come_a_thousand_at_a_time(redis_list: RedisList, count: int) -> None:
    keys, rest = [f"{n:05}.jpg" for n in range(count)], count % 1000
    redis_list.send(*map(minio_list, keys))
    taken = Taken().drain(redis_list)
    assert [len(lot) for lot in taken.lots] == [
        *[1000] * (count // 1000),
        *([rest] if rest else []),
    ]
    assert [each.file_name for each in taken.found] == keys
    assert redis_list.waiting() == 0


def test_sqs_gives_ten_at_a_time_and_they_are_stored_together(
    aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fewer than in Redis: moto goes through all of them for each."""
    monkeypatch.setattr(events, "AT_ONCE", 100)
    queue, keys = Sqs(), {f"{n:05}.jpg" for n in range(250)}
    queue.send(*(aws_body(record(key)) for key in keys))
    taken = Taken().drain(queue)
    assert [len(lot) for lot in taken.lots] == [100, 100, 50]
    assert {each.file_name for each in taken.found} == keys
    assert queue.waiting() == 0


def test_two_that_drain_at_once_and_one_that_sends(queue: Queue) -> None:
    keys = {f"{n:05}.jpg" for n in range(4000 if isinstance(queue, RedisList) else 200)}
    bodies = [aws_body(record(key)) for key in sorted(keys)]
    queue.send(*bodies[: len(bodies) // 2])
    sides, failures = [Taken(), Taken()], list[BaseException]()
    sent = threading.Event()

    def side(taken: Taken) -> None:
        try:
            while not sent.is_set() or queue.waiting():
                taken.drain(queue)
        except BaseException as exc:  # noqa: BLE001
            failures.append(exc)

    threads = [threading.Thread(target=side, args=(each,)) for each in sides]
    for each in threads:
        each.start()
    for start in range(len(bodies) // 2, len(bodies), 10):
        queue.send(*bodies[start : start + 10])
    sent.set()
    for each in threads:
        each.join(120)
    assert failures == []
    assert {f.file_name for each in sides for f in each.found} == keys
    assert queue.waiting() == 0


def test_a_queue_that_is_never_empty_ends_all_the_same(
    aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A camera sends on and on: a run takes what it can, and leaves the rest to the next."""
    monkeypatch.setattr(events, "TAKING_S", 0.2)
    queue, stop, sent = Sqs(), threading.Event(), list[int]()

    def send() -> None:
        while not stop.is_set() and len(sent) < 5000:
            queue.send(*[aws_body(record(f"{len(sent)}-{n}.jpg")) for n in range(10)])
            sent.append(10)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        taken = Taken().drain(queue)
        assert thread.is_alive(), "it ended because the sender did"
    finally:
        stop.set()
        thread.join()
    assert taken.found
    again = taken.drain(queue)
    while queue.waiting():
        again.drain(queue)
    assert len(set(again.uris)) == sum(sent)


SECRET = "s3cr%2Fet"


def test_the_least_rights_in_redis() -> None:
    rights = ("on", f">{SECRET}", "~events", "-@all", "+@connection", "+select")
    rights = (*rights, "+lrange", "+lindex", "+lpop", "+eval")
    with redis_server("--user", "someone", *rights) as url:
        Redis.from_url(url.replace("/0", "/3")).rpush("events", aws_body(record("a.jpg")))
        taken, place = Taken(), url.removeprefix("redis://").removesuffix("/0")
        queue = f"redis://someone:{quote_plus(SECRET)}@{place}/3/events"
        for _ in range(2):
            drain(queue, taken.lots.append, fail)
        assert taken.uris == ["s3://photos/a.jpg"]


def fail(*given: Any) -> None:
    pytest.fail(f"there is nothing: {given}")


def refusal(url: str) -> str:
    with pytest.raises(BrokerDown) as caught:
        drain(url, fail, fail)
    said = str(caught.value)
    assert "cannot be read: " in said
    assert "\n" not in said
    assert not any(word in said for word in (SECRET, "s3cr", "testing"))
    return said


def test_a_dead_queue_is_named_without_its_password(
    redis_url: str, aws: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = redis_url.removeprefix("redis://")
    for user in ("", f":{SECRET}@", f"someone:{SECRET}@"):
        said = refusal(f"redis://{user}127.0.0.1:{free_port()}/0/events")
        assert said.startswith("redis://127.0.0.1:")
        assert "refused" in said
    said = refusal(f"redis://someone:{SECRET}@{place}/events")
    assert "password" in said
    Redis.from_url(redis_url).hset("a-hash", "photos/a.jpg", "{}")  # MinIO's format `namespace`
    assert "WRONGTYPE" in refusal(f"{redis_url}/a-hash")
    assert "sqs://none cannot be read: " in refusal("sqs://none")
    monkeypatch.delenv("AWS_REGION")
    assert "region" in refusal("sqs://none")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_SQS", f"http://127.0.0.1:{free_port()}")
    assert "Could not connect" in refusal("sqs://none")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "redentials" in refusal("sqs://none")


@pytest.mark.parametrize(
    "url",
    [
        *(
            "sqs://events",
            "sqs://Events_of-us.fifo",
            "redis://host/0/events",
            "redis://host:1/15/a:b",
        ),
        *(f"rediss://me:{SECRET}@host.example:6380/2/events", "redis://[::1]:6379/0/events"),
    ],
)
def test_urls_of_queues(url: str) -> None:
    check_queue(url)


@pytest.mark.parametrize(
    "url",
    [
        *(
            "",
            "events",
            "sqs://",
            "sqs:events",
            "sqs://host:9324/events",
            "https://sqs.example/1/q",
        ),
        *(
            "redis://host:6379/0",
            "redis://host/events",
            "redis://host:6379/0/",
            "redis:///0/events",
        ),
        *("amqp://host/0/events", "redis://host:6379/0/a/b", "redis://host:6379/0/events?db=1"),
        *("redis://me:s3cr/et@host:6379/0/events", "redis://me:s3cr#et@host:6379/0/events"),
        *("redis://me:s3cr@et@host:6379/0/events", "redis://me:s3cret/0/events"),
        *('redis://me:s3cr"et@host/0/events', "redis://host:6379/0/events\n", "memory://events"),
    ],
)
def test_urls_of_no_queue_are_refused_without_being_shown(url: str) -> None:
    with pytest.raises(ValueError, match="it takes sqs://NAME or redis://") as caught:
        check_queue(url)
    assert "s3cr" not in str(caught.value)
    assert "\n" not in str(caught.value)
