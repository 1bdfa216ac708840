"""The options of commands that may run TFLite models: on which delegate."""

from __future__ import annotations

import os
from typing import Annotated

import typer

DelegateName = Annotated[
    str, typer.Option("--delegate", help="TFLite's: auto (this board's), none or a library's path.")
]
DelegateOptions = Annotated[
    list[str] | None, typer.Option("--delegate-option", metavar="KEY=VALUE", help="For it.")
]


Memory = Annotated[
    str, typer.Option(help="The most that the worker may take, as in 512M (MASKMILL_MEMORY).")
]


def use_memory(most: str) -> None:
    if most:
        os.environ["MASKMILL_MEMORY"] = most


def use_delegate(name: str, options: list[str] | None) -> None:
    """What was typed goes where the process that computes reads it."""
    if name:
        os.environ["MASKMILL_DELEGATE"] = name
    if options:
        os.environ["MASKMILL_DELEGATE_OPTIONS"] = " ".join(options)
