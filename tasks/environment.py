"""Settings that come from the environment, each checked where it is read."""

from __future__ import annotations

import os


class SettingError(Exception):
    """A variable of the environment that cannot be used; the message names it."""


def whole_number(name: str, default: int, least: int = 0) -> int:
    text = os.environ.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit()) or int(text) < least:
        raise SettingError(f"{name} is {text!r}; it takes a whole number from {least}")
    return int(text)
