"""What travels on the queue: which job and which shard, never data. Any of it may be lost."""

from __future__ import annotations

from typing import Any

import msgspec

from tasks.records import SCHEMA

SHARD = "maskmill.shard"
MERGE = "maskmill.merge"
SUBMIT = "maskmill.submit"
RECONCILE = "maskmill.reconcile"


class ShardMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    job: str
    run: str
    shard: int | str
    schema: int = SCHEMA


class MergeMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    job: str
    schema: int = SCHEMA


class SubmitMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What `maskmill submit` is asked, from any client: it is planned on the worker that takes it.

    options: by the names of the command's options, with underscores.
    """

    inputs: tuple[str, ...]
    model: str
    output: str
    options: dict[str, Any] = {}
    schema: int = SCHEMA


class ReconcileMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    schema: int = SCHEMA


def parse(kind: type[Any], body: dict[str, Any]) -> Any:
    """A message's body as its type; a wrong one is refused with the field that is wrong."""
    message = msgspec.convert(body, kind)
    if message.schema != SCHEMA:
        raise msgspec.ValidationError(f"schema {message.schema} is not one this worker reads")
    return message
