"""Samples to make rating pages of, and browsers to open them in."""

from pathlib import Path

import pytest
from browsers import CHROMIUM
from playwright.sync_api import sync_playwright
from rating_browser import Browser
from rating_scenes import Scene


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.fixture(scope="module")
def driver():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    with sync_playwright() as playwright:
        yield playwright.chromium


@pytest.fixture
def browser(driver, tmp_path):
    opened = []

    def launch(profile="profile", **options):
        opened.append(Browser(driver, tmp_path / profile, **options))
        return opened[-1]

    yield launch
    for one in opened:
        one.context.close()
        assert one.errors == []
        assert all(url.startswith(one.allowed) for url in one.asked), one.asked
