"""The result as a table, as Markdown and as a picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One line of a result table.

    Attributes:
      stage: its name in ``results.json``.
      layers, bits: of the model.
      metric: name of the selecting metric.
      value: its value, a fraction.
      teacher: the value of the first row, the teacher.
      bytes: of the model's weights, as stored.
      fp32_bytes: of the teacher's weights at four bytes each.
      steps: number of training steps.
      seconds: of wall time, evaluation and compilation included.
      spread: where ``value`` is a mean over seeds, their standard deviation (of a sample: n - 1); else None.
    """

    stage: str
    layers: int
    bits: int
    metric: str
    value: float
    teacher: float
    bytes: int
    fp32_bytes: int
    steps: int
    seconds: float
    spread: float | None = None

    def cells(self) -> tuple[str, ...]:
        """The line as text, in the order of :data:`HEADER`."""
        share = f"{100 * self.value / self.teacher:.1f} %" if self.teacher > 0 else "-"
        return (
            self.stage,
            str(self.layers),
            str(self.bits),
            f"{100 * self.value:.2f}" + ("" if self.spread is None else f" ± {100 * self.spread:.2f}"),
            share,
            f"{self.bytes:,}",
            f"{self.fp32_bytes / self.bytes:.1f}x",
            f"{self.steps:,}",
            f"{self.seconds:.0f}",
        )


HEADER = ("stage", "layers", "bits", "metric", "% of teacher", "bytes", "smaller", "steps", "seconds")


def _header(rows: Sequence[Row]) -> tuple[str, ...]:
    metrics = " or ".join(dict.fromkeys(row.metric for row in rows))
    return tuple(metrics if name == "metric" else name for name in HEADER)


def table_cells(rows: Sequence[Row]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """The header, with the metric's name in it, and the lines as text."""
    return _header(rows), [row.cells() for row in rows]


def terminal_table(rows: Sequence[Row], title: str) -> Table:
    """A table for ``rich`` to print."""
    table = Table(title=title)
    for i, name in enumerate(_header(rows)):
        table.add_column(name, justify="left" if i == 0 else "right", no_wrap=i == 0)
    for row in rows:
        table.add_row(*row.cells())
    return table


def markdown_table(rows: Sequence[Row]) -> str:
    """The same table in Markdown."""
    header = _header(rows)
    lines = [header, ("---", *("---:" for _ in header[1:])), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def draw(rows: Sequence[Row], path: Path, title: str) -> None:
    """A picture of the table: weight bytes of every stage as bars to scale, the metric beside them."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.1 + 0.55 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    sizes = [row.bytes / 1e6 for row in rows]
    names = [f"{row.stage}\n{row.layers} layers, {row.bits} bit" for row in rows]
    colors = ["#2a9d8f" if row is rows[-1] else "#8d99ae" for row in rows]
    axes.barh(names, sizes, color=colors, height=0.62)
    axes.invert_yaxis()
    for i, row in enumerate(rows):
        smaller = f", {row.fp32_bytes / row.bytes:.1f}x smaller" if row.bytes < row.fp32_bytes else ""
        text = f"  {sizes[i]:.1f} MB{smaller}, {row.metric} {100 * row.value:.1f}"
        axes.text(sizes[i], i, text, va="center", fontsize=9)
    axes.set_xlim(0, max(sizes) * 1.65)
    axes.set_xlabel("weights, MB")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
