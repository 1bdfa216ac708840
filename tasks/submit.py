"""The producer's side of a fleet: plan a job, make all of it visible to workers, send its shards.

from tasks.submit import submit
submit(["s3://bucket/photos/"], "shapes", "s3://bucket/out", threshold=0.5)
"""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import msgspec

from storage import asked_once, basename, exists, join, open_read, open_write, parse, shown
from tasks.broker import Asking, SubmitMessage, send_merge, send_shards
from tasks.environment import check_target
from tasks.folder import Folder, missing_shards
from tasks.inputs import LIST_SUFFIXES, Found, InputError, absolute
from tasks.markers import look_for_halt
from tasks.merge import is_merged
from tasks.opening import Sources, asked_for, open_job, sources
from tasks.records import Asked, Job, Routing, Selection, Wishes
from tasks.shelf import checksum, find_models
from tasks.state import Fleet, KnownJob, fleet_here

Fresh = Callable[[Iterator[Found]], Iterator[Found]]  # what is to be done of what was found
UPLOADS = 8
# No options of a message: nobody waits, and paths are those of the machine that plans.
NO_OPTIONS = {"model", "output", "max_failures", "replace_edited", "upload", "shared_paths"}


class Submitted(NamedTuple):
    job: Job
    folder: Folder
    items: int
    shards: int
    sent: int  # shard messages; none where all was done before


def submit(
    inputs: Sequence[str],
    model: str,
    output: str,
    *,
    selection: Selection = Selection(),
    routing: Routing = Routing(),
    stdin: str = "",
    fleet: Fleet | None = None,
    fresh: Fresh = iter,
    **wishes: Any,
) -> Submitted:
    """Plan a job and send its shards; one that is there already is continued.

    `wishes` are those of `maskmill annotate`: threshold, classes, mask_format and so on.
    """
    wished = Wishes(model=model, output=absolute(output), **wishes)
    fleet = fleet or fleet_here()
    given = sources(inputs, selection, stdin)
    asked = what_is_asked(given, wished, routing)
    first, *others = map(fleet.state.keep_model, (asked.model, *asked.alternates))
    asked = msgspec.structs.replace(asked, model=first, alternates=tuple(others))
    job, folder = open_job(
        wished.output,
        given,
        asked,
        routing=routing,
        overwrite=wished.overwrite,
        checked=lambda found: visible(fresh(found), wished),
        noted=lambda folder: fleet.state.register(KnownJob(folder.uri, folder.run, time.time())),
        refused=fleet.refused,
    )
    look_for_halt(folder)
    sent = send_missing(fleet, job, folder)
    return Submitted(job, folder, job.counts.items, job.counts.shards, sent)


def what_is_asked(given: Sources, wished: Wishes, routing: Routing) -> Asked:
    """The job that this comes to. What workers could not do is refused."""
    check_seen(wished.output, wished)
    check_target(routing.target)
    models = find_models(wished.model, wished.runtime, wished.precision, wished.mixed)
    for word in given.inputs:
        if word != "-" and not word.endswith(LIST_SUFFIXES):  # a list may name what lies elsewhere
            check_seen(word, wished, copied=wished.upload)
    return asked_for(given, models, wished, routing.target)


def submit_message(message: SubmitMessage, fleet: Fleet) -> Submitted:
    """What a bare client asks for. Local paths are those of the machine that plans."""
    selection, routing, wished = options_as(message, Selection, Routing, Wishes)
    how = msgspec.structs.asdict(wished) | {"shared_paths": True}
    return submit(message.inputs, selection=selection, routing=routing, fleet=fleet, **how)


def options_as(message: Asking, *kinds: type[Any]) -> list[Any]:
    """A message's options as values of these kinds. Nothing is taken that would be ignored."""
    known = {name for kind in kinds for name in kind.__struct_encode_fields__} - NO_OPTIONS
    for name in message.options:
        if name not in known:
            raise msgspec.ValidationError(f"options has no {name!r}")
    values = {**message.options, "model": message.model, "output": message.output}
    return [msgspec.convert(values, kind) for kind in kinds]


def send_missing(fleet: Fleet, job: Job, folder: Folder) -> int:
    """Send what is still to come of a job, and have the reconciler look after it."""
    missing = missing_shards(folder, job)
    fleet.state.register(KnownJob(folder.uri, job.run, time.time()))
    if not missing and not is_merged(folder, job):
        send_merge(fleet.app, folder.uri)
    return send_shards(fleet.app, folder.uri, job, missing)


def is_local(uri: str) -> bool:
    return parse(uri).scheme == "file"


def check_seen(uri: str, wished: Wishes, *, copied: bool = False) -> None:
    if is_local(uri) and not wished.shared_paths and not copied:
        raise InputError(
            f"workers on other machines cannot see {shown(uri)}; --upload copies inputs to an s3://"
            " --output, --shared-paths says that workers mount inputs and output alike"
        )


def visible(found: Iterator[Found], wished: Wishes, *, upload: bool = True) -> Iterator[Found]:
    """The inputs as workers can read them: local ones uploaded, shared, or refused."""

    def unseen(each: Found) -> str | None:
        if not each.is_image or each.problem or wished.shared_paths or not is_local(each.uri):
            return None
        check_seen(each.uri, wished, copied=wished.upload)
        return each.uri if upload else None

    uploaded = partial(_uploaded, wished.output)
    for each, uri in asked_once(uploaded, found, unseen, UPLOADS, 2 * UPLOADS):
        yield replace(each, uri=uri, version=None) if uri else each


def _uploaded(output: str, each: Found) -> str:
    """Under the hash of its bytes: two inputs of one name stay two, and none replaces another."""
    with open_read(each.uri) as source, tempfile.NamedTemporaryFile(prefix="maskmill-") as copy:
        shutil.copyfileobj(source, copy)
        copy.flush()
        place = f"inputs/{checksum('sha256', copy.name)}/{basename(each.uri)}"
        there = join(output, place)
        if not exists(there):
            copy.seek(0)
            with open_write(there) as target:
                shutil.copyfileobj(copy, target)
    return there
