"""What S3 stores answer, as our errors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    CredentialRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    SSOError,
    TokenRetrievalError,
)

from storage.errors import (
    BadUri,
    Denied,
    Full,
    NoBucket,
    NoCredentials,
    NotFound,
    NotWritable,
    StorageError,
    TooLarge,
    Unavailable,
)
from storage.uris import Location

_ABSENT = frozenset({"NoSuchKey", "NoSuchVersion", "404", "NotFound"})
_LOGIN = frozenset(
    {"InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidToken", "InvalidClientTokenId"}
)
_LOGIN_EXPIRED = frozenset({"ExpiredToken", "TokenRefreshRequired", "RequestExpired"})
_FULL = frozenset({"QuotaExceeded", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded"})
CREDENTIAL_ERRORS = (
    NoCredentialsError,
    PartialCredentialsError,
    CredentialRetrievalError,
    TokenRetrievalError,
    SSOError,
)


@contextmanager
def translating(location: Location, *, writing: bool = False) -> Iterator[None]:
    try:
        yield
    except ClientError as error:
        raise _answered(location, error, writing) from error
    except CREDENTIAL_ERRORS as error:
        raise NoCredentials(location.uri) from error
    except ParamValidationError as error:
        raise BadUri(location.uri, "is not a usable URI: S3 takes no such key") from error
    except (BotoCoreError, RecursionError) as error:
        # Seen: a redirect without a region makes botocore ask for the region without end.
        raise Unavailable(location.uri) from error


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _answered(location: Location, error: ClientError, writing: bool) -> StorageError:
    code, status, uri = code_of(error), status_of(error), location.uri
    if code == "NoSuchBucket":
        return NoBucket(f"s3://{location.host}")
    if code in _ABSENT:
        return NotFound(uri)
    if code in _LOGIN:
        return NoCredentials(uri, "needs other credentials: the store does not accept these")
    if code in _LOGIN_EXPIRED:
        return NoCredentials(uri, "needs new credentials: these have expired")
    if code in _FULL or status == 507:
        return Full(uri)
    if code == "RequestTimeTooSkewed":
        return Denied(uri, "is denied: the clock of this machine is too far off")
    if code == "InvalidObjectState":
        return Denied(uri, "is archived and has to be restored before it can be read")
    if code == "EntityTooLarge":
        return TooLarge(uri, "is larger than its store takes")
    if code in ("InvalidBucketName", "KeyTooLongError", "InvalidURI"):
        return BadUri(uri, "is not a usable URI: its store takes no such name")
    if status in (401, 403, 405):
        return NotWritable(uri) if writing else Denied(uri)
    if status in (301, 307, 308) or code == "AuthorizationHeaderMalformed":
        return Unavailable(uri, "lives in another region than the one configured")
    if status == 429 or status >= 500 or not status:
        return Unavailable(uri)
    return Unavailable(uri, f"could not be used: its store answered with status {status}")
