"""What a worker may touch, and what is kept of a message that it may not act on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tasks.broker import AnnotateMessage, SubmitMessage
from tasks.records import Routing, Selection, Wishes
from tasks.state import State
from tasks.submit import options_as
from worker.limits import Limits

PLACE = "https://h.example/in"


@pytest.mark.parametrize(
    ("uri", "roots", "allowed"),
    [
        (f"{PLACE}/a.jpg", [PLACE], True),
        (f"{PLACE}/a..b/..c/d...jpg", [PLACE], True),
        (f"{PLACE}/../secret/a.jpg", [PLACE], False),
        (f"{PLACE}/%2e%2E/secret/a.jpg", [PLACE], False),
        (f"{PLACE}/..%2Fsecret/a.jpg", [PLACE], False),
        (f"{PLACE}/..%5Csecret/a.jpg", [PLACE], False),
        (f"{PLACE}/..;x/secret/a.jpg", [PLACE], False),
        (f"{PLACE}/x/..", [PLACE], False),
        (f"{PLACE}/../in/a.jpg", [], True),
        ("https://h.example/inside/a.jpg", [PLACE], False),
        ("s3://bucket/in/../a.jpg", ["s3://bucket/in"], True),  # a key, taken literally
        ("s3://bucket/a.jpg", [], True),
        ("s3://bucket/a.jpg", ["/data"], False),
        ("/data/a.jpg", ["s3://bucket"], False),
        ("/data/../etc/a.jpg", ["/data"], False),
        ("/data/a.jpg", [], False),
    ],
)
def test_where_roots_are_named_only_these_are_allowed(uri: str, roots: Any, allowed: bool) -> None:
    assert (Limits(input_roots=tuple(roots)).refused_input(uri) == "") == allowed


@pytest.mark.parametrize(
    "body",
    [
        {"items": ["HTTPS://user:SECRET@h.example/a.jpg?X-Amz-Signature=SECRET&b=SECRET"]},
        {"items": [{"uri": "http://h.example/a b?sig=SECRET'SECRET\"SECRET\\SECRET"}]},
        repr({"items": ["http://h.example/a?SECRET", "kept?"]}),
        repr(b'{"items": ["http:\\/\\/h.example\\/a?SECRET\\/SECRET"], "kept": 1}'),
    ],
)
def test_a_dead_letter_keeps_no_query(tmp_path: Path, body: Any) -> None:
    State(str(tmp_path)).bury_message("it does not fit", {"task": "t", "body": body})
    (letter,) = (tmp_path / "dead").iterdir()
    kept = letter.read_bytes()
    assert b"SECRET" not in kept
    assert b"h.example" in kept
    assert (b"kept" in kept) == ("kept" in str(body))
    assert json.loads(kept)["reason"] == "it does not fit"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_failures": 3}, "options has no 'max_failures'"),
        ({"replace_edited": True}, "options has no 'replace_edited'"),
        ({"limit": -1}, "limit"),
        ({"sample": 0}, "sample"),
    ],
)
def test_an_option_that_would_be_ignored_is_refused(options: dict[str, Any], words: str) -> None:
    for kind, given in ((SubmitMessage, "inputs"), (AnnotateMessage, "items")):
        body = {given: ["s3://b/a.jpg"], "model": "m", "output": "s3://b/out", "options": options}
        message = msgspec.convert(body, kind)
        kinds = [Selection] if given == "inputs" else []
        if kinds or "limit" not in options:
            with pytest.raises(msgspec.ValidationError, match=words):
                options_as(message, *kinds, Routing, Wishes)


def test_a_dead_letter_holds_what_utf_8_cannot(tmp_path: Path) -> None:
    body = {"items": ["s3://b/\ud800 é.jpg", "http://us\ud800r:SECRET@h.example/a"]}
    State(str(tmp_path)).bury_message("it holds text that is not UTF-8", {"body": body})
    (letter,) = (tmp_path / "dead").iterdir()
    kept = json.loads(letter.read_bytes())
    assert kept["body"]["items"] == ["s3://b/\ud800 é.jpg", "http://h.example/a"]
