"""Screenshots of a running gallery, for docs/gallery.md.

PYTHONPATH=. .venv/bin/python tests/support/gallery_screenshots.py URL FOLDER
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import expect

from tests.support.gallery_browser import chromium
from training.files import atomic_path

KEPT = "keep=3,17,29,12,8,11"
DESKTOP = {"viewport": {"width": 1320, "height": 960}}
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True,
         "has_touch": True}  # fmt: skip
# name: (address, what is on it when it is ready, settings of the browser)
SHOTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "light": (f"#seed=1&count=36&{KEPT}&frame=11", "#walk-caption", DESKTOP),
    "dark": (f"#seed=1&count=36&{KEPT}&view=mix&a=29,12&b=3,17&c=8,11", "#mix-result",
             {**DESKTOP, "color_scheme": "dark"}),
    "phone": (f"#seed=1&count=24&{KEPT}", "#walk-caption", PHONE),
}  # fmt: skip


def main(url: str, folder: Path) -> None:
    """Write one PNG of 256 colours a shot."""
    with chromium() as browser:
        for name, (address, ready, settings) in SHOTS.items():
            page = browser.new_page(**settings)
            page.goto(url + address)
            expect(page.locator(ready)).to_be_visible()
            page.wait_for_load_state("networkidle")
            shot = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
            with atomic_path(folder / f"{name}.png") as beside:
                shot.quantize(256).save(beside, "PNG", optimize=True)
            page.close()


if __name__ == "__main__":
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    main(sys.argv[1], Path(sys.argv[2]))
