"""The report in a real browser: drawn, nothing fetched, nothing complained of."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from thetabox.report import write_comparison

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
    "--enable-logging=stderr",
)


def screenshot(page: Path, folder: Path, *more: str) -> tuple[str, Any]:
    """The page's elements and its picture, ``[height, width, 3]``; a browser that complains of anything fails."""

    def run(*extra: str) -> subprocess.CompletedProcess[str]:
        profile = f"--user-data-dir={folder / 'profile'}"
        # A resolver that knows no host: whatever the page fetched would show as an error.
        command = [BROWSER, *FLAGS, profile, "--host-resolver-rules=MAP * ~NOTFOUND", *more, *extra, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    dumped = run("--dump-dom")
    assert dumped.returncode == 0, dumped.stderr[-2000:]
    assert not re.findall(r"CONSOLE.*|ERR_NAME_NOT_RESOLVED", dumped.stderr)
    picture = folder / "page.png"
    assert run("--window-size=1000,2400", f"--screenshot={picture}").returncode == 0
    from matplotlib.image import imread

    return dumped.stdout, imread(picture)[..., :3]


@pytest.mark.long
@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")
def test_report_in_a_browser(tmp_path, make_certificate, attack):
    entries = [("CNN", make_certificate(), attack), ("LSNN", make_certificate(data_info={"name": "vowels"}), None)]
    dom, pixels = screenshot(write_comparison(tmp_path / "out", entries, title="Two networks"), tmp_path)
    assert dom.count("<svg") == 1 + 3 * 2
    assert "Two networks" in dom
    assert pixels[:400].std() > 0.05, "the top of the page is blank"
    blue = (abs(pixels - [0.0, 0x72 / 255, 0xB2 / 255]).max(-1) < 0.02).sum()
    assert blue > 2000, "the verified curve and the bars are not drawn"


@pytest.mark.long
@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")
def test_report_in_the_dark(tmp_path, make_certificate, attack):
    page = write_comparison(tmp_path / "out", [("CNN", make_certificate(), attack)], title="A network")
    _, pixels = screenshot(page, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert pixels.max(-1)[:, :5].max() < 0.2, "the page is not dark"
    # Neither page nor figures keep a white ground: bright are letters, lines and marks alone.
    assert (pixels.min(-1) > 0.8).mean() < 0.05
    assert (pixels.min(-1) > 0.8).sum() > 2000, "there is nothing to read"
