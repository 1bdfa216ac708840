"""What a worker may touch: messages choose inputs, outputs and models, so it has limits."""

import os
import re
from dataclasses import dataclass

from storage import parse, shown
from tasks.broker import Asking
from tasks.cards import ModelError
from tasks.folder import JobError
from tasks.inputs import meant

_UP = re.compile(r"(?:^|[/\\])\.\.(?:[/\\;]|$)")  # a server may take it for the folder above


class NotAllowed(ModelError):
    """A model that an operator keeps from this worker, however well it would run."""


@dataclass(frozen=True)
class Limits:
    """Roots are folders or prefixes, and with some only these.

    With none, all but local files, and these too where a person works on one machine.
    """

    input_roots: tuple[str, ...] = ()
    output_roots: tuple[str, ...] = ()
    models: tuple[str, ...] = ()  # names or SHA-256 sums; none means all
    own_files: bool = False  # with no roots, local files as well

    def refused_input(self, uri: str) -> str:
        """Why an input may not be read; empty if it may."""
        if self._below_any(uri, self.input_roots):
            return ""
        return "the input is not below any of this worker's MASKMILL_INPUT_ROOTS"

    def check_output(self, uri: str) -> None:
        if not self._below_any(uri, self.output_roots):
            raise JobError(f"{shown(uri)} is not below any of this worker's MASKMILL_OUTPUT_ROOTS")

    def check_message(self, message: Asking) -> None:
        """Its output, and the files that it would have this worker read on the way to a plan."""
        self.check_output(message.output)
        options = {**message.options, "model": message.model}
        files = [("inputs", meant(word)[0]) for word in getattr(message, "inputs", ())]
        for name in ("model", "category_ids", "category_map", "images_from", "images_root"):
            word = str(options.get(name) or "")
            if "/" in word or name not in ("model", "category_ids"):  # those two may be names
                files.append((name, word))
        for name, word in files:
            if word and self.refused_input(word):
                raise JobError(f"{name}: {shown(word)} is not below MASKMILL_INPUT_ROOTS")

    def allow_model(self, name: str, sha256: str) -> bool:
        return not self.models or bool({name, sha256} & set(self.models))

    def _below_any(self, uri: str, roots: tuple[str, ...]) -> bool:
        place = parse(uri)
        if not roots and (self.own_files or place.scheme != "file"):
            return True
        if place.scheme in ("http", "https") and _UP.search(place.path):
            return False
        folder = f"{_real(uri)}/"
        return any(folder.startswith(_real(root).rstrip("/") + "/") for root in roots)


def read_limits() -> Limits:
    return Limits(
        input_roots=_words("MASKMILL_INPUT_ROOTS"),
        output_roots=_words("MASKMILL_OUTPUT_ROOTS"),
        models=_words("MASKMILL_ALLOWED_MODELS"),
    )


def _words(name: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in os.environ.get(name, "").split(",") if word.strip())


def _real(uri: str) -> str:
    """Of a local path where it really is: a link may lead anywhere."""
    place = parse(uri)
    return os.path.realpath(place.path) if place.scheme == "file" else uri
