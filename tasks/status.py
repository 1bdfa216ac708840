"""Where jobs stand, from storage alone: it works when the broker does not."""

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import msgspec

from storage import as_folder, list_entries, side_by_side
from tasks.folder import Folder, ShardName, parts, read_job
from tasks.markers import halt_of
from tasks.merge import is_merged, refuse_replaced
from tasks.records import Job
from tasks.state import State


class Follower:
    """One job's progress. Each look reads only the shards that are new since the last."""

    def __init__(self, folder: Folder, job: Job, state: State | None) -> None:
        self.folder, self.job, self._state = folder, job, state
        # Of each shard the generations seen, its images, and its failures by kind.
        self._ended: dict[ShardName, tuple[set[int], int, Counter[str]]] = {}

    def look(self) -> dict[str, Any]:
        """What there is to say of the job, as JSON has it."""
        refuse_replaced(self.folder)
        self._read_new()
        shards, items = len(parts(self.folder, self.job)), self.job.counts.items
        kinds = sum((kinds for _, _, kinds in self._ended.values()), Counter[str]())
        failed = kinds.total()
        done = sum(images for _, images, _ in self._ended.values()) + failed
        present = self._state.present() if self._state else []
        workers = [each for each in present if each.job == self.folder.uri]
        rate = sum(each.images_per_s for each in workers)
        left = max(items - done, 0)
        phase, reason = self._phase(shards)
        return {
            "job": self.folder.uri,
            "state": phase,
            "reason": reason,
            "model": self.job.asked.model.card.name,
            "images": done,
            "of": items or None,
            "shards": len(self._ended),
            "of_shards": shards,
            "failures": failed,
            "failures_by_kind": dict(sorted(kinds.items())),
            "images_per_s": round(rate, 2),
            "eta_s": round(left / rate) if rate and left else None,
            "workers": [msgspec.to_builtins(each) for each in workers],
        }

    def _phase(self, shards: int) -> tuple[str, str]:
        halt = halt_of(self.folder)
        if halt is not None:
            return halt.kind, halt.reason
        finished = len(self._ended) == shards
        if is_merged(self.folder, self.job) and (finished or not self.job.open):
            return "merged", ""
        return "merging" if finished else "running", ""

    def _read_new(self) -> None:
        done = self.folder.written()
        unseen: tuple[set[int]] = (set(),)
        new = [shard for shard in done if done[shard] != self._ended.get(shard, unseen)[0]]
        read = side_by_side(lambda n: self.folder.whole_shard(n, done[n]), new, threads=16)
        for shard, whole in zip(new, read, strict=True):
            kinds = Counter(f"{each.stage}/{each.kind}" for each in whole.failures)
            self._ended[shard] = done[shard], len(whole.images), kinds


def followers(uri: str, state: State | None) -> Sequence[Follower]:
    """The job in this folder, or all jobs below this prefix."""
    places = [uri]
    if read_job(uri) is None:
        below = (each.uri for each in list_entries(as_folder(uri)))
        places = [each.removesuffix("/job.json") for each in below if each.endswith("/job.json")]
    jobs = ((place, read_job(place)) for place in places)
    return [Follower(Folder(place, job.run), job, state) for place, job in jobs if job is not None]


def said(look: dict[str, Any]) -> Iterator[str]:
    """A look as lines for a person."""
    reason = f": {look['reason']}" if look["reason"] else ""
    yield f"{look['job']}  {look['state']}{reason}"
    of = f" of {look['of']}" if look["of"] else ""
    rate = f", {look['images_per_s']} images/s" if look["images_per_s"] else ""
    eta = f", {timedelta(seconds=look['eta_s'])} left" if look["eta_s"] else ""
    yield (
        f"  {look['images']}{of} images, {look['shards']} of {look['of_shards']} shards,"
        f" {look['failures']} failures{rate}{eta}"
    )
    for kind, number in look["failures_by_kind"].items():
        yield f"  {number} {kind}"
    for each in look["workers"]:
        hand = f"shard {each['shard']}" if each["shard"] is not None else "merging"
        yield (
            f"  {each['id']}: {hand}, {each['images_per_s']} images/s,"
            f" {each['cores']} cores {each['processor']}, {', '.join(each['engines'])}"
        )
