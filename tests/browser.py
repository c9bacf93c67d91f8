"""Chromium, in which tests open pages as people see them."""

import os
import shutil

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
