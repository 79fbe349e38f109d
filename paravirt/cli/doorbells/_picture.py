"""The report as a picture: what a kick costs, and how many requests go through."""

from __future__ import annotations

import importlib
import importlib.util
import textwrap
from typing import TYPE_CHECKING, Any, Final

from .._errors import BadInput
from .._output import number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ._rows import Report, Row

WIDTH: Final = 11.0  # inches
DPI: Final = 100
"""1100 pixels across: a README shows 900."""
LINE: Final = 160  # characters of the small print
LIGHT, DARK, RED, GREY = "#9ec9e2", "#0d4a70", "#d1495b", "#6b7280"
_HALF: Final = 0.38  # of a bar pair's height


def check_picture(path: Path) -> None:
    """Raise BadInput if there is no place for a picture or nothing to draw it with."""
    if importlib.util.find_spec("matplotlib") is None:
        raise BadInput("a picture needs matplotlib: pip install 'paravirt[plot]'")
    if not path.parent.is_dir():
        raise BadInput(f"no folder for the picture: {path.parent}")


def draw(report: Report, path: Path) -> None:
    """Write the picture as PNG. Raises OSError if it cannot be written."""
    # At run time, as it is optional; its keyword arguments have no types anyway.
    make_figure: Any = importlib.import_module("matplotlib.figure").Figure

    rows = [row for row in report.rows if row.available]
    size = (WIDTH, 1.6 + 0.15 * len(report.rows) + 0.3 * len(rows))
    figure = make_figure(figsize=size, dpi=DPI, layout="constrained")
    if rows:
        _fill(figure, rows, report.loopback_requests_per_s_depth64)
    figure.suptitle("One guest, every doorbell", fontsize=15, weight="bold")
    figure.supxlabel(_caption(report), fontsize=8, color=GREY, x=0.01, ha="left", linespacing=1.5)
    figure.savefig(path, format="png", pil_kwargs={"optimize": True})


def _fill(figure: Any, rows: Sequence[Row], loopback: float | None) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    _kicks(left, rows)
    _requests(right, rows, loopback)
    names = [row.doorbell for row in rows]
    left.set_yticks(range(len(names)), names, fontsize=9)
    left.invert_yaxis()


def _kicks(axes: Any, rows: Sequence[Row]) -> None:
    axes.set_title("What a kick costs the guest, ns", fontsize=11)
    axes.set_xscale("log")
    p50 = [row.kick_ns_p50 or 0.0 for row in rows]
    _bars(axes, [row.kick_ns_p99 or 0.0 for row in rows], p50, ("p99", "p50"))
    bare = [  # by the ratio, as only within a run the two are alike
        (y, row.kick_ns_p50 / row.kick_times_bare)
        for y, row in enumerate(rows)
        if row.kick_ns_p50 and row.kick_times_bare
    ]
    if bare:
        places, costs = zip(*bare, strict=True)
        low, high = ([y + edge for y in places] for edge in (-0.05, _HALF + 0.05))
        axes.vlines(costs, low, high, colors=RED, linewidth=2.5, label="a bare C loop, p50")
    _finish(axes)


def _requests(axes: Any, rows: Sequence[Row], loopback: float | None) -> None:
    axes.set_title("Plain requests a second", fontsize=11)
    axes.set_xscale("log")
    lone = [row.requests_per_s_depth1 or 0.0 for row in rows]
    _bars(axes, [row.requests_per_s_depth64 or 0.0 for row in rows], lone, ("depth 64", "depth 1"))
    if loopback:
        axes.axvline(loopback, color=RED, linewidth=1.2, label="depth 64, no guest")
    _finish(axes)


def _bars(axes: Any, high: Sequence[float], low: Sequence[float], labels: tuple[str, str]) -> None:
    """Draw two bars a row, each with its figure behind it."""
    looks = zip((high, low), (-_HALF / 2, _HALF / 2), (LIGHT, DARK), labels, strict=True)
    for values, shift, color, name in looks:
        places = [y + shift for y in range(len(values))]
        bars = axes.barh(places, values, _HALF, color=color, label=name)
        texts = [number(value) for value in values]
        for label in axes.bar_label(bars, texts, padding=3, fontsize=7.5):
            label.set_bbox({"color": "white", "pad": 0.5})  # a line behind it stays behind it


def _finish(axes: Any) -> None:
    axes.margins(x=0.0, y=0.02)
    least, most = axes.get_xlim()
    axes.set_xlim(least / 2, most * 3)  # room for the figures behind the bars
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color="#e5e7eb", linewidth=0.8)
    axes.set_axisbelow(True)
    look = {"ncols": 3, "frameon": False, "fontsize": 9}
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 0), borderaxespad=2.2, **look)


def _caption(report: Report) -> str:
    machine = report.machine
    absent = [f"{row.doorbell}: {row.reason}" for row in report.rows if not row.available]
    where = f"Medians on {machine.cpu}, {machine.cpus} CPUs, Linux {machine.kernel}."
    return "\n".join(textwrap.fill(line, LINE) for line in (*absent, where))
