"""One S3 client per account and process, made when first needed and shared by its threads."""

import os
import threading
from typing import Any

import botocore
import botocore.session
from botocore.config import Config
from botocore.configprovider import ConfiguredEndpointProvider
from botocore.exceptions import BotoCoreError, ProfileNotFound

from storage.errors import BadSetting, NoCredentials
from storage.s3_errors import CREDENTIAL_ERRORS, translating
from storage.settings import Account, account_for, s3_timeouts
from storage.streams import backoff
from storage.uris import Location

ANONYMOUS = "anonymous"

# As many connections as a worker has fetching threads, with room to spare.
_CONNECTIONS = 32
_ROUNDS = 10

_clients: dict[Any, Any] = {}
_lock = threading.Lock()


def client_for(location: Location) -> Any:
    """The client for a bucket or prefix, by the settings and AWS variables of this moment.

    The process id is part of the key, since sockets must not be shared across a fork.
    """
    account, timeouts = account_for(location.uri), s3_timeouts()
    aws = tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_")))
    key = (os.getpid(), account, *timeouts.values(), aws)
    with _lock:
        if key not in _clients:
            _clients[key] = _make(location.uri, account, timeouts)
        return _clients[key]


def ask(location: Location, operation: str, *, writing: bool = False, **arguments: Any) -> Any:
    """What the store answers to one request about an object; what goes wrong is ours."""
    with translating(location, writing=writing):
        request = getattr(client_for(location), operation)
        return request(Bucket=location.host, Key=location.path, **arguments)


def _make(uri: str, account: Account, timeouts: dict[str, float]) -> Any:
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
    except ProfileNotFound as error:
        raise NoCredentials(uri, f"needs the AWS profile {profile}, which is not set up") from error
    except CREDENTIAL_ERRORS as error:
        raise NoCredentials(uri) from error
    except (BotoCoreError, ValueError) as error:
        raise BadSetting("The AWS configuration", "cannot be used for S3") from error
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
