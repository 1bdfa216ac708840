"""Parsing and joining URIs: plain paths, `file://`, `s3://` and `http(s)://`, and patterns of them.

Keys of S3 are taken literally. `file://` and HTTP paths are percent-encoded.
Names on disk are bytes; those that are not UTF-8 travel as surrogate escapes, and `storable`
turns them into a `file://` URI that JSON can hold.

In a pattern `*`, `?` and `[…]` stay inside one path part, `**` as a whole part crosses. An HTTP URI
holds none: its question mark starts the query. A file may be called `a[1].jpg`, so whoever reads
patterns looks first whether the URI exists as it stands.
"""

import fnmatch
import glob
import os
import re
from typing import NamedTuple
from urllib.parse import quote, unquote_to_bytes, urlsplit

from storage.errors import BadUri
from storage.errors import shown as shown
from storage.errors import without_query as without_query

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_BUCKET = re.compile(r"[A-Za-z0-9._-]{1,255}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MAGIC = re.compile(r"[*?]|\[[^/]+\]")
_PERCENT_ENCODED = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_NOT_UTF8 = re.compile("[\ud800-\udfff]")  # surrogates, as which Python holds other bytes


class Location(NamedTuple):
    """A parsed URI: `host` is the bucket or host name, `path` the decoded path or key."""

    uri: str
    scheme: str
    host: str
    path: str


def parse(uri: str) -> Location:
    """Take a URI apart; what no store could take is `BadUri`."""
    match = _SCHEME.match(uri)
    scheme = match[1].lower() if match else "file"
    if not uri or "\0" in uri:
        raise BadUri(uri, "is not a usable URI: it is empty or holds a NUL")
    if match is None:
        return Location(uri, scheme, "", uri)
    host, _, rest = uri[match.end() :].partition("/")
    if scheme == "file":
        return _parse_file(uri, host, rest)
    if _NOT_UTF8.search(uri):
        raise BadUri(uri, "is not a usable URI: it is not valid UTF-8")
    if scheme in ("http", "https"):
        return _parse_http(uri, scheme)
    if scheme != "s3":
        raise BadUri(uri, f"is not a usable URI: {scheme}:// is not supported")
    if not _BUCKET.fullmatch(host):
        raise BadUri(uri, "is not a usable URI: it names no valid bucket")
    return Location(uri, scheme, host, rest)


def _parse_file(uri: str, host: str, rest: str) -> Location:
    if host not in ("", "localhost"):
        raise BadUri(uri, "is not a usable URI: file:// takes an absolute path, file:///…")
    path = "/" + os.fsdecode(unquote_to_bytes(os.fsencode(rest)))
    if "\0" in path:
        raise BadUri(uri, "is not a usable URI: it holds a NUL")
    return Location(uri, "file", "", path)


def _parse_http(uri: str, scheme: str) -> Location:
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise BadUri(uri, "is not a usable URI: its host or port is malformed") from error
    if not host or port == 0 or _CONTROL.search(uri):
        raise BadUri(uri, "is not a usable URI: no host, the port 0, or control characters")
    return Location(uri, scheme, host, os.fsdecode(unquote_to_bytes(parts.path[1:])))


def join(root: str, *parts: str) -> str:
    """The URI of `parts`, taken literally, below the folder `root`; an HTTP query stays last."""
    scheme = parse(root).scheme
    is_http = scheme in ("http", "https")
    base, mark, query = root.partition("?") if is_http else (root, "", "")
    relative_path = "/".join(parts)
    if is_http or (scheme == "file" and _SCHEME.match(root)):
        relative_path = quote(os.fsencode(relative_path))
    return (base if base.endswith("/") else base + "/") + relative_path + mark + query


def below(root: str, relative_path: str) -> str:
    """`join` for a path that comes from outside: refuses what could leave or alias `root`."""
    pieces = relative_path.split("/")
    if any(piece in ("", ".", "..") or "\\" in piece or "\0" in piece for piece in pieces):
        why = "it has empty, . or .. parts, a backslash or a NUL"
        raise BadUri(relative_path, f"is no path below a folder: {why}")
    return join(root, relative_path)


def relative(uri: str, root: str) -> str:
    """The decoded path of `uri` below the folder `root`."""
    one, other = parse(uri), parse(root)
    path, folder = one.path, other.path
    if (one.uri == one.path) != (other.uri == other.path):  # a plain path and a file:// one
        path, folder = os.path.abspath(path), os.path.abspath(folder)
    folder = as_folder(folder)
    same_store = (one.scheme, one.host) == (other.scheme, other.host)
    if not same_store or not path.startswith(folder) or path == folder:
        raise BadUri(uri, f"is not below {shown(root)}")
    return path[len(folder) :]


def as_folder(path: str) -> str:
    """A path or key with its closing slash; the root of a bucket is the empty one."""
    return path if not path or path.endswith("/") else path + "/"


def parent(uri: str) -> str:
    """The folder that holds `uri`, with its closing slash; a root is its own parent."""
    is_http = parse(uri).scheme in ("http", "https")
    path = uri.partition("?")[0] if is_http else uri
    head, slash, _ = path.rstrip("/").rpartition("/")
    if not path.strip("/") or head.endswith(":/"):
        return as_folder(path)
    return head + "/" if slash else "./"


def basename(uri: str) -> str:
    """The last part of the path, decoded."""
    return parse(uri).path.rstrip("/").rpartition("/")[2]


def of_frame(uri: str, index: int) -> str:
    """The URI of a video's frame, counted from 0 in presentation order."""
    return f"{uri}#frame={index}"


def without_frame(uri: str) -> str:
    """The video of a frame that `of_frame` named. An image's URI is not to be given here."""
    return uri.rpartition("#frame=")[0]


def storable(uri: str) -> str:
    """`uri` itself, or for a local name that is not UTF-8 its `file://` form, which is ASCII."""
    if not _NOT_UTF8.search(uri):
        return uri
    return "file://" + quote(os.fsencode(os.path.abspath(parse(uri).path)))


class Glob(NamedTuple):
    """`root` is the folder to list, `start` how every matching path below it begins."""

    root: str
    start: str
    parts: tuple[str, ...]

    def matches(self, relative_path: str) -> bool:
        """By how many names the pattern so far may have taken up: never in exponential time."""
        names = relative_path.split("/")
        taken = {0}
        for part in self.parts:
            if part == "**":
                taken = set(range(min(taken, default=len(names) + 1), len(names) + 1))
            else:
                followed = (n for n in taken if n < len(names))
                taken = {n + 1 for n in followed if fnmatch.fnmatchcase(names[n], part)}
        return len(names) in taken


def is_glob(uri: str) -> bool:
    return parse(uri).scheme not in ("http", "https") and _MAGIC.search(uri) is not None


def parse_glob(uri: str) -> Glob:
    """Split a pattern into the folder before it and the pattern of the paths below."""
    magic = _MAGIC.search(uri)
    cut = uri.rfind("/", 0, magic.start() if magic else len(uri)) + 1
    root, pattern = uri[:cut] or "./", uri[cut:]
    if uri[: len("file://")].lower() == "file://":
        pattern = _PERCENT_ENCODED.sub(_literal, pattern)
    first = _MAGIC.search(pattern)
    return Glob(root, pattern[: first.start() if first else None], tuple(pattern.split("/")))


def _literal(encoded: re.Match[str]) -> str:
    return glob.escape(os.fsdecode(unquote_to_bytes(encoded[0])))
