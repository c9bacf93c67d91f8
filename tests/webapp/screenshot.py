"""Takes docs/app.png: `python -m tests.webapp.screenshot ADDRESS [FILE]`.

The page at ADDRESS is to serve the demo's weights.
"""

import sys
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

from tests.browser import BROWSER_ARGUMENTS, find_browser


def take_screenshot(address: str, file: Path) -> None:
    """Takes the page after a visitor has tried the example."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_browser(), args=BROWSER_ARGUMENTS)
        page = browser.new_page(viewport={'width': 1200, 'height': 800})
        page.goto(address)
        page.click('#example')
        expect(page.locator('#compare img').nth(1)).to_be_visible(timeout=60_000)
        page.mouse.move(0, 0)
        page.wait_for_timeout(1500)  # pictures fade in
        page.screenshot(path=file)
        browser.close()


if __name__ == '__main__':
    take_screenshot(sys.argv[1], Path(sys.argv[2] if len(sys.argv) > 2 else 'docs/app.png'))
