"""A real browser, headless: Debian's chromium, driven by playwright. Without either these tests are skipped."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[1] / "bench"))  # fake_records.py
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    program = next((path for name in PROGRAMS if (path := shutil.which(name))), None)
    if program is None:
        pytest.skip("no chromium here: apt-get install chromium")
    driver = pytest.importorskip("playwright.sync_api", reason="no playwright here: pip install 'radbench[browser]'")
    with driver.sync_playwright() as started:
        # As root chromium has no sandbox; what it opens here are pages of this test alone. A container's shared memory
        # is too small for it.
        found = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage"])
        yield found
        found.close()
