"""Chromium, in which tests open pages as people see them."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

BROWSER_ARGUMENTS = (
    '--no-sandbox',
    '--disable-gpu',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--no-first-run',
)


def find_browser() -> str | None:
    """Returns the executable of Chromium or Chrome: CHROMIUM, or the first on the path."""
    if os.environ.get('CHROMIUM'):
        return os.environ['CHROMIUM']
    for name in ('chromium', 'chromium-browser', 'google-chrome', 'chrome'):
        executable = shutil.which(name)
        if executable:
            return executable
    return None


@contextmanager
def chromium() -> Iterator[Browser]:
    """Starts the browser; skips the test where there is none."""
    executable = find_browser()
    if executable is None:
        pytest.skip('no Chromium: `make browser` installs it, or says how')
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=BROWSER_ARGUMENTS)
        yield running
        running.close()
