"""Picture of the README: the demo's page of tokens, its first pairs, in a light and a dark theme.

    make demo && python benchmarks/token_picture.py runs/demo/tokens.html docs/images

Needs Debian's Chromium and Playwright.
"""

from __future__ import annotations

import argparse
from pathlib import Path

PAIRS = 2


def main() -> None:
    """Write tokens-light.png and tokens-dark.png."""
    from playwright.sync_api import sync_playwright

    shown = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shown)
    parser.add_argument("page", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        for scheme in ("light", "dark"):
            size = {"width": 1000, "height": 1200}
            page = browser.new_context(viewport=size, color_scheme=scheme, device_scale_factor=1.5).new_page()
            page.goto(given.page.resolve().as_uri())
            page.wait_for_selector(".tokens > span")
            cards = page.locator("#pairs > *")
            boxes = [cards.nth(number).bounding_box() for number in range(PAIRS)]
            top, bottom = boxes[0]["y"] - 8, boxes[-1]["y"] + boxes[-1]["height"] + 8
            page.screenshot(
                path=given.out / f"tokens-{scheme}.png",
                clip={"x": 0, "y": top, "width": size["width"], "height": bottom - top},
            )
        browser.close()


if __name__ == "__main__":
    main()
