"""Results as tables, Markdown and pictures."""

from xtc_jax.report.answers import answer_lines
from xtc_jax.report.baselines import read_baselines, verdicts
from xtc_jax.report.outlook import outlook
from xtc_jax.report.page import write_page
from xtc_jax.report.runs import joint_rows, read_results, result_rows, write_report
from xtc_jax.report.tables import Row, draw, markdown_table, terminal_table

__all__ = [
    "Row",
    "answer_lines",
    "draw",
    "joint_rows",
    "markdown_table",
    "outlook",
    "read_baselines",
    "read_results",
    "result_rows",
    "terminal_table",
    "verdicts",
    "write_page",
    "write_report",
]
