"""Requests to S3: one client per account and process, and what stores answer as our errors.

A client is made when first needed and shared by the threads.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import botocore
import botocore.session
from botocore import exceptions
from botocore.config import Config
from botocore.configprovider import ConfiguredEndpointProvider

from storage import backoff, errors
from storage.settings import Account, account_for, s3_timeouts
from storage.uris import Location

ANONYMOUS = "anonymous"

# As many connections as a worker has fetching threads, with room to spare.
_CONNECTIONS = 32
_ROUNDS = 10

_CREDENTIAL_ERRORS = (
    exceptions.NoCredentialsError,
    exceptions.PartialCredentialsError,
    exceptions.CredentialRetrievalError,
    exceptions.TokenRetrievalError,
    exceptions.SSOError,
    exceptions.ProfileNotFound,
)

_KEY = errors.NotFound, None
_LOGIN = errors.NoCredentials, "needs other credentials: the store does not accept these"
_LOGIN_EXPIRED = errors.NoCredentials, "needs new credentials: these have expired"
_FULL = errors.Full, None
_NAME = errors.BadUri, "is not a usable URI: its store takes no such name"
_REGION = errors.Unavailable, "lives in another region than the one configured"

# What an error code, else a status stands for, whoever answers it.
_ANSWERS: dict[str | int, tuple[type[errors.StorageError], str | None]] = {
    **dict.fromkeys(("NoSuchKey", "NoSuchVersion", "NotFound", "404"), _KEY),
    **dict.fromkeys(("InvalidAccessKeyId", "SignatureDoesNotMatch"), _LOGIN),
    **dict.fromkeys(("InvalidToken", "InvalidClientTokenId"), _LOGIN),
    **dict.fromkeys(("ExpiredToken", "TokenRefreshRequired", "RequestExpired"), _LOGIN_EXPIRED),
    **dict.fromkeys(("QuotaExceeded", "XMinioStorageFull", 507), _FULL),
    "XMinioAdminBucketQuotaExceeded": _FULL,
    **dict.fromkeys(("InvalidBucketName", "KeyTooLongError", "InvalidURI"), _NAME),
    "RequestTimeTooSkewed": (errors.Denied, "is denied: this machine's clock is too far off"),
    "InvalidObjectState": (errors.Denied, "is archived: it has to be restored before reading"),
    "EntityTooLarge": (errors.TooLarge, "is larger than its store takes"),
    **dict.fromkeys(("AuthorizationHeaderMalformed", 301, 307, 308), _REGION),
    409: (errors.Unavailable, "could not be written: other writers keep getting in the way"),
    412: (errors.Unavailable, "changed while it was read"),
}

_lock = threading.Lock()


def client_for(location: Location) -> Any:
    """The client for a bucket or prefix, by the settings and AWS variables of this moment.

    The process id is part of the key, since sockets must not be shared across a fork.
    """
    aws = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    with translating(location), _lock:
        return _client(os.getpid(), account_for(location.uri), aws, **s3_timeouts())


def ask(location: Location, operation: str, *, writing: bool = False, **arguments: Any) -> Any:
    """What the store answers to one request about an object; what goes wrong is ours."""
    with translating(location, writing=writing):
        request = getattr(client_for(location), operation)
        return request(Bucket=location.host, Key=location.path, **arguments)


@lru_cache
def _client(process: int, account: Account, aws: tuple[Any, ...], **timeouts: float) -> Any:
    unsigned = account.profile == ANONYMOUS
    profile = None if unsigned else account.profile
    session = botocore.session.Session(profile=profile)
    parsers = session.get_component("response_parser_factory")
    # None is of use here, and to read them takes most of the time of a long listing.
    parsers.set_parser_defaults(timestamp_parser=lambda value: value)
    try:
        client = session.create_client(
            "s3",
            endpoint_url=account.endpoint_url or _endpoint_of_profile(session, profile),
            config=Config(
                signature_version=botocore.UNSIGNED if unsigned else None,
                retries={"mode": "standard", "total_max_attempts": max_attempts()},
                **timeouts,
                request_checksum_calculation=_checksums("REQUEST_CHECKSUM_CALCULATION"),
                response_checksum_validation=_checksums("RESPONSE_CHECKSUM_VALIDATION"),
                max_pool_connections=_CONNECTIONS,
                user_agent_extra="maskmill",
            ),
        )
    except _CREDENTIAL_ERRORS:
        raise
    except (exceptions.BotoCoreError, ValueError) as error:
        raise errors.BadSetting("The AWS configuration", "cannot be used for S3") from error
    client.meta.events.register("needs-retry.s3.PutObject", _try_again)
    return client


def _try_again(attempts: int, response: Any = None, **_: Any) -> float | None:
    """409 says that another conditional write to the same key is under way."""
    is_conflict = response is not None and response[0].status_code == 409
    return backoff(attempts) if is_conflict and attempts < _ROUNDS else None


def max_attempts() -> int:
    """Of a request, the first with them."""
    return int(os.environ.get("AWS_MAX_ATTEMPTS", "6"))


def _checksums(which: str) -> str:
    """By AWS's own variable, else only where S3 requires them: not every store knows them."""
    return os.environ.get(f"AWS_{which}", "when_required")


def _endpoint_of_profile(session: Any, profile: str | None) -> Any:
    """The endpoint that a profile names, ahead of AWS_ENDPOINT_URL, which botocore would prefer.

    A profile given for one bucket is more specific than a variable for all.
    """
    if profile is None:
        return None
    scoped, no_variables = session.get_scoped_config(), dict[str, str]()
    return ConfiguredEndpointProvider(session.full_config, scoped, "s3", no_variables).provide()


@contextmanager
def translating(location: Location, *, writing: bool = False) -> Iterator[None]:
    try:
        yield
    except exceptions.ClientError as error:
        raise _meant(location, error, writing) from error
    except _CREDENTIAL_ERRORS as error:
        profile = getattr(error, "kwargs", {}).get("profile")
        why = profile and f"needs the AWS profile {profile}, which is not set up"
        raise errors.NoCredentials(location.uri, why) from error
    except exceptions.ParamValidationError as error:
        raise errors.BadUri(location.uri, "is not a usable URI: S3 takes no such key") from error
    except (exceptions.BotoCoreError, RecursionError) as error:
        # Seen: a redirect without a region makes botocore ask for the region without end.
        raise errors.Unavailable(location.uri) from error


def answered(error: BaseException | None) -> tuple[str, int]:
    """The code and the HTTP status of an answer; empty and 0 where there was none."""
    said = error.response if isinstance(error, exceptions.ClientError) else {}
    status = said.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(said.get("Error", {}).get("Code", "")), int(status)


def _meant(location: Location, error: exceptions.ClientError, writing: bool) -> errors.StorageError:
    (code, status), uri = answered(error), location.uri
    if code == "NoSuchBucket":
        return errors.NoBucket(f"s3://{location.host}")
    if status == 412 and writing:
        return errors.Exists(uri)
    known = _ANSWERS.get(code) or _ANSWERS.get(status)
    if known is not None:
        kind, why = known
        return kind(uri, why)
    if status in (401, 403, 405):
        return errors.NotWritable(uri) if writing else errors.Denied(uri)
    if status == 429 or status >= 500 or not status:
        return errors.Unavailable(uri)
    return errors.Unavailable(uri, f"could not be used: its store answered with status {status}")
