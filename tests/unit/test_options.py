"""Options are the fields that they fill: their names, defaults and limits."""

from __future__ import annotations

import json

import pytest
import typer

from tasks.annotate import as_asked
from tasks.cli import app
from tasks.records import Routing, Selection, Wishes

GIVEN = ["photos", "-m", "shapes", "-o", "out"]


def asked(command: str, *words: str) -> list[object]:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    typed = commands[command].make_context(command, [*GIVEN, *words]).params
    return as_asked({name.strip("_"): typed[name] for name in typed}, Selection, Wishes, Routing)


@pytest.mark.parametrize("command", ["annotate", "submit"])
def test_what_is_not_typed_is_the_default(command: str) -> None:
    assert asked(command) == [Selection(), Wishes(model="shapes", output="out"), Routing()]


def test_what_is_typed_fills_its_field() -> None:
    words = "--limit 3 --frames 0,7 --from 1:30 --classes a,,b --threshold 0.5 --full-decode"
    more = "--priority high --per-image --shared-paths --mixed --shard-size 9 --precision bf16"
    typed = asked("submit", *words.split(), *more.split())
    wished = Wishes(
        model="shapes",
        output="out",
        classes=("a", "b"),
        threshold=0.5,
        reduced_decode=False,
        shared_paths=True,
        mixed=True,
        shard_size=9,
        precision="bf16",
    )
    selection = Selection(limit=3, frames=(0, 7), from_="1:30")
    assert typed == [selection, wished, Routing(priority="high", per_image=True)]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("limit", "0"),
        ("sample", str(10**12 + 1)),
        ("every", "-1"),
        ("min-area", "-3"),
        ("shard-size", "100001"),
        ("threshold", "1.5"),
        ("threshold", "nan"),
        ("max-failures", "-1"),
        ("frames", "1,-2"),
        ("frames", "1,x"),
    ],
)
def test_what_is_out_of_its_limits_is_one_sentence(
    option: str, value: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        app(["annotate", *GIVEN, f"--{option}", value, "--json"])
    assert left.value.code == 2
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["message"].startswith(f"--{option}")
