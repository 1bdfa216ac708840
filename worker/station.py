"""What one worker process holds between tasks, and what it does when a shard ends."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import msgspec

from storage.errors import StorageError
from storage.uris import without_frame
from tasks.annotate import engines_here
from tasks.cards import Model, ModelError
from tasks.environment import SettingError
from tasks.folder import Folder, JobError
from tasks.messages import ShardMessage
from tasks.records import Item, Job, encode
from tasks.shelf import cached_build
from worker.attempts import Released, worker_name
from worker.limits import Limits, NotAllowed
from worker.model import LoadedModel, load_model
from worker.settings import WorkerSettings

log = logging.getLogger("maskmill.worker")

Event = dict[str, Any]


FORESEEN = (JobError, ModelError, Released, SettingError, StorageError)


def said_of(reason: Exception | str) -> str:
    foreseen = isinstance(reason, (str, *FORESEEN))
    return str(reason) if foreseen else f"the worker failed: {reason!r}"


@dataclass(kw_only=True)
class Station:
    """On one machine the parent process follows up. A fleet's station does so itself."""

    worker: str = field(default_factory=lambda: worker_name("worker"))
    tell: Callable[[Event], None] = lambda event: None
    stopping: Callable[[], bool] = lambda: False
    failed: Callable[[str], None] = log.error  # a cause that no other shard escapes
    limits: Limits = field(default_factory=lambda: Limits(own_files=True))
    engines: Sequence[str] = field(default_factory=engines_here)
    replace_edited: bool = False  # a merge may replace a dataset that somebody worked on
    models: dict[str, LoadedModel] = field(default_factory=dict)
    unfit: list[Model] = field(default_factory=list)  # of mixed jobs: they do not load here

    @cached_property
    def settings(self) -> WorkerSettings:
        return WorkerSettings()

    def model(self, model: Model) -> LoadedModel:
        key = f"{model.sha256} {model.engine} {model.compute} {encode(model.card)!r}"
        if key not in self.models:
            if not os.path.isfile(model.path):
                path = cached_build(model.path, model.sha256)
                model = msgspec.structs.replace(model, path=str(path))
            self.models[key] = load_model(model, self.settings)
        return self.models[key]

    def model_of(self, job: Job) -> LoadedModel:
        """The job's model; of a mixed one the first that this worker may run and can load."""
        first = job.asked.model
        if not job.asked.alternates:
            return self.model(first)
        for model in (first, *job.asked.alternates):
            allowed = self.limits.allow_model(model.card.name, model.sha256)
            if allowed and model.engine in self.engines and model not in self.unfit:
                try:
                    return self.model(model)
                except ModelError as exc:
                    self.unfit.append(model)
                    log.warning("%s with %s: %s", model.build.file, model.engine, exc)
        raise ModelError(f"none of the builds of {first.card.name} runs here")

    def admit(self, job: Job, folder: Folder) -> None:
        """Raise JobError or NotAllowed for a job that this worker may not touch."""
        self.limits.check_output(folder.uri)
        name, sha256 = job.asked.model.card.name, job.asked.model.sha256
        if not (job.asked.alternates or self.limits.allow_model(name, sha256)):
            raise NotAllowed(f"the model {name} is not among this worker's MASKMILL_ALLOWED_MODELS")

    def refused(self, item: Item) -> str:
        """Why this worker may not read an input; empty if it may."""
        return self.limits.refused_input(without_frame(item.uri) if item.frame else item.uri)

    def announce(self, event: str, each: list[dict[str, str]]) -> None:
        """Tell whoever listens on the broker that objects are there."""

    def bury(self, reason: Exception | str, task: str, body: object) -> None:
        """A message cannot be acted on."""
        self.failed(f"{task} is not acted on: {said_of(reason)}")

    def broke_off(self, message: ShardMessage, job: Job, reason: Exception) -> None:
        """A cause outside the shard's inputs ended it."""
        self.failed(said_of(reason))

    def unmerged(self, folder: Folder, reason: Exception) -> None:
        """The merge of a job was refused, or there was no room for it."""
        self.failed(f"the dataset could not be merged: {getattr(reason, 'strerror', '') or reason}")

    def ended(self, folder: Folder, job: Job) -> None:
        """A shard's object is there."""
