"""Jobs whose messages are gone are found by looking at their folders, and sent again.

So are shards that one worker has had in hand for far too long: another gets them as well, and the
first commit wins. The slow one sees within seconds that its shard is there, and lets go.
"""

import itertools
import time
from collections.abc import Collection, Iterator, Sequence

import msgspec
from celery import Celery

from storage import StorageError
from tasks.broker import queue_of, send_merge, send_shards, waiting
from tasks.environment import whole_number
from tasks.folder import Folder, JobError, ShardName, missing_shards, parts, read_attempts, read_job
from tasks.markers import halt_of
from tasks.merge import is_merged
from tasks.records import Job
from tasks.state import KnownJob, State, WorkerNow

PATIENCE_S = 600.0
QUIET_S = 30.0  # after sending, before the same is sent again
LONGER = 3.0  # than the longest of the shards that were done
SAMPLE = 32  # shards of the same job from which the usual time is taken


def reconcile(app: Celery, state: State) -> Iterator[str]:
    """Look after every job of the fleet; yields a sentence for each that something was done for."""
    workers = state.present()
    for known in state.jobs():
        try:
            done = look_after(app, state, known, workers)
        except (JobError, StorageError) as exc:
            done = f"{known.uri} cannot be looked after: {exc}"
        if done:
            yield done


def look_after(
    app: Celery, state: State, known: KnownJob, workers: list[WorkerNow], quiet_s: float = QUIET_S
) -> str:
    """Send what is missing of one job if nobody has it; what was done, or nothing."""
    job, folder, now = read_job(known.uri), Folder(known.uri, known.run), time.time()
    if _is_over(known, job, folder):
        state.forget(known)
        # Who lets it go on says so in its folder first, and then has it looked after.
        if not _is_over(known, read_job(known.uri), folder):
            state.register(known)
        return ""
    if job is None or job.run != known.run:
        return ""
    # A clock that is ahead of ours must not keep us from it.
    if abs(now - known.sent) < quiet_s:
        return ""
    busy = [each for each in workers if each.job == known.uri]
    done = _send(app, folder, job, busy, abs(now - known.sent) < PATIENCE_S)
    if done:  # a look alone is none: patience would have no end
        state.register(msgspec.structs.replace(known, sent=now))
    return done


def _is_over(known: KnownJob, job: Job | None, folder: Folder) -> bool:
    if job is None or job.run != known.run:  # job.json comes after the word that it will
        return abs(time.time() - known.sent) > PATIENCE_S
    return halt_of(folder) is not None or (not job.open and is_merged(folder, job))


def _send(app: Celery, folder: Folder, job: Job, busy: list[WorkerNow], patient: bool) -> str:
    missing = missing_shards(folder, job)
    # Messages that wait in the queue will come; a duplicate costs a look at the folder.
    # But another job may fill the queue for ever, so that patience has an end.
    if patient and (missing or job.open) and waiting(app, queue_of(job)):
        return ""
    in_hand = {each.shard for each in busy}
    lost = [shard for shard in missing if shard not in in_hand]
    slow = stragglers(folder, job, missing, busy)
    if lost or slow:
        send_shards(app, folder.uri, job, lost + slow)
        again = f"{len(lost + slow)} shards of {folder.uri} were sent again"
        return again + (f", {len(slow)} that a slow worker has in hand" if slow else "")
    if is_merged(folder, job) if job.open else missing:
        return ""
    if any(each.shard is None for each in busy):
        return ""
    send_merge(app, folder.uri)
    return f"{folder.uri} is done; its merge was sent"


def stragglers(
    folder: Folder, job: Job, missing: Collection[ShardName], busy: Sequence[WorkerNow]
) -> list[ShardName]:
    """Shards that one worker alone has in hand, beyond the usual time. busy: with this job."""
    in_hand = [each.shard for each in busy]
    seconds = {each.shard: each.at - each.since for each in busy}  # by the worker's own clock
    alone = {shard: seconds[shard] for shard in missing if in_hand.count(shard) == 1}
    least = whole_number("MASKMILL_SLOW_SHARD_S", 30, 1)
    if max(alone.values(), default=0.0) < least:
        return []
    usual = _longest(folder, job, missing)
    limit = max(least, LONGER * usual) if usual else float("inf")
    return [shard for shard, seconds in alone.items() if seconds > limit]


def _longest(folder: Folder, job: Job, missing: Collection[ShardName]) -> float:
    """Seconds of the slowest of some shards that were done; 0 where none was."""
    absent = set(missing)
    done = (shard for shard in parts(folder, job) if shard not in absent)
    return max(
        (
            attempt.beat - attempt.started
            for shard in itertools.islice(done, SAMPLE)
            for _, attempt in read_attempts(folder.attempts(shard))
            if attempt.ended == "committed"
        ),
        default=0.0,
    )
