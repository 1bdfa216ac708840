"""Boards are known by what their kernel says of the SoC."""

from pathlib import Path

import pytest

from tasks.environment import board


@pytest.mark.parametrize(
    ("soc_id", "name"),
    [
        ("i.MX8MP\n", "imx8mp"),
        ("i.MX93\n", "imx93"),
        ("i.MX95", "imx95"),
        ("i.MX8MQ\n", ""),  # an i.MX without an NPU that is known here
        ("jep106:0070\n", ""),
        ("", ""),
    ],
)
def test_the_soc_id_names_the_board(tmp_path: Path, soc_id: str, name: str) -> None:
    file = tmp_path / "sys/devices/soc0/soc_id"
    file.parent.mkdir(parents=True)
    file.write_text(soc_id)
    assert board(tmp_path) == name


def test_a_machine_without_a_soc_tree_is_no_board(tmp_path: Path) -> None:
    assert board(tmp_path) == ""
