"""Open jobs: inputs are added while the job runs, as a camera or an upload hook does.

from tasks.open_jobs import append
append(["s3://bucket/cam/0001.jpg"], "shapes", "s3://bucket/out", threshold=0.5)

When `append` returns, the inputs are stored and cannot be lost. The message `maskmill.annotate`
does the same on the worker that takes it.
"""

import hashlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec
from celery import Celery

from storage import below, put, shown, side_by_side
from tasks.broker import AnnotateMessage, send_shards
from tasks.environment import check_target
from tasks.folder import Folder, JobDiffers, read_job
from tasks.frames import frames_of
from tasks.inputs import Found, InputError, ListLine, absolute, find, in_list
from tasks.opening import Opened, asked_for, differing, refuse_foreign, settings_of, sources
from tasks.plan import commit_job, shards_of
from tasks.records import Item, Job, Routing, Sampling, Selection, Wishes, encode, encode_lines
from tasks.shelf import find_model, find_models
from tasks.state import Fleet, KnownJob, State, fleet_here
from tasks.submit import Fresh, Submitted, check_seen, options_as, visible

Admit = Callable[[Job, Folder], None]
Remembered = dict[bytes, Opened]  # by what was asked


def append(
    items: Iterable[str | dict[str, str] | Found],
    model: str,
    output: str,
    *,
    sampling: Sampling = Sampling(),
    routing: Routing = Routing(),
    fleet: Fleet | None = None,
    fresh: Fresh = iter,
    turn: str = "",
    **wishes: Any,
) -> Submitted:
    """Add inputs to an open job, made if there is none: URIs, or {"uri": …, "file_name": …}.

    What is named is taken as it is; nothing is listed or expanded, save a video to its frames.
    turn: 16 hexadecimal digits with which the parts' names begin; see `tasks.segments`.
    """
    wished = Wishes(model=model, output=absolute(output), **wishes)
    check_seen(wished.output, wished)
    fleet = fleet or fleet_here()
    found = frames_of(visible(fresh(map(_found, items)), wished), sampling, fleet.refused)
    opened = open_job(wished, routing, fleet.state)
    return _store(opened, found, wished.shard_size, fleet.app, turn)


def append_inputs(
    inputs: Sequence[str], *, selection: Selection, stdin: str, **given: Any
) -> Submitted:
    """`maskmill submit --append`: all that the inputs name; `given`: what `append` takes."""
    numbering = set(Selection.__struct_fields__) - set(Sampling.__struct_fields__)
    if any(getattr(selection, name) != getattr(Selection(), name) for name in numbering):
        raise InputError("--append takes its inputs as they come, none chosen and none numbered")
    found = (each for each in find(sources(inputs, selection).inputs, stdin=stdin) if each.is_image)
    return append(found, sampling=selection, **given)


def append_message(
    message: AnnotateMessage, fleet: Fleet, admit: Admit, remembered: Remembered
) -> Submitted:
    """What a message asks for. A job that was looked at before costs one small read."""
    named = _once([_named(each) for each in message.items])
    key = encode((message.model, message.output, message.options))
    sampling, routing, wished = options_as(message, Sampling, Routing, Wishes)
    found = frames_of(named, sampling, fleet.refused)
    opened = remembered.get(key)
    if opened is None or read_job(message.output) != opened.job:
        opened = remembered[key] = open_job(wished, routing, fleet.state, admit)
    return _store(opened, found, wished.shard_size, fleet.app)


def open_job(
    wished: Wishes, routing: Routing, state: State, admit: Admit = lambda job, folder: None
) -> Opened:
    """The open job at an output, made if there is none; one asked for otherwise is refused."""
    if wished.overwrite:
        raise InputError("an open job is never overwritten; give another --output")
    check_target(routing.target)
    while (job := read_job(wished.output)) is None:
        refuse_foreign(wished.output)
        made = _new_job(wished, routing, state)
        admit(made, Folder(wished.output, made.run))
        commit_job(Folder(wished.output, made.run), made)
    folder = Folder(wished.output, job.run)
    admit(job, folder)
    require_same(job, wished, routing)
    if state.known(folder.uri, job.run) is None:  # when it was last sent is the reconciler's to say
        state.register(KnownJob(folder.uri, job.run, time.time()))
    return Opened(job, folder)


