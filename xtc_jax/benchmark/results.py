"""What a benchmark found: as a table, as JSON, as Markdown and as a picture."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table


@dataclass(frozen=True)
class Benchmark:
    """One run of ``xtc benchmark``.

    Attributes:
      name: of the files, ``matmul_cpu_vnni``.
      title: one line above the table.
      command: the command that repeats the run.
      environment: see :func:`xtc_jax.benchmark.device.environment`.
      columns: names of the columns in order; the first tell rows apart.
      rows: one mapping per row; a column that is missing or None was not measured.
      bars: the columns that the picture draws, times in ``unit``.
      unit: of the times.
      notes: what a reader must know.
    """

    name: str
    title: str
    command: str
    environment: dict[str, Any]
    columns: tuple[str, ...]
    rows: tuple[dict[str, Any], ...]
    bars: tuple[str, ...]
    unit: str
    notes: tuple[str, ...] = ()


def _cell(value: Any) -> str:
    """A number with three significant digits; what was not measured stays empty."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return str(value)


def table(found: Benchmark) -> Table:
    """The results as a table for a terminal."""
    made = Table(title=found.title, caption="\n".join(found.notes), caption_justify="left")
    for name in found.columns:
        made.add_column(name, justify="right")
    for row in found.rows:
        made.add_row(*(_cell(row.get(name)) for name in found.columns))
    return made


def markdown(found: Benchmark) -> str:
    """The results as a table in Markdown, for a README."""
    lines = [found.columns, ["---:"] * len(found.columns)]
    lines += [[_cell(row.get(name)) for name in found.columns] for row in found.rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def save(found: Benchmark, directory: Path) -> tuple[Path, Path]:
    """Write ``NAME.json`` and ``NAME.png`` into ``directory``; returns their paths."""
    directory.mkdir(parents=True, exist_ok=True)
    data, picture = directory / f"{found.name}.json", directory / f"{found.name}.png"
    data.write_text(json.dumps(asdict(found), indent=1) + "\n")
    draw(found, picture)
    return data, picture


def draw(found: Benchmark, path: Path) -> None:
    """Groups of bars, one group for each row, each as long as its share of the group's slowest: shorter is faster."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bars = [name for name in found.bars if any(row.get(name) is not None for row in found.rows)]
    rows = [row for row in found.rows if any(row.get(name) is not None for name in bars)]
    height = 0.8 / len(bars)
    figure = Figure(figsize=(8, 1.4 + (0.12 + 0.16 * len(bars)) * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    keys = [name for name in found.columns if name not in found.bars and isinstance(rows[0].get(name), int | str)]
    # Where a row is a contestant, rows are compared; else the bars of a row are.
    slowest = [max(row.get(name) or 0 for row in (rows if len(bars) == 1 else [row]) for name in bars) for row in rows]
    for i, name in enumerate(bars):
        times = [row.get(name) or 0 for row in rows]
        places = [place + (i - (len(bars) - 1) / 2) * height for place in range(len(rows))]
        color = (
            "#2a9d8f"
            if i == 0
            else "#8ed0c6"
            if name.startswith("ours") and "bit" in name
            else f"{0.4 + 0.45 * i / len(bars):.2f}"
        )
        drawn = axes.barh(
            places, [time / most for time, most in zip(times, slowest, strict=True)], height, label=name, color=color
        )
        axes.bar_label(drawn, [_cell(float(time)) if time else "" for time in times], padding=2, fontsize=7)
    axes.set_yticks(range(len(rows)), [", ".join(f"{key} {row[key]}" for key in keys) for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 1.1)
    axes.set_xticks([])
    axes.set_xlabel(f"{found.unit}, less is better")
    axes.set_title(
        f"{found.title}\n{found.environment.get('processor') or found.environment['device']}", loc="left", fontsize=10
    )
    if len(bars) > 1:
        figure.legend(loc="outside lower center", ncols=3, fontsize=8)
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.savefig(path, dpi=120)
