"""`make chaos`: the fault tests in full. At the end stands the table of what was tried."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.faults import TALLY, Oracle, make_oracle, table
from tests.fleet import Fleet, fleet


@pytest.fixture(scope="session")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return make_oracle(tmp_path_factory.mktemp("oracle"))


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Oracle:
    return make_oracle(tmp_path_factory.mktemp("many"), 150)


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Fleet]:
    with fleet(tmp_path / "fleet") as fleet_here:
        yield fleet_here


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if TALLY:
        terminalreporter.write_line("\n" + table(TALLY))
