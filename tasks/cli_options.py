"""How commands are declared."""

import inspect
import os
from collections.abc import Callable, Iterator
from pkgutil import resolve_name
from typing import Annotated, Any, get_args, get_type_hints

import msgspec
import typer

JsonFlag = Annotated[bool, typer.Option("--json", help="JSON lines instead of text.")]


def _words(words: str) -> list[str]:
    return [word.strip() for word in words.split(",") if word.strip()]


def option(
    name: str, kind: Any, default: Any, said: str, *flags: str, **more: Any
) -> inspect.Parameter:
    """`flags`: where they are others than the name says."""
    flags = flags or ("--" + name.strip("_").replace("_", "-"),)
    declared = Annotated[kind, typer.Option(*flags, help=said, **more)]
    keyword = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, keyword, default=default, annotation=declared)


def options_of(kind: type[msgspec.Struct]) -> Iterator[inspect.Parameter]:
    """An option for each field of which its annotation says what it is for."""
    bare, told = get_type_hints(kind), get_type_hints(kind, include_extras=True)
    for name, kept in ((each.name, each.default) for each in msgspec.structs.fields(kind)):
        *_, said = getattr(told[name], "__metadata__", [None])
        if not isinstance(said, str):
            continue
        if isinstance(kept, tuple):
            yield option(name, str, "", said, callback=_words)
        else:
            yield option(name, str if str in get_args(bare[name]) else bare[name], kept, said)


SETTINGS = (
    option("delegate", str, "", "TFLite's: auto (this board's), none or a library's path."),
    option("delegate_options", list[str], [], "KEY=VALUE, for it.", "--delegate-option"),
    option("memory", str, "", "The most that the worker may take, as in 512M (MASKMILL_MEMORY)."),
)


def command(
    app: typer.Typer, target: str, *options: inspect.Parameter, name: str = "", reports: bool = True
) -> Callable[[Callable[..., None]], None]:
    """Make a command of a function's parameters and docstring, with more options.

    `target` is who does it, module:function, imported when it runs. It gets what is typed by
    name; `as_json` too where the function declares it, as that of a command which speaks on its
    way does. One that `reports` has --json.
    """

    def declare(declared: Callable[..., None]) -> None:
        own, kind = inspect.signature(declared).parameters, inspect.Parameter.KEYWORD_ONLY
        flag = inspect.Parameter("as_json", kind, default=False, annotation=JsonFlag)
        added = [flag] if reports and "as_json" not in own else []
        taken = [each.replace(kind=kind) for each in (*own.values(), *options, *added)]
        taken.sort(key=lambda each: each.default is not each.empty)

        def run(**typed: Any) -> None:
            for name in (each.name for each in SETTINGS):  # for the process that computes
                if value := typed.pop(name, None):
                    joined = value if isinstance(value, str) else " ".join(value)
                    os.environ[f"MASKMILL_{name.upper()}"] = joined
            as_json = typed.pop("as_json") if added else typed.get("as_json", False)
            ended = resolve_name("tasks.exits:ended")
            given = {name.strip("_"): value for name, value in typed.items()}
            raise typer.Exit(ended(lambda: resolve_name(target)(**given), as_json))

        run.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
        run.__annotations__ = {each.name: each.annotation for each in taken}
        app.command(name or declared.__name__, help=declared.__doc__)(run)

    return declare
