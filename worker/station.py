"""What one worker process holds between tasks, and what it does when a shard ends."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from tasks.cards import Model
from tasks.folder import Folder, ShardName
from tasks.messages import ShardMessage
from tasks.opening import models_of
from tasks.records import Item, Job, encode
from worker.attempts import worker_name
from worker.model import LoadedModel, load_model
from worker.settings import WorkerSettings, read_settings

log = logging.getLogger("maskmill.worker")

Event = dict[str, Any]


@dataclass
class Station:
    """On one machine the parent process follows up. A fleet's station does so itself."""

    worker: str = field(default_factory=lambda: worker_name("worker"))
    tell: Callable[[Event], None] = lambda event: None
    stopping: Callable[[], bool] = lambda: False
    failed: Callable[[str], None] = log.error  # a cause that no other shard escapes
    replace_edited: bool = False  # a merge may replace a dataset that somebody worked on
    models: dict[str, LoadedModel] = field(default_factory=dict)
    unfit: list[Model] = field(default_factory=list)  # of mixed jobs: they do not load here

    @cached_property
    def settings(self) -> WorkerSettings:
        return read_settings()

    def model(self, model: Model) -> LoadedModel:
        key = f"{model.sha256} {model.engine} {model.compute} {encode(model.card)!r}"
        if key not in self.models:
            self.models[key] = load_model(self.fetched(model), self.settings)
        return self.models[key]

    def servable(self, job: Job) -> list[Model]:
        """Which of a job's models this worker may run, the preferred first."""
        return models_of(job)

    def fetched(self, model: Model) -> Model:
        """The model with a path that this process can open."""
        return model

    def in_hand(self, job: Job, folder: Folder, shard: ShardName, attempts: str) -> None:
        """A shard is taken up; `let_go` follows, unless it kills this process."""

    def let_go(self) -> None:
        """Nothing is in hand any more."""

    def bury(self, reason: str, task: str, body: object) -> None:
        """A message cannot be acted on."""
        self.failed(f"{task} is not acted on: {reason}")

    def admit(self, job: Job, folder: Folder) -> None:
        """Raise JobError for a job that this worker may not touch."""

    def refused(self, item: Item) -> str:
        """Why this worker may not read an input; empty if it may."""
        return ""

    def announce(self, event: str, each: list[dict[str, str]]) -> None:
        """Tell whoever listens on the broker that objects are there."""

    def handed_back(self, message: ShardMessage, job: Job) -> None:
        """The shard was not finished, through no fault of its own."""

    def broke_off(self, message: ShardMessage, job: Job | None, reason: Exception) -> None:
        """A cause outside the shard's inputs ended it."""
        self.failed(str(reason))

    def unmerged(self, folder: Folder, reason: Exception) -> None:
        """The merge of a job was refused."""
        self.failed(str(reason))

    def ended(self, folder: Folder, job: Job) -> None:
        """A shard's object is there."""
