"""The report in a real browser: drawn, nothing fetched, nothing complained of."""

from __future__ import annotations

import html
import json
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


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")
def test_report_in_a_browser(tmp_path, make_certificate, attack):
    entries = [("CNN", make_certificate(), attack), ("LSNN", make_certificate(data_info={"name": "vowels"}), None)]
    dom, pixels = screenshot(write_comparison(tmp_path / "out", entries, title="Two networks"), tmp_path)
    assert dom.count("<svg") == 2 + 3 * 2
    assert "Two networks" in dom
    assert pixels[:400].std() > 0.05, "the top of the page is blank"
    blue = (abs(pixels - [0.0, 0x72 / 255, 0xB2 / 255]).max(-1) < 0.02).sum()
    assert blue > 2000, "the verified curve and the bars are not drawn"


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")
def test_report_in_the_dark(tmp_path, make_certificate, attack):
    page = write_comparison(tmp_path / "out", [("CNN", make_certificate(), attack)], title="A network")
    _, pixels = screenshot(page, tmp_path, "--blink-settings=preferredColorScheme=0")
    assert pixels.max(-1)[:, :5].max() < 0.2, "the page is not dark"
    # Neither page nor figures keep a white ground: bright are letters, lines and marks alone.
    assert (pixels.min(-1) > 0.8).mean() < 0.05
    assert (pixels.min(-1) > 0.8).sum() > 2000, "there is nothing to read"


MEASURE = """
<script>
const boxes = selector => [...document.querySelectorAll(selector)];
document.title = JSON.stringify({
  scrolls: boxes(".scroll").filter(box => box.scrollWidth > box.clientWidth).length,
  panels: boxes(".panels svg").map(svg => Math.round(svg.getBoundingClientRect().top)),
  beyond: document.documentElement.scrollWidth - innerWidth,
});
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium on PATH")
def test_a_page_has_room_at_a_desk_and_one_column_on_a_phone(tmp_path, make_certificate, attack):
    names = ("CNN, weight attack + noise", "LSNN, weight attack + noise")
    entries = [(names[0], make_certificate(), attack), (names[1], make_certificate(data_info={"name": "vowels"}), None)]
    page = write_comparison(tmp_path / "out", entries, title="Two networks")
    page.write_text(page.read_text().replace("</body>", MEASURE + "</body>"))

    def measured(width: int) -> dict[str, Any]:
        dom, _ = screenshot(page, tmp_path, f"--window-size={width},1000")
        return json.loads(html.unescape(re.search("<title>(.*?)</title>", dom)[1]))

    desk, phone = measured(1280), measured(500)
    assert desk["scrolls"] == 0
    assert len(set(desk["panels"])) == 1
    assert len(set(phone["panels"])) == 2
    assert max(desk["beyond"], phone["beyond"]) <= 0
