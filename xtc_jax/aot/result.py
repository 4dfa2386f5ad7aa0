"""The account of a step as a table, and as plain data."""

from dataclasses import asdict
from typing import Any

from rich.table import Table

from xtc_jax.aot.account import Account
from xtc_jax.aot.bound import product_rates
from xtc_jax.aot.step import Step
from xtc_jax.aot.topology import Slice
from xtc_jax.errors import UserError
from xtc_jax.parallel import check_batch

_MILLI = 1e3


def describe(step: Step, slice_: Slice) -> str:
    """One line: which step, on what."""
    objective = step.objective
    bits = step.plan.stage.weight_bits
    teacher = f", teacher of {objective.teacher.num_hidden_layers}" if objective.teacher else ""
    parts = f" in {objective.accumulate} parts" if objective.accumulate > 1 else ""
    mesh = ", ".join(f"{axis} {size}" for axis, size in step.mesh.shape.items())
    return (
        f"{step.plan.stage.name} on {slice_.name}: {objective.student.num_hidden_layers} layers of "
        f"{objective.student.hidden_size} at {bits} bits{teacher}; batch {step.batch_size} x {step.length}{parts}; "
        f"{objective.dtype}, {objective.arithmetic} products; mesh {mesh}"
    )


def plain(step: Step, slice_: Slice, found: Account, advice: tuple[str, ...]) -> dict[str, Any]:
    """Plain data for JSON; bytes, operations and seconds."""
    bound = found.bound
    return {
        "topology": slice_.name,
        "device_kind": slice_.kind,
        "devices": slice_.count,
        "stage": step.plan.stage.name,
        "mesh": dict(step.mesh.shape),
        "batch_size": step.batch_size,
        "length": step.length,
        "accumulate": step.objective.accumulate,
        "compute_dtype": step.objective.dtype,
        "arithmetic": step.objective.arithmetic,
        "compiled": found.compiled,
        "fits": found.memory.fits,
        "memory": asdict(found.memory),
        "operations": found.operations,
        "hbm_traffic": found.traffic,
        "collectives": [{**asdict(each), "sent": each.sent} for each in found.collectives],
        "bound": bound and {**asdict(bound), "seconds": bound.seconds, "binding": bound.binding},
        "examples_per_second": step.batch_size / bound.seconds if bound else None,
        "advice": list(advice),
        "compile_seconds": round(found.seconds, 1),
    }


def remarks(step: Step, slice_: Slice, found: Account, advice: tuple[str, ...], eval_batch_size: int) -> list[str]:
    """Lines of text below the table: what would fit, what was only lowered, what training would refuse, seconds taken."""
    lines = []
    if not found.memory.fits:
        lines += [f"would fit: {text}" for text in advice] or [
            "nothing of batch, accumulation, precision or fsdp alone would fit"
        ]
    if not found.compiled:
        lines.append(
            f"The step was lowered for {slice_.platform}, not compiled: that takes a GPU. "
            "Traffic and collectives are the least that shapes and shardings imply."
        )
    try:
        check_batch(eval_batch_size, step.mesh)
    except UserError as error:
        lines.append(f"xtc compress will refuse config.data.eval_{error}")
    return [*lines, f"traced and {'compiled' if found.compiled else 'lowered'} in {found.seconds:.0f} s"]


def table(step: Step, slice_: Slice, found: Account) -> Table:
    """The account as a table that ``rich`` prints."""
    made = Table(title=describe(step, slice_), title_justify="left")
    made.add_column("per device", no_wrap=True)
    made.add_column("", justify="right", no_wrap=True)
    made.add_column("")
    for what, number, remark in (*_memory(found), *_work(found)):
        made.add_row(what, number, remark)
    made.add_section()
    for each in found.collectives:
        what = "of them" if found.compiled else "arrays"
        made.add_row(f"{each.kind} over {each.group}", _size(each.bytes), f"{each.count} {what}, {_size(each.sent)} sent")
    if not found.collectives:
        made.add_row("collectives", "none" if found.memory.fits else "-", "")
    made.add_section()
    for what, number, remark in _times(step, slice_, found):
        made.add_row(what, number, remark)
    return made


def _memory(found: Account) -> list[tuple[str, str, str]]:
    memory = found.memory
    rows = [
        ("arguments", _size(memory.arguments), "train state, teacher, batch"),
        ("outputs", _size(memory.outputs), f"{_size(memory.donated)} in the place of arguments"),
    ]
    if memory.temporaries is not None and memory.code is not None:
        rows += [("temporaries", _size(memory.temporaries), "activations, gradients"), ("program", _size(memory.code), "")]
    known = "at the peak" if found.compiled else "at least: arguments and gradients; activations are not known"
    share = f"{100 * memory.needed / memory.available:.0f} % of {_size(memory.available)}"
    verdict = "fits" if memory.fits else "DOES NOT FIT"
    return [*rows, ("needed", _size(memory.needed), f"{known}; {share}: {verdict}" if found.compiled else f"{known}; {share}")]


def _work(found: Account) -> list[tuple[str, str, str]]:
    rows = [(f"{dtype} products", f"{count / 1e12:.3f} T", "operations") for dtype, count in found.operations.items()]
    how = "read and written by the program" if found.compiled else "at least: arguments read, state written"
    return [*rows, ("HBM traffic", _size(found.traffic), how)] if found.traffic else rows


def _times(step: Step, slice_: Slice, found: Account) -> list[tuple[str, str, str]]:
    bound = found.bound
    if bound is None:
        why = "it does not fit" if not found.memory.fits else f"no peaks known for {slice_.kind}"
        return [("time", "-", why)]
    peaks, links = slice_.peaks, slice_.links
    assert peaks is not None
    rates = product_rates(peaks, slice_.platform)
    limits = {
        "compute": (bound.compute, ", ".join(f"{dtype} {rates[dtype] / 1e12:,.0f} T/s" for dtype in found.operations)),
        "hbm": (bound.hbm, f"{peaks.bandwidth / 1e9:,.0f} GB/s"),
        "interconnect": (bound.interconnect, f"{links / 1e9:,.0f} GB/s out of a device" if links else "links not known"),
    }
    rows = []
    for name, (seconds, remark) in limits.items():
        time = "-" if seconds is None else f"{_MILLI * seconds:.2f} ms"
        rows.append((f"{name}, at least", time, f"{remark}{'  <- binding' if name == bound.binding else ''}"))
    speed = step.batch_size / bound.seconds
    return [*rows, ("step, at least", f"{_MILLI * bound.seconds:.2f} ms", f"at most {speed:,.0f} examples per second in all")]


def _size(count: float) -> str:
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count:.0f} B"
