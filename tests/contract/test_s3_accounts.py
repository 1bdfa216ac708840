"""Which credentials and which endpoint a bucket gets, and what is said when they do not do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import storage
from storage import errors
from storage.s3_clients import client_for
from storage.settings import account_for
from storage.uris import parse
from tests.services import free_port

VERBS = {
    "get": storage.get,
    "exists": storage.exists,
    "list": lambda uri: list(storage.list_entries(uri)),
    "put": lambda uri: storage.put(uri, b"x"),
    "create": lambda uri: storage.put(uri, b"x", create_only=True),
    "delete": storage.delete,
}


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> str:
    """An endpoint where nothing listens, for all buckets without an account of their own."""
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    endpoint = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("MASKMILL_S3_ENDPOINT_URL", endpoint)
    return endpoint


@pytest.mark.parametrize("verb", VERBS)
def test_a_missing_bucket_is_named(s3: str, verb: str) -> None:
    with pytest.raises(errors.NoBucket) as caught:
        VERBS[verb]("s3://maskmill-no-such-bucket/some/key")
    assert str(caught.value) == "s3://maskmill-no-such-bucket is a bucket that does not exist"


@pytest.mark.parametrize("verb", VERBS)
def test_missing_credentials_are_named(
    moto_s3: str, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(errors.NoCredentials, match="needs credentials, and none were found"):
        VERBS[verb](f"{moto_s3}/key")


def test_half_of_the_credentials_are_none(moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(errors.NoCredentials):
        storage.get(f"{moto_s3}/key")


def test_a_profile_that_is_not_set_up_is_named(
    moto_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKMILL_S3_PROFILES", f"{moto_s3}=nobody")
    with pytest.raises(errors.NoCredentials, match="AWS profile nobody, which is not set up"):
        storage.get(f"{moto_s3}/key")


def test_a_broken_aws_configuration_is_named(
    moto_s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "config").write_text("no section\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with pytest.raises(errors.BadSetting, match="AWS configuration"):
        storage.get(f"{moto_s3}/key")


def test_anonymous_reads_what_is_public_and_nothing_else(
    moto_s3: str, moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{moto_s3}/a/photo.jpg"
    storage.put(uri, b"private")
    monkeypatch.setenv("MASKMILL_S3_PROFILES", f"{moto_s3}=anonymous@{moto}")
    with pytest.raises(errors.Denied, match="access was denied"):
        storage.get(uri)
    monkeypatch.delenv("MASKMILL_S3_PROFILES")
    location = parse(uri)
    policy = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": "*",
                "Action": "s3:GetObject",
                "Resource": f"arn:aws:s3:::{location.host}/*",
            }
        ],
    }
    client_for(location).put_bucket_policy(Bucket=location.host, Policy=json.dumps(policy))
    monkeypatch.setenv("MASKMILL_S3_PROFILES", f"{moto_s3}/a=anonymous@{moto}")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert storage.get(uri) == b"private"
    with pytest.raises(errors.NotWritable):
        storage.put(uri, b"mine now")
    with pytest.raises(errors.NoCredentials):
        storage.get(f"{moto_s3}/other/photo.jpg")


@pytest.mark.usefixtures("nowhere")
def test_a_profile_brings_its_own_endpoint(
    moto_s3: str, nowhere: str, moto: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """AWS variables stand for another store here and must not win over the profile."""
    (tmp_path / "config").write_text(
        f"[profile plain]\nendpoint_url = {moto}\n"
        "aws_access_key_id = a\naws_secret_access_key = b\n"
        "[profile by-service]\nservices = theirs\n"
        "aws_access_key_id = a\naws_secret_access_key = b\n"
        f"[services theirs]\ns3 =\n  endpoint_url = {moto}\n"
    )
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_ENDPOINT_URL", nowhere)
    monkeypatch.setenv("MASKMILL_S3_ENDPOINT_URL", nowhere)
    for profile in ("plain", "by-service"):
        monkeypatch.setenv("MASKMILL_S3_PROFILES", f"s3://elsewhere=x,{moto_s3}={profile}")
        storage.put(f"{moto_s3}/key", profile.encode())
        assert storage.get(f"{moto_s3}/key") == profile.encode()


def test_aws_variables_alone_are_enough(
    moto_s3: str, moto: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MASKMILL_S3_ENDPOINT_URL")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto)
    storage.put(f"{moto_s3}/key", b"x")
    assert storage.get(f"{moto_s3}/key") == b"x"


def test_a_custom_endpoint_gets_paths_and_aws_gets_host_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")

    def signed() -> str:
        client = client_for(parse("s3://bucket/key"))
        params = {"Bucket": "bucket", "Key": "key"}
        return str(client.generate_presigned_url("get_object", Params=params))

    assert signed().startswith("https://bucket.s3")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store.example:9000")
    assert signed().startswith("http://store.example:9000/bucket/key?")
    monkeypatch.setenv("MASKMILL_S3_ENDPOINT_URL", "https://other.example")
    assert signed().startswith("https://other.example/bucket/key?")


def test_the_longest_prefix_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "MASKMILL_S3_PROFILES", "s3://b=one, s3://b/deep=two@https://h:9,s3://b/deep/er/=three"
    )
    found = {
        uri: account_for(uri).profile
        for uri in ("s3://b/x", "s3://b/deep", "s3://b/deep/x", "s3://b/deeper", "s3://b/deep/er/x")
    }
    assert list(found.values()) == ["one", "two", "two", "one", "three"]
    assert account_for("s3://bb/x").profile is None
    assert account_for("s3://b/deep").endpoint_url == "https://h:9"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MASKMILL_S3_ENDPOINT_URL", "store.example:9000"),
        ("MASKMILL_S3_ENDPOINT_URL", "http://store:port"),
        ("MASKMILL_S3_ENDPOINT_URL", "http://store:0"),
        ("MASKMILL_S3_PROFILES", "bucket=profile"),
        ("MASKMILL_S3_PROFILES", "s3://bucket"),
        ("MASKMILL_S3_PROFILES", "s3://bucket=p@http://"),
        ("MASKMILL_S3_CONNECT_TIMEOUT", "-1"),
        ("MASKMILL_S3_READ_TIMEOUT", "nan"),
    ],
)
def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(errors.BadSetting) as caught:
        storage.get("s3://bucket/key")
    assert str(caught.value).startswith(f"{name} must ")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_MAX_ATTEMPTS", "0"),
        ("AWS_MAX_ATTEMPTS", "many"),
        ("AWS_REQUEST_CHECKSUM_CALCULATION", "never"),
    ],
)
def test_a_bad_aws_setting_is_one(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(errors.BadSetting, match="The AWS configuration cannot be used for S3"):
        storage.get("s3://bucket/key")


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("verb", VERBS)
def test_a_store_that_is_not_there_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    with pytest.raises(errors.Unavailable) as caught:
        VERBS[verb]("s3://bucket/key")
    assert str(caught.value) == "s3://bucket/key could not be reached: its store does not answer"


def test_checksums_can_be_asked_for(moto_s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.put(f"{moto_s3}/without", b"x")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_supported")
    storage.put(f"{moto_s3}/with", b"x")
    assert storage.get(f"{moto_s3}/with") == b"x"
    location = parse(moto_s3)
    head = client_for(location).head_object
    without, with_sums = (
        head(Bucket=location.host, Key=key, ChecksumMode="ENABLED") for key in ("without", "with")
    )
    assert "ChecksumCRC32" in with_sums
    assert "ChecksumCRC32" not in without


@pytest.mark.parametrize("key", ["", "a\udcff"])
def test_keys_that_s3_does_not_take(moto_s3: str, key: str) -> None:
    for verb in ("get", "exists", "put", "create", "delete"):
        with pytest.raises(errors.BadUri):
            VERBS[verb](f"{moto_s3}/{key}")


def test_folders_made_by_a_console_are_no_objects(s3: str) -> None:
    storage.put(f"{s3}/photos/", b"")
    storage.put(f"{s3}/photos/1.jpg", b"")
    assert [entry.uri for entry in storage.list_entries(s3)] == [f"{s3}/photos/1.jpg"]


def test_long_listings_come_in_pages(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{n:03}.jpg" for n in range(25)]
    for name in names:
        storage.put(f"{s3}/{name}", b"")
    client, asked = client_for(parse(s3)), []
    list_page = client.list_objects_v2

    def short_pages(**options: object) -> object:
        asked.append(options)
        return list_page(**options, MaxKeys=10)

    monkeypatch.setattr(client, "list_objects_v2", short_pages)
    assert [entry.uri for entry in storage.list_entries(s3)] == [f"{s3}/{name}" for name in names]
    assert len(asked) == 3
