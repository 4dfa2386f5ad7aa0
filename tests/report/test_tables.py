import io

from rich.console import Console

from xtc_jax.report.tables import Row, draw, markdown_table, terminal_table

ROWS = [
    Row("teacher", 12, 32, "accuracy", 0.9, 0.9, 4_000_000, 4_000_000, 300, 61.4),
    Row("packed", 6, 1, "accuracy", 0.855, 0.9, 80_000, 4_000_000, 0, 2.0),
]


def test_the_markdown_table_has_one_line_per_stage():
    assert markdown_table(ROWS) == (
        "| stage | layers | bits | accuracy | % of teacher | bytes | smaller | steps | seconds |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        "| teacher | 12 | 32 | 90.00 | 100.0 % | 4,000,000 | 1.0x | 300 | 61 |\n"
        "| packed | 6 | 1 | 85.50 | 95.0 % | 80,000 | 50.0x | 0 | 2 |\n"
    )


def test_a_teacher_without_a_positive_metric_has_no_share():
    row = Row("packed", 6, 1, "pearson", 0.5, 0.0, 1, 1, 0, 0.0)
    assert row.cells()[4] == "-"


def test_the_terminal_table_shows_the_same_cells():
    screen = io.StringIO()
    Console(file=screen, width=140).print(terminal_table(ROWS, "sst2"))
    text = screen.getvalue()
    assert [cell for row in ROWS for cell in row.cells() if cell not in text] == []


def test_the_picture_is_a_png_that_grows_with_the_rows(tmp_path):
    heights = []
    for count in (1, 2):
        draw(ROWS[:count], tmp_path / "report.png", "sst2")
        data = (tmp_path / "report.png").read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        heights.append(int.from_bytes(data[20:24], "big"))
    assert heights[1] - heights[0] == 66  # 0.55 inches of 120 dots
