"""The report in a real browser: drawn, nothing fetched, nothing complained of."""

from __future__ import annotations

import re
import shutil
import subprocess

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


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")
def test_report_in_a_browser(tmp_path, make_certificate, attack):
    entries = [("CNN", make_certificate(), attack), ("LSNN", make_certificate(data_info={"name": "vowels"}), None)]
    page = write_comparison(tmp_path / "out", entries, title="Two networks")

    def run(*extra: str) -> subprocess.CompletedProcess[str]:
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        # A resolver that knows no host: whatever the page fetched would show as an error.
        command = [BROWSER, *FLAGS, profile, "--host-resolver-rules=MAP * ~NOTFOUND", *extra, page.as_uri()]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    dumped = run("--dump-dom")
    assert dumped.returncode == 0, dumped.stderr[-2000:]
    assert dumped.stdout.count("<svg") == 1 + 3 * 2
    assert "Two networks" in dumped.stdout
    assert not re.findall(r"CONSOLE.*|ERR_NAME_NOT_RESOLVED", dumped.stderr)
    picture = tmp_path / "page.png"
    assert run("--window-size=1000,2400", f"--screenshot={picture}").returncode == 0
    from matplotlib.image import imread

    pixels = imread(picture)[..., :3]
    assert pixels[:400].std() > 0.05, "the top of the page is blank"
    blue = (abs(pixels - [0.0, 0x72 / 255, 0xB2 / 255]).max(-1) < 0.02).sum()
    assert blue > 2000, "the verified curve and the bars are not drawn"
