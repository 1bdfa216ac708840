"""Shards that one worker has had in hand for far too long: another gets them as well, and the first
commit wins. The slow one sees within seconds that its shard is there, and lets go.
"""

import itertools
import time
from collections.abc import Collection, Sequence

from tasks.environment import whole_number
from tasks.folder import Folder, ShardName, generation_due, parts, read_attempts
from tasks.records import Job

LONGER = 3.0  # than the longest of the shards that were done
SAMPLE = 32  # shards of the same job from which the usual time is taken


def stragglers(
    folder: Folder, job: Job, missing: Collection[ShardName], in_hand: Sequence[object]
) -> list[ShardName]:
    """Shards that one worker alone has in hand, beyond the usual time.

    in_hand: what each worker has. An attempt without an end may be of one that lost its power.
    """
    alone = {}
    for shard in (each for each in missing if in_hand.count(each) == 1):
        generation = generation_due(folder, shard) or 0
        attempts = read_attempts(folder.attempts(shard, generation))
        under_way = [each.started for _, each in attempts if not each.ended]
        if under_way:
            alone[shard] = time.time() - max(under_way)
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
