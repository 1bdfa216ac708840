"""What travels on the queue: which job and which shard, never data. Any of it may be lost."""

from typing import Annotated, Any, ClassVar

import msgspec

from tasks.inputs import ListLine
from tasks.records import Schema

Number = Annotated[int, msgspec.Meta(ge=0)]
Hash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{1,64}$")]  # part of a key: nothing else


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    task: ClassVar[str]  # its name, which clients know
    schema: Schema = 1


class ShardMessage(Message, frozen=True):
    task = "maskmill.shard"
    job: str
    run: Hash
    shard: Number | Hash


class MergeMessage(Message, frozen=True):
    task = "maskmill.merge"
    job: str


class SubmitMessage(Message, frozen=True):
    """What `maskmill submit` is asked, from any client: it is planned on the worker that takes it.

    options: by the names of the command's options, with underscores.
    """

    task = "maskmill.submit"
    inputs: tuple[str, ...]
    model: str
    output: str
    options: dict[str, Any] = {}


class AnnotateMessage(Message, frozen=True):
    """Inputs for an open job, from any client: stored by the worker that takes it, then sent on.

    items: URIs, or {"uri": …, "file_name": …}, taken as they are. output: the job's folder; the
    first message opens the job, and later ones ask for the same model and options.
    options: those of `maskmill submit` by name, with underscores, save those that choose inputs,
    number or overwrite: threshold, classes, fps (of videos among the items), priority, target,
    per_image (a file for each input as soon as it is done), shard_size (inputs a shard where a
    message has many) and so on.
    """

    task = "maskmill.annotate"
    items: Annotated[tuple[str | ListLine, ...], msgspec.Meta(min_length=1)]
    model: str
    output: str
    options: dict[str, Any] = {}


class ReconcileMessage(Message, frozen=True):
    task = "maskmill.reconcile"
