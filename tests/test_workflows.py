"""Workflows, forms, citation and changelog: what they name exists, and they say the same version."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml

import xtc_jax

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
_PATHS = re.compile(r"(?<![\w./-])((?:tests|launch|docs|\.ci|examples)/[\w./-]+)")


def commands(workflow: Path) -> list[str]:
    """What the workflow runs."""
    jobs = yaml.safe_load(workflow.read_text())["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def test_there_is_a_workflow_for_changes_one_for_nights_and_one_for_releases():
    assert [path.stem for path in WORKFLOWS] == ["ci", "nightly", "release"]
    jobs = yaml.safe_load(WORKFLOWS[0].read_text())["jobs"]
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert {"check", "test", "docs", "wheel", "examples"} == set(jobs)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_every_make_target_and_every_path_that_a_workflow_names_exists(workflow):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = "\n".join(commands(workflow))
    assert set(re.findall(r"\bmake ([\w-]+)", named)) <= targets
    assert [path for path in _PATHS.findall(named) if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_no_workflow_may_write_by_default_and_every_job_has_a_limit_of_time(workflow):
    found = yaml.safe_load(workflow.read_text())
    assert found["permissions"] == {"contents": "read"}
    assert all("timeout-minutes" in job for job in found["jobs"].values())


@pytest.mark.actionlint
def test_actionlint_finds_no_fault():
    done = subprocess.run([ROOT / ".ci" / "actionlint", *WORKFLOWS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.actionlint
def test_actionlint_would_find_a_fault(tmp_path):
    wrong = tmp_path / "wrong.yml"
    wrong.write_text(WORKFLOWS[0].read_text().replace("runs-on", "run-on"))
    done = subprocess.run([ROOT / ".ci" / "actionlint", wrong], capture_output=True, text=True, check=False)
    assert done.returncode == 1


def test_the_forms_of_issues_are_valid_yaml_with_a_name_and_a_body():
    for form in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("[!c]*.yml"):
        found = yaml.safe_load(form.read_text())
        assert {"name", "description", "body"} <= set(found), form
        assert all(each["attributes"]["label"] for each in found["body"]), form


def test_the_hooks_of_pre_commit_are_local_so_that_nothing_is_fetched():
    repos = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repo["repo"] for repo in repos] == ["local"]
    assert {hook["language"] for hook in repos[0]["hooks"]} == {"system"}


def test_changelog_citation_and_package_name_the_same_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    changelog = (ROOT / "CHANGELOG.md").read_text()
    newest, date = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)[0]
    assert newest == citation["version"] == xtc_jax.__version__
    assert date == citation["date-released"] == "2026-11-24"


def test_the_changelog_has_the_form_of_keep_a_changelog():
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert changelog.index("## [Unreleased]") < changelog.index("## [0.2.0] - ")
    kinds = set(re.findall(r"^### (.*)$", changelog, re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
