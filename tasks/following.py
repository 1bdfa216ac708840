"""`maskmill submit`, `status` and the commands that steer a job."""

import itertools
import os
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from typing import Any, get_args

from msgspec import structs
from rich.console import Console
from rich.live import Live
from rich.text import Text

from storage import Exists, StorageError, open_read, put, shown, side_by_side
from tasks.annotate import as_asked, finish, gate, standard_input
from tasks.broker import BrokerDown
from tasks.edits import TABLES as EDITS
from tasks.exits import OK, STOPPED, Said, record_lines, say, tell
from tasks.folder import Folder, JobError, ShardName, find_job, missing_shards, read_job
from tasks.frames import frames_of
from tasks.inputs import absolute
from tasks.markers import STOPPED as STOPPED_MARK
from tasks.markers import cancel, lift, look_for_halt
from tasks.merge import merge_all, merge_part
from tasks.open_jobs import append_inputs, require_same
from tasks.opening import Sources, asked_inputs, continue_job, refuse_foreign, sources
from tasks.plan import scratch, survey
from tasks.reconcile import look_after
from tasks.records import Job, Routing, Selection, Stage, Wishes, encode_lines
from tasks.state import Fleet, fleet_here, fleet_state
from tasks.status import Follower, followers, said
from tasks.submit import send_missing, submit, visible, what_is_asked

WATCH_S = 2.0
TRIED = 32  # inputs of a dry run
COUNTED = ("items", "duplicates", "not_images", "shards", "bytes", "of_unknown_size")
LOST_S = 10.0  # how long a watched job may be silent before its messages are sent again
STAGES = get_args(Stage)
ENDED = ("merged", "cancelled", "stopped")


def submit_typed(
    inputs: Sequence[str], dry_run: bool, append: bool, wait: bool, as_json: bool, **typed: Any
) -> int | Said:
    """Plan and send, or add to an open job, and see it through for one who waits."""
    if code := gate(inputs, typed, as_json):
        return code
    selection, wished, routing = as_asked(typed, Selection, Wishes, Routing)
    how: dict[str, Any] = {"selection": selection, "routing": routing, **structs.asdict(wished)}
    with standard_input(inputs) as stdin:
        if dry_run:
            return dry(sources(inputs, selection, stdin), wished, routing, append)
        fleet = fleet_here()
        plan = append_inputs if append else submit
        done = plan(inputs, stdin=stdin, fleet=fleet, **how)
    job, folder, items, shards, sent = done
    counts = {"duplicates": job.counts.duplicates, "not_images": job.counts.not_images}
    facts = {"job": folder.uri, "items": items, "shards": shards, "sent": sent, **counts}
    follow = f"follow it with: maskmill status {folder.uri} --watch"
    said = Said({"event": "submitted", **facts}, [*record_lines(facts), follow])
    if not wait:
        return said
    say(said, as_json)
    watch([Follower(folder, job, fleet.state)], fleet, as_json)
    look_for_halt(folder)
    return finish(job, folder, wished.max_failures)


def dry(given: Sources, wished: Wishes, routing: Routing, append: bool) -> Said:
    """What a submit would do, and what would keep it from it; nothing is written or sent."""
    wished = structs.replace(wished, output=absolute(wished.output))
    asked = what_is_asked(given, wished, routing)
    if (there := read_job(wished.output)) is None:
        refuse_foreign(wished.output)
    elif append:
        require_same(there, wished, routing)
    elif not wished.overwrite:
        continue_job(wished.output, asked)
    with scratch(EDITS) as db:
        seen = visible(asked_inputs(db, given, asked), wished, upload=False)
        some = list(itertools.islice(seen, TRIED))
        frames = frames_of(itertools.chain(some, seen), given.selection)
        counts = survey(frames, given.selection, asked.shard_size)
    report = {name: getattr(counts, name) for name in COUNTED}
    report |= {**_expected(counts.items), "model": asked.model.card.name}
    report |= _tried({each.uri for each in some if each.is_image})
    return Said({"event": "dry-run", **report}, record_lines(report))


def _tried(uris: set[str]) -> dict[str, Any]:
    """How many inputs cannot be read, by their first bytes."""

    def trouble(uri: str) -> str:
        try:
            with open_read(uri) as file:
                return "" if file.read(1) else f"{shown(uri)} is empty"
        except StorageError as exc:
            return str(exc)

    troubles = [each for each in side_by_side(trouble, uris) if each]
    report = {"first_tried": len(uris), "unreadable_of_these": len(troubles)}
    return report | ({"for_example": troubles[0]} if troubles else {})


