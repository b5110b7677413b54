"""Open each page of the built documentation in Chromium without network, and print what a reader would see wrong.

python docs/browser_check.py docs/_build/html --reports demo/report.html --pictures pictures
"""

import argparse
import base64
import contextlib
import functools
import http.server
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote, urldefrag, urlsplit

SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8")
WIDTHS, SCHEMES = (1280, 390), ("light", "dark")
TALLEST = 16_000  # px of a picture
REPRESENTATIVE = (
    "index.html",
    "start.html",
    "guide/manifolds.html",
    "guide/retractions.html",
    "guide/constrain.html",
    "guide/comparisons.html",
    "guide/runs.html",
    "guide/speed.html",
    "api/index.html",
    "api/generated/manifold_rnn.manifolds.Orthogonal.html",
    "api/generated/manifold_rnn.constraints.constrain.html",
    "api/generated/manifold_rnn.linalg.cayley.html",
    "networks/index.html",
    "networks/exprnn.html",
    "networks/lru.html",
    "gallery/index.html",
    "gallery/plot_spectra.html",
    "gallery/plot_coverage.html",
    "search.html?q=Cayley",
    "glossary.html",
    "references.html",
    "releasing.html",
    "policy.html",
    "genindex.html",
)
SEARCHES = {"Cayley": "guide/retractions.html", "unit disc": "guide/manifolds.html"}  # the first result
FLAGS = (
    "--headless=new",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost",
)


class Visit(NamedTuple):
    """What a page showed: findings, the addresses of its links, and the names that links may point to."""

    found: list[str]
    links: list[str]
    ids: frozenset[str]


