"""The ASVS matrix of docs/security.md is whole, and each test that it names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"^\| (\d+)\.(\d+)\.(\d+)(?: – (\d+)\.(\d+)\.(\d+))? \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
TEST = re.compile(r"^`([\w/]+\.py)::(\w+)`$")
LEVELS_1_AND_2 = {
    "1.1": "1-2", "1.2": "1-9", "1.3": "1-11", "1.4": "1-3", "1.5": "1-2",
    "2.1": "1-3", "2.2": "1-3", "2.3": "1-4", "2.4": "1",
    "3.2": "1-2", "3.3": "1-4", "3.4": "1-6", "3.5": "1-5", "3.7": "1-2",
    "4.1": "1-3", "4.2": "1", "4.3": "1-2", "4.4": "1-4",
    "5.1": "1", "5.2": "1-3", "5.3": "1-2", "5.4": "1-3",
    "6.1": "1-3", "6.2": "1-12", "6.3": "1-4", "6.4": "1-4", "6.5": "1-5", "6.6": "1-3", "6.8": "1-4",
    "7.1": "1-3", "7.2": "1-4", "7.3": "1-2", "7.4": "1-5", "7.5": "1-2", "7.6": "1-2",
    "8.1": "1-2", "8.2": "1-3", "8.3": "1", "8.4": "1",
    "9.1": "1-3", "9.2": "1-4",
    "11.1": "1-2", "11.2": "1-3", "11.3": "1-3", "11.4": "1-4", "11.5": "1", "11.6": "1",
    "12.1": "1-3", "12.2": "1-2", "12.3": "1-4",
    "13.1": "1", "13.2": "1-5", "13.3": "1-2", "13.4": "1-5",
    "14.1": "1-2", "14.2": "1-4", "14.3": "1-3",
    "15.1": "1-3", "15.2": "1-3", "15.3": "1-7",
    "16.1": "1", "16.2": "1-5", "16.3": "1-4", "16.4": "1-3", "16.5": "1-3",
}  # fmt: skip
"""The requirements of ASVS 5.0.0 at levels 1 and 2, by section. V10 and V17 do not apply, in a row each."""
WHOLE_CHAPTERS = {"10.1.1", "17.1.1"}


def rows() -> list[tuple[list[str], str]]:
    """Each row's ids, and what it is shown by."""
    found = []
    for row in ROW.finditer((ROOT / "docs/security.md").read_text()):
        chapter, section, first, last_chapter, last_section, last, _, shown = row.groups()
        same = (last_chapter, last_section) == (chapter, section)
        numbers = range(int(first), (int(last) if same else int(first)) + 1)
        found.append(([f"{chapter}.{section}.{number}" for number in numbers], shown.strip()))
    return found


def test_every_requirement_of_level_2_has_its_row() -> None:
    expected = set(WHOLE_CHAPTERS)
    for section, numbers in LEVELS_1_AND_2.items():
        first, _, last = numbers.partition("-")
        expected |= {f"{section}.{number}" for number in range(int(first), int(last or first) + 1)}
    listed = [each for ids, _ in rows() for each in ids]
    assert len(listed) == len(set(listed))
    assert set(listed) == expected


@pytest.mark.parametrize(("ids", "shown"), rows(), ids=lambda v: v[0] if isinstance(v, list) else "")
def test_what_a_row_names_is_there(ids: list[str], shown: str) -> None:
    if shown.startswith("Not applicable"):
        return
    if shown.startswith("Exception: "):
        assert len(shown) > len("Exception: ") + 15, "an exception has a reason"
        return
    named = TEST.match(shown)
    assert named is not None, shown
    source = (ROOT / "tests" / named[1]).read_text()
    assert re.search(rf"^(async )?def {named[2]}\(", source, re.MULTILINE), shown
