"""Sphinx configuration: ``make docs``. Nothing is fetched, and every warning is an error."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

import xtc_reference
from sphinx.application import Sphinx

import xtc_jax

project = "xtc_jax"
author = "The xtc_jax developers"
version = release = xtc_jax.__version__
copyright = "2026, the xtc_jax developers; Apache-2.0"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4
smartquotes = False
suppress_warnings = ["myst.header"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "sphinx_book_theme"
html_title = "xtc_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_sourcelink = False
html_theme_options = {
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "home_page_in_toc": True,
    "use_download_button": False,
    "use_fullscreen_button": False,
}

xtc_reference.write_pages(HERE / "reference" / "generated")


def _adapt(_: object, name: str, source: list[str]) -> None:
    """The table of measurements is a page of its own here, and pages that the menu does not name yet follow the guides."""
    source[0] = source[0].replace("](../benchmarks/README.md", "](results.md")
    if name == "index":
        others = [page.stem for page in sorted(HERE.glob("*.md")) if page.stem != name and f"\n{page.stem}\n" not in source[0]]
        source[0] = source[0].replace("guides/deploying\n", "\n".join(["guides/deploying", *others, ""]))


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", _adapt)
