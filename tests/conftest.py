"""Which tests go to one process: those that share a fit, or it would be made once in each."""

from __future__ import annotations

import pytest

ROWS = ("row", "member")  # parameters that name a fitted detector


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """For `pytest -n 2 --dist loadgroup`: of a file on detectors each row is a group, or else the whole file."""
    for item in items:
        if "detectors" not in item.path.parts:
            continue
        given = getattr(item, "callspec", None)
        row = next((name for name in ROWS if given is not None and name in given.params), None)
        group = item.path.stem
        if row is not None and given is not None:
            value = given.params[row]
            group += f"-{value if isinstance(value, str) else given.indices[row]}"
        item.add_marker(pytest.mark.xdist_group(group))
