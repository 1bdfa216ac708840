"""What S3 stores answer, as our errors."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from botocore import exceptions as botocore

from storage import errors
from storage.uris import Location

CREDENTIAL_ERRORS = (
    botocore.NoCredentialsError,
    botocore.PartialCredentialsError,
    botocore.CredentialRetrievalError,
    botocore.TokenRetrievalError,
    botocore.SSOError,
)

_KEY = errors.NotFound, None
_LOGIN = errors.NoCredentials, "needs other credentials: the store does not accept these"
_LOGIN_EXPIRED = errors.NoCredentials, "needs new credentials: these have expired"
_FULL = errors.Full, None
_NAME = errors.BadUri, "is not a usable URI: its store takes no such name"
_REGION = errors.Unavailable, "lives in another region than the one configured"

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
"""What an error code, else a status stands for, whoever answers it."""


@contextmanager
def translating(location: Location, *, writing: bool = False) -> Iterator[None]:
    try:
        yield
    except botocore.ClientError as error:
        raise _answered(location, error, writing) from error
    except CREDENTIAL_ERRORS as error:
        raise errors.NoCredentials(location.uri) from error
    except botocore.ParamValidationError as error:
        raise errors.BadUri(location.uri, "is not a usable URI: S3 takes no such key") from error
    except (botocore.BotoCoreError, RecursionError) as error:
        # Seen: a redirect without a region makes botocore ask for the region without end.
        raise errors.Unavailable(location.uri) from error


def code_of(error: BaseException | None) -> str:
    """The code of an answer; empty where there was none."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def status_of(error: BaseException | None) -> int:
    """The HTTP status of an answer; 0 where there was none."""
    return int(_answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _answer(error: BaseException | None) -> dict[str, Any]:
    return error.response if isinstance(error, botocore.ClientError) else {}


def _answered(
    location: Location, error: botocore.ClientError, writing: bool
) -> errors.StorageError:
    code, status, uri = code_of(error), status_of(error), location.uri
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