def _expected(items: int) -> dict[str, Any]:
    """How long it would take at the speed that the fleet's workers have of late."""
    alive = fleet_state().present()
    rate = sum(each.images_per_s for each in alive)
    said_so = {"workers": len(alive), "images_per_s": round(rate, 2)}
    return said_so | {"expected_s": round(items / rate) if rate else "unknown: no recent speed"}


def status(output: str, watching: bool, as_json: bool) -> int:
    state = fleet_state() if os.environ.get("MASKMILL_STATE") else None
    found = followers(absolute(output), state)
    if not found:
        raise JobError(f"{shown(output)} holds no job, nor does anything below it")
    if watching:
        looks = watch(found, fleet_here() if state else None, as_json)
        return OK if all(look["state"] == "merged" for look in looks) else STOPPED
    for look in (each.look() for each in found):
        tell({"event": "status", **look}, said(look), as_json)
    return OK


def watch(jobs: Sequence[Follower], fleet: Fleet | None, as_json: bool) -> list[dict[str, Any]]:
    """The last looks, when all have ended. On the way it sends again what was lost."""
    console = Console(stderr=True)
    with Live(console=console, auto_refresh=False, transient=False) as live:
        while True:
            looks = [each.look() for each in jobs]
            if console.is_terminal and not as_json:
                lines = [line for look in looks for line in said(look)]
                live.update(Text("\n".join(lines)), refresh=True)
            else:
                for look in looks:
                    short = "".join(itertools.islice(said(look), 2))
                    tell({"event": "status", **look}, [short], as_json)
            if all(look["state"] in ENDED for look in looks):
                return looks
            for each, look in zip(jobs, looks, strict=True):
                if fleet is not None and look["state"] not in ENDED:
                    _send_lost(fleet, each)
            time.sleep(WATCH_S)


def _send_lost(fleet: Fleet, each: Follower) -> None:
    known = fleet.state.known(each.folder.uri, each.folder.run)
    try:
        if known is not None:
            look_after(fleet.app, fleet.state, known, fleet.state.present(), LOST_S)
    except BrokerDown as exc:
        print(f"maskmill: {exc}", file=sys.stderr, flush=True)


def cancel_job(output: str) -> Said:
    _, folder = find_job(absolute(output))
    cancel(folder)
    return _done(f"{folder.uri} is cancelled; workers let go of it within seconds")


def resume_job(output: str) -> Said:
    job, folder = find_job(absolute(output))
    fleet = fleet_here()
    lift(folder)
    return _send_missing(fleet, job, folder)


def retry_job(output: str, only: str) -> Said:
    """Have the failures of these stages (of all, if none is named) tried again."""
    job, folder = find_job(absolute(output))
    fleet = fleet_here()
    look_for_halt(folder)
    stages = tuple(word.strip() for word in only.split(",") if word.strip())
    unknown = [each for each in stages if each not in STAGES]
    if unknown:
        raise JobError(f"there is no stage {unknown[0]!r}; there are {', '.join(STAGES)}")
    if missing_shards(folder, job):
        raise JobError(f"{folder.uri} is not done yet: wait, or maskmill resume it; then retry")
    latest = max((generation for _, generation in folder.retries()), default=0)

    def again(shard: ShardName, done: set[int]) -> bool:
        failures = folder.whole_shard(shard, done).failures
        ids = {each.image_id for each in failures if each.stage in (stages or STAGES)}
        items = [each for each in folder.read_plan(shard) if each.id in ids and not each.problem]
        if items:
            put(folder.plan(shard, latest + 1), encode_lines(items), create_only=True)
        return bool(items)

    try:
        done = sorted(folder.written().items())
        if not any(list(side_by_side(lambda one: again(*one), done, threads=16))):
            return _done(f"{folder.uri} has no failure of that kind to try again")
    except Exists:
        raise JobError(f"another retry of {folder.uri} was asked for at once") from None
    return _send_missing(fleet, job, folder)


def merge_job(output: str, replace_edited: bool) -> Said:
    job, folder = find_job(absolute(output))
    if missing_shards(folder, job):
        return _done(f"the job is not done; what is there is in {merge_part(folder, job)}")
    draw = import_module("worker.drawing").write_sheet
    merge_all(folder, job, draw, replace_edited=replace_edited)
    lift(folder, STOPPED_MARK)
    return _done(f"merged into {folder.file('instances.json')}")


def _send_missing(fleet: Fleet, job: Job, folder: Folder) -> Said:
    sent = send_missing(fleet, job, folder)
    return _done(f"{sent} shards of {folder.uri} were sent", sent=sent)


def _done(sentence: str, **facts: Any) -> Said:
    return Said({"event": "done", "message": sentence, **facts}, [sentence])
