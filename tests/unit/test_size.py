"""Small is a feature: how much code there is, and how many verbs the command has."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import typer

from tasks.cli import app

ROOT = Path(__file__).parents[2]
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}
NO_CODE |= {tokenize.ENDMARKER}


def lines_of_code(path: Path) -> int:
    """Lines with code on them: blank ones, comments and docstrings do not count."""
    text = path.read_text()
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    lines = {n for t in tokens if t.type not in NO_CODE for n in range(t.start[0], t.end[0] + 1)}
    for node in ast.walk(ast.parse(text)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        if documented and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            assert docstring.end_lineno is not None
            lines -= set(range(docstring.lineno, docstring.end_lineno + 1))
    return len(lines)


def test_production_code_stays_under_ten_thousand_lines() -> None:
    counts = {
        part: sum(lines_of_code(path) for path in (ROOT / part).rglob("*.py"))
        for part in ("storage", "tasks", "worker")
    }
    assert sum(counts.values()) < 10_000, counts


def test_the_command_has_fewer_than_twenty_verbs() -> None:
    command = typer.main.get_command(app)
    assert hasattr(command, "commands")
    assert 10 < len(command.commands) < 20
