"""The browser of these tests. Without playwright or Chromium they are skipped, with the command that installs it.

MEANSWEEP_SCREENSHOTS=1 keeps pictures of what they see in docs/images. They show sweeps that the tests make up, or that
of a home named by MEANSWEEP_BROWSER_HOME.
"""

import io
import os
import shutil

import pytest
from PIL import Image

from tests import ROOT

SHOOT = os.environ.get("MEANSWEEP_SCREENSHOTS") == "1"
PICTURES = ROOT / "docs" / "images"

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
)  # fmt: skip


@pytest.fixture(scope="session")
def chromium():
    """A Chromium of its own, with a new profile."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make setup")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


def shoot(what, name, **options):
    """Keep a picture of a page or of a part of it: 256 colours, rare ones too, are enough and a third of the bytes."""
    image = Image.open(io.BytesIO(what.screenshot(**options))).convert("RGB")
    small = image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2, dither=Image.Dither.NONE)
    small.save(PICTURES / f"{name}.png", optimize=True)
