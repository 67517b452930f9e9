"""A report as one HTML file, with plotly's script in it; needs plotly and jinja2."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from gradkern.monitor.plot_data import (
    TARGET_UPDATE,
    bars,
    depth_lines,
    heat_map,
    recent_range,
    totals,
    update_lines,
)

if TYPE_CHECKING:
    from gradkern.monitor.report import Report

# Colours that colour-blind readers can tell apart (Okabe and Ito 2008).
_BLUE, _RED, _GREEN, _GREY = "#0072B2", "#D55E00", "#009E73", "#8c8c8c"


def page(report: Report) -> str:
    """The whole file, which loads nothing."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gradkern.monitor", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = {
        "depth": _depth(report),
        "heat": _heat(report),
        "updates": _updates(report),
        "norms": _norms(report),
        "bars": _bars(report),
    }
    return environment.get_template("report.html").render(
        report=report,
        verdict=report.verdict,
        layers=report.layers(),
        alerts=list(report.history.alerts),
        figures={name: Markup(_script_safe(figure)) for name, figure in figures.items()},
        plotly=Markup(get_plotlyjs()),
    )


def _script_safe(figure: go.Figure) -> str:
    """JSON that may stand in a script element: a layer may be named `</script>`."""
    text = json.dumps(json.loads(figure.to_json()))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _figure(title: str, **layout: Any) -> go.Figure:
    figure = go.Figure()
    figure.update_layout(
        title=title,
        template="plotly_white",
        margin={"l": 60, "r": 20, "t": 45, "b": 45},
        legend={"orientation": "h", "y": -0.2},
        **layout,
    )
    return figure


def _listed(values: Any) -> list[Any]:
    """With three digits, and None for gaps: what a page has to carry."""
    rounded = np.round(np.asarray(values, dtype=float), 3)
    return [None if not np.isfinite(v) else float(v) for v in rounded]


def _depth(report: Report) -> go.Figure:
    figure = _figure(
        "Gradient norm against depth", xaxis_title="layer", yaxis_title="log10 of the norm"
    )
    names = report.history.run.get("layers", [])
    chosen = [names[i] for i, matrix in enumerate(report.history.run["matrices"]) if matrix]
    for (label, values), colour in zip(depth_lines(report.history), (_GREY, _BLUE), strict=False):
        figure.add_scatter(
            x=list(range(1, len(values) + 1)),
            y=_listed(values),
            text=chosen,
            name=label,
            mode="lines+markers",
            line_color=colour,
        )
    return figure


def _heat(report: Report) -> go.Figure:
    steps, names, values = heat_map(report.history)
    figure = _figure("log10 gradient norm, layer by step", xaxis_title="step", yaxis_title="layer")
    if values.size:
        low, high = recent_range(values)
        figure.add_heatmap(
            x=steps.tolist(),
            y=list(range(1, len(names) + 1)),
            z=[_listed(row) for row in values],
            zmin=low,
            zmax=high,
            colorscale="Viridis",
            hovertemplate="step %{x}, layer %{y}: %{z}<extra></extra>",
        )
        figure.update_yaxes(autorange="reversed")
    return figure


def _updates(report: Report) -> go.Figure:
    steps, names, values = update_lines(report.history)
    figure = _figure("log10 update / weight (target -3)", xaxis_title="step")
    for name, line in zip(names, values, strict=True):
        figure.add_scatter(x=steps.tolist(), y=_listed(line), name=name, line_width=1)
    figure.add_hline(y=TARGET_UPDATE, line_dash="dash")
    if values.size:
        figure.update_yaxes(range=recent_range(values, pad=0.5, including=TARGET_UPDATE))
    return figure


def _norms(report: Report) -> go.Figure:
    steps, losses, before, after = totals(report.history)
    figure = _figure(
        "Total gradient norm and loss",
        xaxis_title="step",
        yaxis={"title": "log10 of the norm"},
        yaxis2={"title": "loss", "overlaying": "y", "side": "right", "showgrid": False},
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        for values, name, colour in (
            (before, "norm before clipping", _RED),
            (after, "norm after clipping", _BLUE),
        ):
            figure.add_scatter(
                x=steps.tolist(), y=_listed(np.log10(values)), name=name, line_color=colour
            )
    figure.add_scatter(
        x=steps.tolist(), y=_listed(losses), name="loss", line_color=_GREEN, yaxis="y2"
    )
    spikes = [a for a in report.history.alerts if a["rule"] in ("spike", "loss_avalanche")]
    known = dict(zip(steps.tolist(), _listed(np.log10(np.maximum(before, 1e-300))), strict=True))
    if spikes and known:
        nearest = [min(known, key=lambda step: abs(step - a["step"])) for a in spikes]
        figure.add_scatter(
            x=nearest,
            y=[known[step] for step in nearest],
            text=[a["message"] for a in spikes],
            name="spikes",
            mode="markers",
            marker={"symbol": "triangle-down", "size": 10, "color": "black"},
        )
    if np.isfinite(losses).any():
        figure.update_layout(yaxis2_range=recent_range(losses, pad=0.1))
    return figure


def _bars(report: Report) -> go.Figure:
    names, saturated, dead = bars(report.history)
    figure = _figure("Saturated outputs and dead units, share", barmode="group")
    figure.add_bar(x=names, y=_listed(saturated), name="saturated outputs", marker_color=_BLUE)
    figure.add_bar(x=names, y=_listed(dead), name="dead units", marker_color=_RED)
    figure.update_xaxes(type="category")
    figure.update_yaxes(range=[0, 1])
    return figure
