"""Failed inputs tried again: one more generation of their shards, asked for in the job folder."""

from __future__ import annotations

from collections.abc import Sequence

from storage import put
from storage.errors import Exists
from tasks.folder import (
    Folder,
    JobError,
    ShardName,
    missing_shards,
    read_retries,
    whole_shard,
    written,
)
from tasks.ordered import side_by_side
from tasks.records import Job, Retry, encode

STAGES = ("fetch", "decode", "model", "write", "worker")


def ask_again(folder: Folder, job: Job, stages: Sequence[str]) -> int:
    """How many shards have failures of these stages (of all, if none is named) to be tried."""
    unknown = [each for each in stages if each not in STAGES]
    if unknown:
        raise JobError(f"there is no stage {unknown[0]!r}; there are {', '.join(STAGES)}")
    if missing_shards(folder, job):
        raise JobError(f"{folder.uri} is not done yet; retry when it is")
    done = written(folder)

    def failing(shard: ShardName) -> bool:
        found = whole_shard(folder, shard, done[shard]).failures
        return any(not stages or each.stage in stages for each in found)

    names = sorted(done)
    verdicts = side_by_side(failing, names, threads=16)
    shards = [shard for shard, wanted in zip(names, verdicts, strict=True) if wanted]
    if shards:
        generation = max(read_retries(folder), default=0) + 1
        try:
            retry = Retry(tuple(shards), tuple(stages))
            put(folder.retry(generation), encode(retry), create_only=True)
        except Exists:
            raise JobError(f"another retry of {folder.uri} was asked for at once") from None
    return len(shards)
