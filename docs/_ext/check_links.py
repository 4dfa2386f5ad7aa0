"""Checks a built site: every internal link leads to a file that is there, and to an anchor in it:  check_links.py DIR."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class _Page(HTMLParser):
    """Collects targets of links and pictures, and anchors."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if value and name == "id":
                self.anchors.add(value)
            elif value and ((tag == "a" and name == "href") or (tag == "img" and name == "src")):
                self.links.append(value)


def read_page(path: Path) -> _Page:
    """A page's links and anchors."""
    page = _Page()
    page.feed(path.read_text())
    return page


def broken_links(site: Path) -> list[str]:
    """``PAGE: LINK`` for every internal link that leads nowhere."""
    pages = {path.resolve(): read_page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchored = not parts.fragment or target not in pages or parts.fragment in pages[target].anchors
            if not target.is_file() or not anchored:
                found.append(f"{path.relative_to(site.resolve())}: {link}")
    return found


if __name__ == "__main__":
    broken = broken_links(Path(sys.argv[1]))
    sys.stdout.write("\n".join([*broken, f"{len(broken)} broken internal links", ""]))
    sys.exit(1 if broken else 0)
