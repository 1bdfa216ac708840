"""`maskmill submit`, `status` and the commands that steer a job."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

from celery import Celery
from rich.console import Console
from rich.live import Live
from rich.text import Text

from storage.uris import shown
from tasks.annotate import finish, need_worker_parts, standard_input
from tasks.broker import BrokerDown, broker_url, make_app
from tasks.exits import OK, ended
from tasks.folder import Folder, JobError, missing_shards, read_job
from tasks.inputs import Found, absolute, find
from tasks.markers import cancel, halt_of, lift
from tasks.merge import merge_all, merge_part
from tasks.open_jobs import append_inputs
from tasks.opening import SHARD_SIZE, sources
from tasks.plan import scratch
from tasks.progress import choose_face, planning_notice, say_json, tell
from tasks.reconcile import look_after
from tasks.records import Job, Routing, Selection
from tasks.retry import ask_again
from tasks.state import KnownJob, State, fleet_state
from tasks.status import Follower, followers, said
from tasks.submit import Sharing, Submitted, send_missing, submit, visible

WATCH_S = 2.0
LOST_S = 10.0  # how long a watched job may be silent before its messages are sent again
ENDED = ("merged", "cancelled", "stopped")


def send(
    inputs: Sequence[str],
    selection: Selection,
    routing: Routing,
    sharing: Sharing,
    wishes: dict[str, Any],
    follow: int | None,
    as_json: bool,
    append: bool = False,
) -> int:
    """Plan and send, or add to an open job; `follow`: the failure budget of one who waits."""

    def command() -> int:
        app, state = make_app(broker_url()), fleet_state()
        with standard_input(inputs) as stdin:
            if append:
                added = append_inputs(
                    inputs, selection, routing, sharing, stdin, app, state, **wishes
                )
                done = Submitted(added.job, added.folder, added.parts)
                said_so = f"{added.items} inputs in {added.parts} shards were added"
                facts = {"items": added.items, "shards": added.parts, "sent": added.parts}
            else:
                done = submit(
                    inputs,
                    selection=selection,
                    routing=routing,
                    sharing=sharing,
                    stdin=stdin,
                    app=app,
                    state=state,
                    progress=planning_notice(choose_face(as_json)),
                    **wishes,
                )
                counts = done.job.counts
                said_so = (
                    f"{counts.items} inputs in {counts.shards} shards, {done.sent} sent;"
                    f" {counts.duplicates} given twice, {counts.not_images} not images"
                )
                facts = {"items": counts.items, "shards": counts.shards, "sent": done.sent}
        lines = [said_so, f"follow it with: maskmill status {done.folder.uri} --watch"]
        tell({"event": "submitted", "job": done.folder.uri, **facts}, lines, as_json)
        if follow is None:
            return OK
        watch([Follower(done.folder, done.job, state)], app, state, as_json)
        return _finished(done.folder, done.job, follow, as_json)

    return ended(command, as_json)


def _finished(folder: Folder, job: Job, max_failures: int, as_json: bool) -> int:
    halt = halt_of(folder)
    if halt is not None:
        raise JobError(f"the job in {folder.uri} is {halt.kind}: {halt.reason}")
    return finish(job, folder, max_failures, as_json)


def dry(
    inputs: Sequence[str],
    selection: Selection,
    sharing: Sharing,
    wishes: dict[str, Any],
    as_json: bool,
) -> int:
    """What a submit would do, from a listing; nothing is written or sent."""

    def command() -> int:
        with standard_input(inputs) as stdin:
            given = sources(inputs, selection, stdin)
            found = find(given.inputs, given.selection.images_root, given.stdin)
            counts = _counted(visible(found, wishes["output"], sharing, upload=False))
        items = min(counts["items"], selection.limit or selection.sample or counts["items"])
        size = wishes.get("shard_size") or SHARD_SIZE
        report = {**counts, "items": items, "shards": -(-items // size), **_expected(items)}
        lines = (f"{name.replace('_', ' '):<20}{value}" for name, value in report.items())
        tell({"event": "dry-run", **report}, lines, as_json)
        return OK

    return ended(command, as_json)


def _counted(found: Iterable[Found]) -> Counter[str]:
    counts: Counter[str] = Counter()
    with scratch("CREATE TABLE seen (uri TEXT PRIMARY KEY) WITHOUT ROWID") as db:
        for each in found:
            if not each.is_image:
                counts["not_images"] += 1
            elif not db.execute("INSERT OR IGNORE INTO seen VALUES (?)", (each.uri,)).rowcount:
                counts["duplicates"] += 1
            else:
                counts["items"] += 1
                counts["bytes"] += max(each.size, 0)
                counts["of_unknown_size"] += each.size < 0
    return counts


def _expected(items: int) -> dict[str, Any]:
    """How long it would take at the speed that the fleet's workers have of late."""
    alive = fleet_state().present()
    rate = sum(each.images_per_s for each in alive)
    said_so = {"workers": len(alive), "images_per_s": round(rate, 2)}
    return said_so | {"expected_s": round(items / rate) if rate else "unknown: none is at work"}


