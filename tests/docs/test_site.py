"""The documentation site: generated pages have every name, key and command, nothing warns, and links lead somewhere."""

import importlib
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import check_links
import pytest
import xtc_reference

import xtc_jax
from xtc_jax.cli.main import COMMANDS, make_parser
from xtc_jax.recipe.schema import base_config, stage_config

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["xtc_jax", *(f"xtc_jax.{each.name}" for each in pkgutil.iter_modules(xtc_jax.__path__) if each.ispkg)]
NOT_FOR_IMPORT = {"xtc_jax.cli", "xtc_jax.configs"}
"""The command has a page of its own; recipes are found by name."""


def test_every_package_has_a_page():
    assert set(PACKAGES) - NOT_FOR_IMPORT == set(xtc_reference.packages())


@pytest.mark.parametrize("package", sorted(set(PACKAGES) - NOT_FOR_IMPORT))
def test_every_public_name_is_on_the_page_of_its_package(package):
    page, module = xtc_reference.api_page(package), importlib.import_module(package)
    names = list(getattr(module, "__all__", ()))
    shown = re.findall(
        rf"(?:auto\w+|py:data):: {re.escape(package)}\.(\w+)$|The package :mod:`{package}\.(\w+)`", page, re.MULTILINE
    )
    assert sorted(one or two for one, two in shown) == sorted(names)


def test_a_constant_is_shown_with_its_value_and_the_text_beneath_it():
    page = xtc_reference.api_page("xtc_jax.quantize")
    assert ".. py:data:: xtc_jax.quantize.INPUT_RANGE\n   :value: 'input_range'\n\n   Name of the leaf, beside a" in page


def test_every_key_of_a_config_and_of_a_stage_is_on_the_page_of_keys():
    page = xtc_reference.config_page()
    for config, title in ((base_config(), "Of the whole recipe"), (stage_config(), "Of each stage")):
        part = page[page.index(f"## {title}") :].split("\n## ")[0 if title == "Of each stage" else 1 - 1]
        keys = [f"{key}.{inner}" for key, value in config.items() if hasattr(value, "items") for inner in value]
        keys += [key for key, value in config.items() if not hasattr(value, "items")]
        assert [key for key in keys if f"| `{key}` |" not in part] == []


def test_every_command_and_every_argument_is_on_the_page_of_commands():
    page = xtc_reference.command_page(make_parser())
    assert re.findall(r"^## `xtc (\w+)`$", page, re.MULTILINE) == list(COMMANDS)
    for name, command in xtc_reference.subcommands(make_parser()).items():
        options = [option for action in command._actions for option in action.option_strings if option not in ("-h", "--help")]
        assert [option for option in options if f"`{option}" not in page] == [], name
        assert f"xtc {name} [-h]" in page


def test_a_link_to_a_file_or_an_anchor_that_is_not_there_is_found(tmp_path):
    (tmp_path / "a.html").write_text(
        '<a href="b.html#here">x</a><a href="b.html#gone">x</a><a href="c.html">x</a><a href="https://a.b">x</a>'
    )
    (tmp_path / "b.html").write_text('<p id="here"></p><img src="none.png">')
    assert check_links.broken_links(tmp_path) == ["a.html: b.html#gone", "a.html: c.html", "b.html: none.png"]


def test_every_page_of_a_folder_is_in_the_menu():
    """Those beside the index find their own way into it."""
    menu = set(re.findall(r"^([\w/]+)$", (ROOT / "docs" / "index.md").read_text(), re.MULTILINE))
    pages = {str(path.relative_to(ROOT / "docs").with_suffix("")) for path in (ROOT / "docs").glob("*/*.md")}
    assert pages <= menu


@pytest.mark.slow
@pytest.mark.docs
def test_the_site_builds_without_a_warning_and_all_its_links_lead_somewhere(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-W", "-q", "-E", "-b", "html", "docs", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert check_links.broken_links(tmp_path / "site") == []
