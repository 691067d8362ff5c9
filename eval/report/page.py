"""`report.html`: one self-contained page about a run, finished or not, made of the files in its folder.

`python -m eval.report RUN` writes it at any time, with the results that it shows.
"""

import html
import itertools
import json
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader
from plotly.offline import get_plotlyjs

from eval.compare import verdict
from eval.files import json_lines, write_text
from eval.report.rows import rollouts_shown, spread, task_names, tasks_shown
from rewards.grading.verify import Outcome

POINTS = 500  # of a curve
# What depends on the colour scheme is set by the page's script.
_LAYOUT = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 50, "r": 20, "t": 40, "b": 40},
    "autosize": True,
    "title_font_size": 15,
    "font_family": "system-ui, sans-serif",
    "legend": {"orientation": "h", "y": -0.2},
    "hovermode": "x unified",
}
_DASHES = ("solid", "dash", "dot", "dashdot")  # beside the colours
# A chart of a stage's log: its title, the metrics drawn in it, its axis. Left out where the stage logs none of them.
_CHARTS = [
    ("Negative log-likelihood by segment", ("think_nll", "answer_nll"), "log"),
    ("Think weight, answer's share of the loss", ("think_weight", "answer_loss_share"), "linear"),
    ("Rewards", ("reward", "rewards/*/mean"), "linear"),
    ("Accuracy by kind of answer", ("accuracy/*",), "linear"),
    ("Format and outcomes, share of completions", ("format_rate", "outcome/*"), "linear"),
    (
        "Share of groups without contrast",
        ("frac_reward_zero_std", "dynamic_sampling/replaced", "dynamic_sampling/unfilled"),
        "linear",
    ),
    ("Dynamic sampling, further rounds", ("dynamic_sampling/rounds",), "linear"),
    ("Completion length, tokens", ("completions/mean_length", "completions/*_tokens"), "linear"),
    ("Entropy, nats", ("entropy",), "linear"),
    ("KL divergence from the reference model, nats", ("kl",), "linear"),
    ("Engine against trainer, log-probability gap", ("sampling/sampling_logp_difference/mean",), "linear"),
    ("Engine against trainer, importance ratio", ("sampling/importance_sampling_ratio/mean",), "linear"),
]


def write_report(run: Path) -> None:
    """Write `report.html` from `results.json`, the stages' metrics and the completions in `run`."""
    stored = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    results = json.loads((run / "results.json").read_text(encoding="utf-8"))
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True)
    filters = (_percent, _points, _duration, verdict, _gap)
    environment.filters |= {function.__name__.removeprefix("_"): function for function in filters}
    tasks, images = tasks_shown(run, results["checkpoints"], stored["recipe"])
    page = environment.get_template("page.html.j2").render(
        results=results,
        stored=stored,
        recipe=json.dumps(stored["recipe"], indent=2),
        status=_status(results, stored["recipe"]),
        accuracy=_accuracy_chart(results["checkpoints"]) if results["checkpoints"] else "",
        charts={stage["name"]: _stage_charts(run / stage["name"] / "metrics.jsonl") for stage in results["stages"]},
        tasks=tasks,
        outcomes=[*Outcome],
        images=images,
        rollouts={stage["name"]: rollouts_shown(run, stage) for stage in stored["recipe"]["stages"]},
        plotlyjs=get_plotlyjs(),
    )
    write_text(run / "report.html", page)


def _status(results: dict[str, Any], recipe: dict[str, Any]) -> str:
    if results["complete"]:
        return "complete"
    now = f" (at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC)"
    for stage in results["stages"]:
        if stage["seconds"] is None:
            return f"running: stage {stage['name']}, step {stage['steps']:,}{now}"
    asked = len(recipe["evaluate"]["checkpoints"])
    return f"running: evaluation, {len(results['checkpoints'])} of {asked} checkpoints{now}"


# --- numbers in words -------------------------------------------------------------------------------------------------


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}".replace("-", "−")


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours:,} h {left} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _gap(score: dict[str, Any]) -> float:
    """What a lenient reading adds to accuracy."""
    return round(float(score["lenient"]["accuracy"] - score["accuracy"]), 9)  # 1 - 0.99 is no more than 0.01


# --- charts -----------------------------------------------------------------------------------------------------------


def _stage_charts(metrics: Path) -> list[tuple[str, str]]:
    lines = json_lines(metrics) if metrics.exists() else []
    return [(title, chart) for title, names, axis in _CHARTS if (chart := _curves(title, lines, names, axis))]


def _curves(title: str, metrics: list[dict[str, Any]], names: tuple[str, ...], axis: str) -> str | None:
    logged = sorted({name for line in metrics for name, value in line.items() if value is not None})
    drawn = [name for pattern in names for name in logged if fnmatchcase(name, pattern)]
    if not drawn:
        return None
    figure = go.Figure()
    for name, dash in zip(drawn, itertools.cycle(_DASHES), strict=False):
        points = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
        steps, values = zip(*spread(points, POINTS), strict=True)
        mode = "lines" if len(points) > 1 else "markers"
        figure.add_scatter(x=steps, y=values, name=html.escape(name), mode=mode, line_dash=dash)
    figure.update_yaxes(type=axis, tickformat="~g" if axis == "log" else "", exponentformat="e")
    return _html(figure, title, xaxis_title="step", showlegend=True)


def _accuracy_chart(checkpoints: dict[str, Any]) -> str:
    figure = go.Figure()
    for task in task_names(checkpoints):
        for decoding in ("greedy", "sampled"):
            of = {name: tasks[task] for name, tasks in checkpoints.items() if task in tasks}
            if decoding == "sampled":
                of = {name: score["sampled"] for name, score in of.items() if "sampled" in score}
            if of:
                figure.add_scatter(
                    x=list(of),
                    y=[score["accuracy"] for score in of.values()],
                    error_y={
                        "array": [score["ci95"][1] - score["accuracy"] for score in of.values()],
                        "arrayminus": [score["accuracy"] - score["ci95"][0] for score in of.values()],
                    },
                    name=f"{task}, {decoding}",
                    mode="markers",
                    marker={"size": 8, "symbol": "circle" if decoding == "greedy" else "diamond-open"},
                )
    figure.update_layout(scattermode="group", scattergap=0.6, xaxis_showgrid=False)
    figure.update_layout(yaxis_range=[-0.02, 1.02], yaxis_tickformat=".0%")
    return _html(figure, "Accuracy with 95% intervals", showlegend=True)


def _html(figure: go.Figure, title: str, **layout: Any) -> str:
    height = 320 + 12 * max(len(figure.data) - 4, 0)  # a long legend is not at the curves' expense
    figure.update_layout(title=title, height=height, **_LAYOUT, **layout)
    figure.update_xaxes(zeroline=False)
    figure.update_yaxes(zeroline=False)
    config = {"displayModeBar": False, "responsive": True}
    return str(figure.to_html(full_html=False, include_plotlyjs=False, default_width="100%", config=config))
