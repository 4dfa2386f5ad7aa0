"""Results as tables, Markdown and pictures."""

from xtc_jax.report.runs import joint_rows, read_results, result_rows, write_report
from xtc_jax.report.tables import Row, draw, markdown_table, terminal_table

__all__ = [
    "Row",
    "draw",
    "joint_rows",
    "markdown_table",
    "read_results",
    "result_rows",
    "terminal_table",
    "write_report",
]
