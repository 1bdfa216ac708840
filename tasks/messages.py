"""What travels on the queue: which job and which shard, never data. Any of it may be lost."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from tasks.inputs import ListLine
from tasks.records import SCHEMA

SHARD = "maskmill.shard"
MERGE = "maskmill.merge"
SUBMIT = "maskmill.submit"
ANNOTATE = "maskmill.annotate"
RECONCILE = "maskmill.reconcile"


Number = Annotated[int, msgspec.Meta(ge=0)]
Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{1,64}$")]  # part of a key: nothing else


class ShardMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    job: str
    run: Hash
    shard: Number | Hash
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


class AnnotateMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Inputs for an open job, from any client: stored by the worker that takes it, then sent on.

    items: URIs, or {"uri": …, "file_name": …}, taken as they are. output: the job's folder; the
    first message opens the job, and later ones ask for the same model and options.
    options: those of `maskmill submit` by name, with underscores, save those that choose, number
    or overwrite: threshold, classes, priority, target, per_image (a file for each input as soon as
    it is done), shard_size (inputs a shard where a message has many) and so on.
    """

    items: Annotated[tuple[str | ListLine, ...], msgspec.Meta(min_length=1)]
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
