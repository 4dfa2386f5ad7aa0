"""The pictures of the report, as SVG text: they stand inside the page and need neither network nor JavaScript."""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from xtc_jax.report.history import StageHistory, WeightSummary
from xtc_jax.report.tables import Row

_COLORS = ("#2a9d8f", "#264653", "#e76f51", "#e9c46a", "#8d99ae", "#6d597a", "#f4a261", "#457b9d")
_GREY = "#8d99ae"


def _svg(paint: Callable[[Any], None], size: tuple[float, float]) -> str:
    """What ``paint(figure)`` draws, as an SVG document; the same input gives the same text."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "xtc", "font.size": 9, "font.family": "sans-serif"}
    with mpl.rc_context(style):
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasSVG(figure)
        paint(figure)
        for axes in figure.axes:
            axes.spines[["top", "right"]].set_visible(False)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()


def size_against_metric(rows: Sequence[Row]) -> str:
    """The metric of every stage over the bytes of its weights, on a logarithmic axis."""

    def paint(figure: Any) -> None:
        axes = figure.add_subplot()
        for i, row in enumerate(rows):
            note, color = f"{row.stage}: {row.layers} layers, {row.bits} bit", _COLORS[i % len(_COLORS)]
            axes.scatter(row.bytes / 1e6, 100 * row.value, s=70, color=color, label=note, zorder=3)
        figure.legend(loc="outside right upper", frameon=False, fontsize=8)
        sizes = [row.bytes / 1e6 for row in rows]
        axes.set(xscale="log", xlim=(min(sizes) / 2, max(sizes) * 2), xlabel="weights, MB", ylabel=f"{rows[0].metric}, %")
        axes.margins(y=0.25)
        axes.grid(alpha=0.3)

    return _svg(paint, (9.0, max(3.2, 0.4 + 0.2 * len(rows))))


def named_curves(panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], ylabel: str) -> str:
    """Side by side, for every label of a logarithmic x axis: curves by name, a marker and a tick for each point."""

    def paint(figure: Any) -> None:
        for axes, (xlabel, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
            for i, (name, curve) in enumerate(curves.items()):
                axes.plot(*zip(*curve, strict=True), "o-", color=_COLORS[i % len(_COLORS)], label=name, linewidth=1.4)
            places = sorted({x for curve in curves.values() for x, _ in curve})
            axes.set(xscale="log", xlabel=xlabel, ylabel=ylabel)
            axes.set_xticks(places, [f"{x:g}" for x in places])
            axes.set_xticks([], minor=True)
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, fontsize=7)

    return _svg(paint, (5.2 * len(panels), 3.6))


def learning_curves(history: StageHistory) -> str:
    """Loss terms, metrics and learning rate of one stage over its steps."""

    def paint(figure: Any) -> None:
        left, middle, right = figure.subplots(1, 3)
        alone = len(history.losses) == 2  # the total beside its only term
        for i, (name, curve) in enumerate(list(history.losses.items())[1 if alone else 0 :]):
            left.plot(*zip(*curve, strict=True), color=_COLORS[i % len(_COLORS)], label=name, linewidth=1.4)
        for i, (name, curve) in enumerate(history.metrics.items()):
            points = [(step, 100 * value) for step, value in curve]
            middle.plot(
                *zip(*points, strict=True), "o-", color=_COLORS[i % len(_COLORS)], label=name, linewidth=1.4, markersize=3
            )
        if history.learning_rate:
            right.plot(*zip(*history.learning_rate, strict=True), color=_GREY, linewidth=1.4)
        else:
            right.set(xticks=[], yticks=[])
            right.text(0.5, 0.5, "not recorded", ha="center", va="center", transform=right.transAxes, color=_GREY)
        for axes, title in ((left, "loss (training)"), (middle, "metric, % (validation)"), (right, "learning rate")):
            axes.set_title(title, loc="left", fontsize=9)
            axes.set_xlabel("step")
            if axes.get_legend_handles_labels()[0]:
                axes.legend(frameon=False, fontsize=8)

    return _svg(paint, (9.6, 2.6))


def bytes_by_group(groups: Mapping[str, tuple[int, int]]) -> str:
    """A bar for each group of tensors: codes or floats, and scales."""

    def paint(figure: Any) -> None:
        axes = figure.add_subplot()
        names, total = list(groups), sum(sum(pair) for pair in groups.values())
        codes, scales = ([pair[k] / 1e3 for pair in groups.values()] for k in (0, 1))
        axes.barh(names, codes, color=_COLORS[0], label="codes, or 16-bit numbers", height=0.62)
        axes.barh(names, scales, left=codes, color=_COLORS[2], label="scales", height=0.62)
        for i, pair in enumerate(groups.values()):
            share = 100 * sum(pair) / total
            note = f"{sum(pair):,} ({share:.1f} %)"
            axes.annotate(note, (sum(pair) / 1e3, i), (5, 0), textcoords="offset points", va="center", fontsize=8)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.3 * max(sum(pair) for pair in groups.values()) / 1e3)
        axes.set_xlabel("kB")
        axes.legend(frameon=False, loc="lower right")

    return _svg(paint, (8.2, 0.9 + 0.34 * len(groups)))


def scales_and_signs(weights: Sequence[WeightSummary]) -> str:
    """Scale and share of positive values of every matrix, by layer; the bars reach from the smallest to the largest scale."""
    inner = [weight for weight in weights if weight.layer >= 0]

    def paint(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        parts = list(dict.fromkeys(weight.part for weight in inner))
        for i, part in enumerate(parts):
            mine = [weight for weight in inner if weight.part == part]
            place = [weight.layer + 0.09 * (i - len(parts) / 2) for weight in mine]
            means = [weight.scale[0] for weight in mine]
            reach = [
                [m - w.scale[1] for m, w in zip(means, mine, strict=True)],
                [w.scale[2] - m for m, w in zip(means, mine, strict=True)],
            ]
            color = _COLORS[i % len(_COLORS)]
            left.errorbar(place, means, yerr=reach, fmt="o", color=color, label=part, markersize=4, linewidth=1)
            right.plot(place, [100 * weight.positive for weight in mine], "o", color=color, markersize=4)
        left.set_title("scale", loc="left", fontsize=9)
        right.set_title("positive values, %", loc="left", fontsize=9)
        right.axhline(50 if not any(weight.zero for weight in inner) else 33.3, color=_GREY, linewidth=0.8, linestyle="--")
        for axes in (left, right):
            axes.set_xlabel("layer")
            axes.set_xticks(sorted({weight.layer for weight in inner}))
        figure.legend(loc="outside lower center", ncols=min(len(parts), 6), frameon=False, fontsize=8)

    return _svg(paint, (9.6, 3.0))


def predicted_against_labels(labels: Sequence[float], answers: Mapping[str, Sequence[float]]) -> str:
    """Of a regression: each model's predictions over the labels."""

    def paint(figure: Any) -> None:
        for axes, (name, values) in zip(figure.subplots(1, len(answers), squeeze=False)[0], answers.items(), strict=True):
            axes.scatter(labels, values, s=8, alpha=0.5, color=_COLORS[0], rasterized=len(labels) > 2000)
            ends = [min(labels), max(labels)]
            axes.plot(ends, ends, color=_GREY, linewidth=0.8, linestyle="--")
            axes.set(title=name, xlabel="label", ylabel="predicted")

    return _svg(paint, (4.2 * len(answers), 3.4))


def seconds_by_stage(histories: Sequence[StageHistory]) -> str:
    """Where the time of every stage went."""
    kinds = {"compile": "compiling (estimated)", "step": "steps", "teacher": "teacher", "eval": "evaluation"}
    kinds |= {"data": "waiting for data", "checkpoint": "checkpoints"}

    def paint(figure: Any) -> None:
        axes = figure.add_subplot()
        names, base = [history.name for history in histories], [0.0] * len(histories)
        for i, (kind, label) in enumerate(kinds.items()):
            values = [history.seconds.get(kind, 0.0) for history in histories]
            axes.barh(names, values, left=base, color=_COLORS[i % len(_COLORS)], label=label, height=0.6)
            base = [before + value for before, value in zip(base, values, strict=True)]
        axes.invert_yaxis()
        axes.set_xlabel("seconds")
        figure.legend(loc="outside lower center", ncols=6, frameon=False, fontsize=8)

    return _svg(paint, (8.2, 1.2 + 0.4 * len(histories)))