def status(uri: str, watching: bool, as_json: bool) -> int:
    def command() -> int:
        state = _state_if_any()
        found = followers(absolute(uri), state)
        if not found:
            raise JobError(f"{shown(uri)} holds no job, nor does anything below it")
        if watching:
            watch(found, make_app(broker_url()), state, as_json)
        else:
            for look in (each.look() for each in found):
                tell({"event": "status", **look}, said(look), as_json)
        return OK

    return ended(command, as_json)


def watch(jobs: Sequence[Follower], app: Celery, state: State | None, as_json: bool) -> None:
    """Until all have come to an end. On the way it sends again what was lost."""
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            looks = [each.look() for each in jobs]
            if as_json:
                for look in looks:
                    say_json({"event": "status", **look})
            elif console.is_terminal:
                lines = [line for look in looks for line in said(look)]
                live.update(Text("\n".join(lines)), refresh=True)
            else:
                for look in looks:
                    print(next(line for n, line in enumerate(said(look)) if n == 1), flush=True)
            if all(look["state"] in ENDED for look in looks):
                return
            for each, look in zip(jobs, looks, strict=True):
                if state is not None and look["state"] not in ENDED:
                    _send_lost(app, state, each)
            time.sleep(WATCH_S)


def _send_lost(app: Celery, state: State, each: Follower) -> None:
    known = next((k for k in state.jobs() if k.uri == each.folder.uri), None)
    try:
        if known is not None:
            look_after(app, state, known, state.present(), LOST_S)
    except BrokerDown as exc:
        print(f"maskmill: {exc}", file=sys.stderr, flush=True)


def _state_if_any() -> State | None:
    return fleet_state() if os.environ.get("MASKMILL_STATE") else None


def cancel_job(uri: str, as_json: bool) -> int:
    def command() -> int:
        _, folder = _job(uri)
        cancel(folder)
        return _told(f"{folder.uri} is cancelled; workers let go of it within seconds", as_json)

    return ended(command, as_json)


def resume_job(uri: str, as_json: bool) -> int:
    def command() -> int:
        job, folder = _job(uri)
        lift(folder)
        return _send_missing(job, folder, as_json)

    return ended(command, as_json)


def retry_job(uri: str, stages: Sequence[str], as_json: bool) -> int:
    def command() -> int:
        job, folder = _job(uri)
        if ask_again(folder, job, stages) == 0:
            return _told(f"{folder.uri} has no failure of that kind", as_json)
        return _send_missing(job, folder, as_json)

    return ended(command, as_json)


def merge_job(uri: str, replace_edited: bool, as_json: bool) -> int:
    def command() -> int:
        job, folder = _job(uri)
        if missing_shards(folder, job):
            return _told(
                f"the job is not done; what is there is in {merge_part(folder, job)}", as_json
            )
        need_worker_parts(job.asked.model.engine)  # for the contact sheet
        draw = import_module("worker.sheet").write_sheet
        merge_all(folder, job, draw, replace_edited=replace_edited)
        return _told(f"merged into {folder.file('instances.json')}", as_json)

    return ended(command, as_json)


def _send_missing(job: Job, folder: Folder, as_json: bool) -> int:
    state = fleet_state()
    try:
        sent = send_missing(make_app(broker_url()), state, job, folder)
    except BrokerDown as exc:
        # Registered, it is sent by the reconciler as soon as the broker is back.
        state.register(KnownJob(folder.uri, job.run, 0.0))
        raise BrokerDown(
            f"{exc}; {folder.uri} is let go on, and its shards are sent when the broker is back"
        ) from exc
    return _told(f"{sent} shards of {folder.uri} were sent", as_json, sent=sent)


def _job(uri: str) -> tuple[Job, Folder]:
    place = absolute(uri)
    job = read_job(place)
    if job is None:
        raise JobError(f"{shown(uri)} holds no job")
    return job, Folder(place, job.run)


def _told(sentence: str, as_json: bool, **facts: Any) -> int:
    tell({"event": "done", "message": sentence, **facts}, [sentence], as_json)
    return OK
