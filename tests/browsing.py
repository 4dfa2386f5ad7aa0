"""A folder served on loopback, and headless Chromium that opens it."""

import functools
import importlib.util
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")


def missing() -> str:
    """Why no browser can be driven here; "" where one can."""
    if importlib.util.find_spec("playwright") is None:
        return "playwright is not installed"
    lacking = [name for name in ("chromium", "node", "npm") if shutil.which(name) is None]
    return f"{', '.join(lacking)} not installed" if lacking else ""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Nothing on standard error."""


@dataclass
class Visit:
    """An open page, and what it did: messages of its console, uncaught errors, addresses that it asked for."""

    page: Any
    origin: str
    messages: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    @property
    def elsewhere(self) -> list[str]:
        """Requests that left the server."""
        return [address for address in self.requests if not address.startswith((self.origin, "data:", f"blob:{self.origin}"))]


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder's address, ``http://127.0.0.1:PORT/``."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def visiting(folder: Path, **options: Any) -> Iterator[Visit]:
    """Chromium on the folder's page; ``options`` are those of Playwright's ``new_page``."""
    from playwright.sync_api import sync_playwright

    with served(folder) as origin, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=list(FLAGS))
        visit = Visit(browser.new_page(**options), origin)
        visit.page.on("console", lambda message: visit.messages.append(message.text))
        visit.page.on("pageerror", lambda error: visit.messages.append(str(error)))
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.goto(origin)
        try:
            yield visit
        finally:
            browser.close()


def ready(visit: Visit) -> None:
    """Wait until the model can answer, or the page says why it cannot."""
    visit.page.wait_for_selector("body[data-state=ready], #status.error", timeout=60_000)
