"""Every citation of docs/method.md and docs/kernels.md leads to a section that a reader can open."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CITING = ("xtc_jax", "configs", "tests", "benchmarks", "launch")
SUFFIXES = (".py", ".sh", ".sbatch", ".yaml", ".md")
_MENTION = re.compile(r"[\w./-]*\b(?:method|kernels)\.md\b")
_CITATION = re.compile(r"docs/(?:method|kernels)\.md, sections? (\d+(?:\.\d+)?(?:(?:, | and | to )\d+(?:\.\d+)?)*)")
_PATH = re.compile(r"(?<![\w./])(?:xtc_jax|tests|configs|launch|benchmarks|docs)/[\w./-]+\.(?:py|md|sh|json|png|yaml|sbatch)\b")
_ELSEWHERE = re.compile(r"\[[^\]]*\]\(https?://[^)]*\)")  # a link to another repository, which has such folders too
_HEADING = re.compile(r"^##+ (\d+(?:\.\d+)?)[. ]", re.MULTILINE)


def headings(text: str) -> set[str]:
    """The numbers of a page's sections."""
    return set(_HEADING.findall(text))


def faults(text: str, pages: dict[str, set[str]]) -> list[str]:
    """What is wrong with the citations of a source file, whose lines may break anywhere; ``pages`` has the sections by path."""
    text = re.sub(r"\s*\n[ \t]*#?[ \t]*", " ", text)
    found = []
    for mention in _MENTION.finditer(text):
        page, cited = mention.group(), _CITATION.match(text, mention.start())
        if page not in pages:
            found.append(f"{page}: no such page under docs/")
        elif cited is None:
            found.append(f"{text[mention.start() : mention.end() + 20]}: not of the form 'docs/PAGE.md, section N.N'")
        else:
            missing = [number for number in re.findall(r"\d+(?:\.\d+)?", cited[1]) if number not in pages[page]]
            found += [f"{page}: no section {number}" for number in missing]
    return found


def sources() -> Iterator[Path]:
    """Text files that may cite, without this one, whose examples are wrong on purpose."""
    for folder in CITING:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and path.is_file() and path != Path(__file__).resolve():
                yield path


@pytest.fixture(scope="module")
def pages() -> dict[str, set[str]]:
    return {f"docs/{name}.md": headings((ROOT / "docs" / f"{name}.md").read_text()) for name in ("method", "kernels")}


def test_every_citation_names_a_page_under_docs_and_a_section_that_exists(pages):
    found = {str(path.relative_to(ROOT)): faults(path.read_text(), pages) for path in sources()}
    assert {path: wrong for path, wrong in found.items() if wrong} == {}


def test_the_sources_do_cite_so_an_empty_search_is_no_success():
    cited = sum(len(_CITATION.findall(re.sub(r"\s*\n[ \t]*#?[ \t]*", " ", path.read_text()))) for path in sources())
    assert cited >= 38


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("(method.md section 3.1)", "method.md: no such page under docs/"),
        ("notes/kernels.md, section 1", "notes/kernels.md: no such page under docs/"),
        ("docs/method.md, section 3.7", "docs/method.md: no section 3.7"),
        ("docs/method.md, sections 3.1, 5.2 and 99", "docs/method.md: no section 99"),
        ("# as in docs/kernels.md,\n    # section 42", "docs/kernels.md: no section 42"),
    ],
)
def test_a_citation_that_leads_nowhere_is_found(pages, text, fault):
    assert faults(text, pages) == [fault]


@pytest.mark.parametrize("text", ["docs/method.md says so", "docs/method.md section 3", "docs/kernels.md, trap 5"])
def test_a_citation_in_another_form_is_found(pages, text):
    (fault,) = faults(text, pages)
    assert fault.endswith("not of the form 'docs/PAGE.md, section N.N'")


@pytest.mark.parametrize(
    "text",
    ["docs/method.md, section 3.1", "(docs/method.md, sections\n2.3 to 2.5).", "# docs/method.md,\n# sections 6.2 and 13.13"],
)
def test_a_citation_may_break_over_lines_and_name_several_sections(pages, text):
    assert faults(text, pages) == []


def test_sections_of_both_pages_are_numbered_without_a_gap(pages):
    for numbers in pages.values():
        top = sorted(int(number) for number in numbers if "." not in number)
        assert top == list(range(1, len(top) + 1))


def test_every_status_in_a_table_of_the_method_is_one_that_the_page_defines():
    known = {"published", "computed", "measured", "recollected", "a choice of this project"}
    rows = [line for line in (ROOT / "docs/method.md").read_text().splitlines() if line.startswith("|")]
    status, wrong = False, []
    for row, following in zip(rows, [*rows[1:], ""], strict=True):
        if following.startswith("|---"):
            status = row.split("|")[-2].strip() == "status"
        elif status and not row.startswith("|---"):
            cell = row.split("|")[-2].strip()
            if cell.split(" (")[0].split(";")[0] not in known:
                wrong.append(row)
    assert wrong == []


def lost(text: str) -> list[str]:
    """Paths of this repository in a text that lead nowhere."""
    return [path for path in _PATH.findall(_ELSEWHERE.sub("", text)) if not (ROOT / path).exists()]


def test_every_file_of_this_repository_that_a_text_names_exists():
    pages = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "Makefile", "pyproject.toml")]
    found = {
        str(path.relative_to(ROOT)): lost(path.read_text()) for path in (*pages, *(ROOT / "docs").glob("*.md"), *sources())
    }
    assert {path: names for path, names in found.items() if names} == {}


def test_a_path_that_leads_nowhere_is_found_and_one_of_another_repository_is_left_alone():
    assert lost("see docs/lost.md, `xtc_jax/lost/lost.py` and tests/test_citations.py") == [
        "docs/lost.md",
        "xtc_jax/lost/lost.py",
    ]
    assert lost("[jax, `tests/lost.py`](https://example.com/tests/lost.py)") == []
