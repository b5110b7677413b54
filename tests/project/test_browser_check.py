"""The check of the pages in a browser finds each fault of a page that has them all, and none on a page without."""

import base64
import importlib.util
import shutil

import pytest
from support import ROOT

SCRIPT = ROOT / "docs" / "browser_check.py"
CLEAN = (
    "<!DOCTYPE html><html lang='en'><head><title>a</title><link rel='icon' href='data:,'></head><body>{}</body></html>"
)
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNgYGBgAAAABQABpfZFQAAAAABJRU5ErkJggg=="
)
FAULTS = {  # what the page contains: what the check says
    "<p>As \\(x\\) shows, and **bold** is.</p>": "source text is shown",
    "<span class='math'>x</span>": "a formula is not rendered",
    "<div style='width: 2000px; height: 9px'></div>": "px too wide",
    "<div style='width: 50px; overflow: hidden; white-space: nowrap'>a line that ends early</div>": "is cut off",
    "<pre style='width: 50px; overflow: auto'>a line of code that needs more</pre>": "code runs out of its box",
    "<img src='none.png' alt='none'>": "an image is missing: none.png",
    "<img src='pixel.png' width='9' height='9' alt='pixel'>": "an image is transparent: pixel.png",
    "<img src='pixel.png' width='9' height='9' style='background: white' alt=''>": "an image has no text",
    "<p style='color: #999; background: #aaa'>pale</p>": "text has a contrast of",
    "<svg width='9' height='9'><rect width='9' height='9'/></svg>": "a drawing has black ink in dark mode",
    "<div class='highlight'><pre>code</pre></div>": "code has no copy button",
    "<script>console.error('a fault')</script>": "a fault",
    "<script>fetch('https://example.com/').catch(() => {})</script>": "a request leaves this machine",
    "<a href='none.html'>none</a>": "a link leads nowhere",
    "<a href='clean.html#none'>none</a>": "a link leads to no part of its page",
}


@pytest.mark.slow
@pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="needs Chromium")
def test_the_check_of_the_pages_finds_every_fault_and_no_other(tmp_path):
    pytest.importorskip("selenium", reason="needs selenium")
    spec = importlib.util.spec_from_file_location("browser_check", SCRIPT)
    check = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(check)
    site = tmp_path / "site"
    site.mkdir()
    (site / "clean.html").write_text(
        CLEAN.format("<p>Nothing is wrong <a href='#here'>here</a>.</p><p id='here'>So.</p>")
    )
    (site / "pixel.png").write_bytes(PIXEL)
    for number, content in enumerate(FAULTS):
        (site / f"{number}.html").write_text(CLEAN.format(content))
    with check.served(site) as origin:
        browser = check.Browser(shutil.which("chromium"), shutil.which("chromedriver"), tmp_path / "profile")
        try:
            pages = ["clean.html", *(f"{number}.html" for number in range(len(FAULTS)))]
            visits = {page: browser.visit(origin + page, 1280, "dark") for page in pages}
        finally:
            browser.driver.quit()
        links = list(check.broken_links(visits, site, origin))
    found = {page: [*visits[page].found, *(text for name, text in links if name == page)] for page in pages}
    assert found["clean.html"] == []
    for number, (content, fault) in enumerate(FAULTS.items()):
        assert any(fault in text for text in found[f"{number}.html"]), (content, found[f"{number}.html"])
