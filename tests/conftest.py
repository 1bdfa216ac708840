"""Fixtures that every kind of test uses: a clean environment and S3 stores."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator

import pytest

from storage.s3_clients import client_for
from storage.uris import parse
from tests.services import moto_server

GIVEN_S3 = os.environ.get("MASKMILL_TEST_S3_ENDPOINT")
S3_STORES = ["moto", *(["given"] if GIVEN_S3 else [])]
OWN_AWS = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the person who runs the tests."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "MASKMILL_")) and not name.startswith("MASKMILL_TEST_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)


@pytest.fixture(scope="session")
def moto() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


@pytest.fixture
def moto_s3(moto: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A new bucket in moto's server, as s3://bucket."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("MASKMILL_S3_ENDPOINT_URL", moto)
    return _new_bucket()


@pytest.fixture
def given_s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new bucket at MASKMILL_TEST_S3_ENDPOINT, with the AWS variables of the environment."""
    for name, value in OWN_AWS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASKMILL_S3_ENDPOINT_URL", GIVEN_S3 or "")
    root = _new_bucket()
    yield root
    bucket, client = root[len("s3://") :], client_for(parse(root))
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", ()):
            client.delete_object(Bucket=bucket, Key=found["Key"])
    client.delete_bucket(Bucket=bucket)


@pytest.fixture(params=S3_STORES)
def s3(request: pytest.FixtureRequest) -> str:
    """A new bucket in each S3 store at hand."""
    return str(request.getfixturevalue(f"{request.param}_s3"))


def _new_bucket() -> str:
    root = f"s3://maskmill-test-{uuid.uuid4().hex[:12]}"
    client_for(parse(root)).create_bucket(Bucket=root[len("s3://") :])
    return root