def _new_job(wished: Wishes, routing: Routing, state: State) -> Job:
    models = find_models(wished.model, wished.runtime, wished.precision, wished.mixed)
    kept = [state.keep_model(each) for each in models]
    usual = msgspec.structs.replace(wished, shard_size=None)  # what is typed is of one message
    asked = asked_for(sources((), Selection()), kept, usual, routing.target)
    return Job(secrets.token_hex(6), asked, routing=routing, open=True)


def require_same(job: Job, wished: Wishes, routing: Routing) -> None:
    """The job's own model stands for its name, and its limits for those of whoever adds to it."""
    if not job.open:
        raise JobDiffers(f"{wished.output} holds a job with a plan, to which nothing can be added")
    there = job.asked
    if wished.model == there.model.card.name:
        engine = wished.runtime or there.model.engine
        model = msgspec.structs.replace(there.model, engine=engine, compute=wished.precision)
    else:
        model = find_model(wished.model, wished.runtime, wished.precision)
    names = ("max_bytes", "max_pixels", "max_video_bytes")
    limits = {name: getattr(there.settings, name) for name in names}
    settings = msgspec.structs.replace(settings_of(model, wished), **limits)
    differences = differing(there, msgspec.structs.replace(there, model=model, settings=settings))
    differences += ["mixed"] * (wished.mixed and not there.alternates)
    differences += [
        name.replace("_", " ")
        for name in Routing.__struct_fields__
        if getattr(routing, name) not in (getattr(Routing(), name), getattr(job.routing, name))
    ]
    if differences:
        raise JobDiffers(f"{wished.output} holds an open job with other {', '.join(differences)}")


def _found(item: str | dict[str, str] | Found) -> Found:
    if isinstance(item, Found):
        return item
    return _named(absolute(item) if isinstance(item, str) else msgspec.convert(item, ListLine))


def _named(item: str | ListLine) -> Found:
    each = ListLine(item) if isinstance(item, str) else item
    if "://" not in each.uri and not each.uri.startswith("/"):
        raise InputError(f"{shown(each.uri)} is neither a URI nor a path from the root")
    if each.file_name:
        below("file:///", each.file_name)
    return in_list(each, "/")


def _store(
    opened: Opened, found: Iterator[Found], size: int | None, app: Celery, turn: str = ""
) -> Submitted:
    """Write the inputs as parts named by the hash of their content, then send these."""
    job, folder = opened
    chunks = shards_of(found, size or job.asked.shard_size)

    def write(chunk: list[Found]) -> tuple[str, int]:
        found = enumerate(_once(chunk), 1)
        items = [
            Item(n, each.uri, each.file_name, each.version, each.frame, each.problem)
            for n, each in found
        ]
        data = encode_lines(items)
        name = turn + hashlib.sha256(data).hexdigest()[: 24 if turn else 32]
        put(folder.plan(name), data, create_only=True)
        return name, len(items)

    written = dict(side_by_side(write, chunks))
    send_shards(app, folder.uri, job, written)
    return Submitted(job, folder, sum(written.values()), len(written), len(written))


def _once(chunk: list[Found]) -> list[Found]:
    """Each URI once, and no name for two: ids in the dataset are given when it is merged."""
    once = {(each.uri, each.part): each for each in reversed(chunk)}
    if len({(each.file_name, each.part) for each in once.values()}) < len(once):
        raise InputError("two inputs have the same file name; give a file_name for each")
    return [each for each in chunk if once.pop((each.uri, each.part), None)]
