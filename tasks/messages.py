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


class Asking(Message, frozen=True, kw_only=True):
    """What any client may ask for.

    output: the job's folder.
    options: those of `maskmill submit` by name, with underscores.
    """

    model: str
    output: str
    options: dict[str, Any] = {}


class SubmitMessage(Asking, frozen=True):
    """A job as `maskmill submit` makes it: it is planned on the worker that takes this."""

    task = "maskmill.submit"
    inputs: tuple[str, ...]


class AnnotateMessage(Asking, frozen=True):
    """Inputs for an open job: stored by the worker that takes this, then sent on.

    items: URIs, or {"uri": …, "file_name": …}, taken as they are. The first message opens the job,
    and later ones ask for the same model and options, save those that choose inputs, number or
    overwrite: threshold, classes, fps (of videos among the items), priority, target, per_image (a
    file for each input as soon as it is done), shard_size (inputs a shard where a message has many)
    and so on.
    """

    task = "maskmill.annotate"
    items: Annotated[tuple[str | ListLine, ...], msgspec.Meta(min_length=1)]


class ReconcileMessage(Message, frozen=True):
    task = "maskmill.reconcile"