class Browser:
    """A browser that opens pages with a width and a color scheme, and lists what is wrong with each."""

    def __init__(self, chromium: str, driver: str, profile: Path) -> None:
        from selenium import webdriver

        options = webdriver.ChromeOptions()
        options.binary_location = chromium
        for flag in (*FLAGS, f"--user-data-dir={profile}", *["--no-sandbox"] * (os.geteuid() == 0)):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(driver))
        self.driver.set_script_timeout(120)
        self.driver.get("about:blank")
        self._logged("")  # of the page that a new window shows

    def open(self, address: str, width: int, scheme: str) -> None:
        """Open a page in a window of this width, with this color scheme."""
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        self.driver.get(address)

    def visit(self, address: str, width: int, scheme: str) -> Visit:
        """Open a page and return what it shows."""
        self.open(address, width, scheme)
        if "search.html?" in address:
            self.results()
        seen: dict[str, Any] = self.driver.execute_async_script(SCRIPT, width >= 1000)
        return Visit(seen["found"] + self._logged(address), seen["links"], frozenset(seen["ids"]))

    def _logged(self, address: str) -> list[str]:
        """Return the messages of the console, and the requests that failed or left this machine."""
        found = [f"console: {entry['message']}" for entry in self.driver.get_log("browser")]
        own = urlsplit(address)[:2]
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            details = message["params"]
            if message["method"] == "Network.requestWillBeSent":
                url = details["request"]["url"]
                if urlsplit(url)[:2] != own and urlsplit(url).scheme not in ("data", "blob"):
                    found.append(f"a request leaves this machine: {url}")
            if message["method"] == "Network.responseReceived" and details["response"]["status"] >= 400:
                found.append(f"status {details['response']['status']}: {details['response']['url']}")
            if message["method"] == "Network.loadingFailed" and not details.get("canceled"):
                found.append(f"a request failed: {details['errorText']}")
        return found

    def picture(self, path: Path) -> None:
        """Write a picture of the whole page."""
        size = self.driver.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], TALLEST), "scale": 1}
        options = {"format": "png", "captureBeyondViewport": True, "clip": clip}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.driver.execute_cdp_cmd("Page.captureScreenshot", options)["data"]))

    def results(self) -> list[str]:
        """Return the addresses of the results on the page of a search, once all are there."""
        script = """
            const links = [...document.querySelectorAll("#search-results ul.search > li > a")];
            return [links.map((link) => link.href), document.querySelector(".search-summary")?.textContent ?? ""];
        """
        until = time.monotonic() + 60
        while time.monotonic() < until:
            links, summary = self.driver.execute_script(script)
            if summary:
                return [str(link) for link in links]
            time.sleep(0.1)
        return []

    def copied(self, origin: str) -> str:
        """Click on the first copy button of the page, and return what it copies."""
        permissions = {"origin": origin, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
        self.driver.execute_cdp_cmd("Browser.grantPermissions", permissions)
        self.driver.find_element("css selector", "button.copybtn").click()
        script = "const finish = arguments[0]; navigator.clipboard.readText().then(finish, (e) => finish(String(e)))"
        return str(self.driver.execute_async_script(script))


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    """Serve files, and print nothing."""

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on a free port of this machine, and yield its address."""
    handler = functools.partial(QuietHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("localhost", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


def broken_links(visits: dict[str, Visit], root: Path, origin: str) -> Iterator[tuple[str, str]]:
    """Yield a page and a link of it that leads nowhere; addresses on other machines must be well formed."""
    for page, visit in visits.items():
        for link in visit.links:
            address, fragment = urldefrag(link)
            if not address.startswith(origin):
                if urlsplit(link).scheme not in ("https", "mailto"):
                    yield page, f"a link is neither inside nor https: {link}"
                continue
            path = unquote(urlsplit(address).path).lstrip("/") or "index.html"
            target = visits.get(path)
            if not (root / path).is_file():
                yield page, f"a link leads nowhere: {link}"
            elif fragment and target and unquote(fragment) not in target.ids:
                yield page, f"a link leads to no part of its page: {link}"


def check_site(browser: Browser, root: Path, origin: str, pictures: Path | None) -> Iterator[tuple[str, str]]:
    """Yield each page of the site with a finding."""
    pages = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.html") if "_static" not in path.parts)
    visits: dict[str, Visit] = {}
    for page in pages:
        visits[page] = browser.visit(origin + page, WIDTHS[0], SCHEMES[0])
        yield from ((page, found) for found in visits[page].found)
    yield from broken_links(visits, root, origin)
    for page in REPRESENTATIVE:
        if page.partition("?")[0] not in visits:
            yield page, "the page does not exist"
            continue
        yield from check_view(browser, origin + page, page, pictures)
    for words, wanted in SEARCHES.items():
        browser.open(f"{origin}search.html?q={words}", WIDTHS[0], SCHEMES[0])
        results = [link.removeprefix(origin) for link in browser.results()]
        if not results or not results[0].startswith(wanted):
            yield f"search for {words}", f"the first result is not {wanted}: {results[:3]}"
    browser.open(f"{origin}index.html", WIDTHS[0], SCHEMES[0])
    if not (text := browser.copied(origin)).startswith("import "):
        yield "index.html", f"the copy button copies: {text}"


def check_view(browser: Browser, address: str, name: str, pictures: Path | None) -> Iterator[tuple[str, str]]:
    """Yield the findings of a page at all widths and color schemes, and write a picture of each."""
    for width in WIDTHS:
        for scheme in SCHEMES:
            label = f"{name} ({width} px, {scheme})"
            yield from ((label, found) for found in browser.visit(address, width, scheme).found)
            if pictures:
                file = "".join(letter if letter.isalnum() or letter in "._" else "-" for letter in name)
                browser.picture(pictures / f"{file.removesuffix('.html')}-{width}-{scheme}.png")


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a site and reports, and return 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path, help="folder of the built pages")
    parser.add_argument("--reports", type=Path, nargs="*", default=[], help="HTML files that the commands wrote")
    parser.add_argument("--pictures", type=Path, help="folder for pictures of the representative pages")
    parser.add_argument("--only-reports", action="store_true", help="check the reports alone")
    options = parser.parse_args(arguments)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        print("Skipped: this check needs Chromium and chromedriver, which are not installed.")
        return 0
    count = 0
    with tempfile.TemporaryDirectory() as profile, served(options.site) as origin:
        browser = Browser(chromium, driver, Path(profile))
        try:
            views = [
                check_view(browser, file.resolve().as_uri(), f"{file.parent.name}/{file.name}", options.pictures)
                for file in options.reports
            ]
            if not options.only_reports:
                views.append(check_site(browser, options.site, origin, options.pictures))
            for name, found in (finding for view in views for finding in view):
                count += 1
                print(f"{name}: {found}", flush=True)
        finally:
            browser.driver.quit()
    print(f"{count} findings.")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main())
