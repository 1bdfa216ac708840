"""Settings that come from the environment, each checked where it is read."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any


class SettingError(Exception):
    """What was set, by a variable or an option, and cannot be used; the message names it."""


def as_set(read: Callable[..., Any], *how: Any) -> Any:
    """A field of a dataclass that is what one of these reads, where nothing else is given."""
    return field(default_factory=lambda: read(*how))


def whole_number(name: str, default: int, least: int = 0) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise SettingError(f"{name} is {text!r}; it takes a whole number from {least}")
    return int(text)


def size_of(name: str) -> int:
    """Bytes, as in 512M or 2G; 0 where nothing is set."""
    text = os.environ.get(name, "")
    found = re.fullmatch("([1-9][0-9]*)([MG])", text)
    if text and not found:
        raise SettingError(f"{name} is {text!r}; it takes a size, as in 512M or 2G")
    return int(found[1]) << {"M": 20, "G": 30}[found[2]] if found else 0


def one_of(name: str, words: Sequence[str]) -> str:
    """The word that is set, or else the first."""
    word = os.environ.get(name) or words[0]
    if word not in words:
        raise SettingError(f"{name} is {word!r}; it takes {', '.join(words)}")
    return word
