"""A headless Chromium for tests, or a skipped test."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def chromium() -> Iterator[Any]:
    """Yield a running browser; use it from a module-scoped fixture."""
    path = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if path is None:
        pytest.skip("there is no Chromium to open the page with: apt install chromium")
    if find_spec("playwright") is None:
        pytest.skip("playwright, which drives the browser, is not installed: pip install 'mindscaip[dev]'")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()
