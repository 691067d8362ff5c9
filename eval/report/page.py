"""`report.html`: one self-contained page about a run, finished or not, made of the files in its folder.

`python -m eval.report RUN` writes it at any time, with the results that it shows.
"""

import html
import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from plotly.offline import get_plotlyjs

from eval.compare import verdict
from eval.files import write_text
from eval.report.found import Found, Row, is_number, read_recipe
from eval.report.published import published_run
from eval.report.results import read_results, task_names
from eval.report.rollouts import rollouts_shown, spread
from eval.report.rows import tasks_shown
from rewards.grading.verify import Outcome

POINTS = 500  # of a curve
GAP = 0.01  # of a lenient reading above the strict one: more is remarked upon (our choice)
LEARNED = 0.5  # of its responses in the right form: a model has learned the form (our choice)
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
    """Write `report.html` from `results.json`, the stages' metrics and the completions in `run`.

    Raises:
        ValueError: `recipe.json` is damaged.
    """
    stored, results = read_recipe(run), read_results(run)
    found, checkpoints = Found(run, stored, results["missing"]), results["checkpoints"]
    # What is not known is absent from the files, and a dash on the page.
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, undefined=ChainableUndefined
    )
    filters = (_percent, _points, _duration, _thousands, _number, verdict, _gap)
    environment.filters |= {function.__name__.removeprefix("_"): function for function in filters}
    tasks, images = tasks_shown(found, checkpoints, stored["recipe"])
    shown = published_run(stored, run)
    charts = {stage["name"]: _stage_charts(found.metrics(stage["name"])) for stage in results["stages"]}
    rollouts = {stage["name"]: rollouts_shown(found, stage) for stage in stored["recipe"]["stages"]}
    page = environment.get_template("page.html.j2").render(
        results=results,
        stored=shown,
        recipe=json.dumps(shown["recipe"], indent=2),
        status=_status(results, stored["recipe"]),
        missing=found.missing,
        forms={(name, task): _on_form(results, name, task) for name, of in checkpoints.items() for task in of},
        uncompared=_uncompared(checkpoints),
        too_long=any(score.get("too_long") for score in _every_score(checkpoints)),
        accuracy=_accuracy_chart(checkpoints) if checkpoints else "",
        charts=charts,
        tasks=tasks,
        outcomes=[*Outcome],
        images=images,
        rollouts=rollouts,
        plotlyjs=get_plotlyjs(),
    )
    write_text(run / "report.html", page.encode("utf-8", "replace").decode())  # half a surrogate has no bytes


def _every_score(checkpoints: Row) -> list[Row]:
    scores = [score for tasks in checkpoints.values() for score in tasks.values()]
    return [*scores, *(score["sampled"] for score in scores if "sampled" in score)]


def _uncompared(checkpoints: Row) -> list[tuple[str, str]]:
    """The checkpoints and tasks that there is one before of: without a comparison, something is missing."""
    pairs = itertools.pairwise(checkpoints)
    return [(b, task) for a, b in pairs for task in checkpoints[b] if task in checkpoints[a]]


def _status(results: Row, recipe: Row) -> str:
    if results["complete"]:
        return "complete"
    now = f" (at {datetime.now(UTC):%Y-%m-%d %H:%M} UTC)"
    damaged = [each["path"] for each in results["missing"] if not each["usual"]]
    for stage in results["stages"]:
        if stage["seconds"] is None:
            name, steps = stage["name"], stage["steps"]
            is_damaged = name in damaged or f"{name}/COMPLETE" in damaged
            return f"damaged: stage {name}" if is_damaged else f"running: stage {name}, step {_thousands(steps)}{now}"
    asked = f"evaluation, {len(results['checkpoints'])} of {len(recipe['evaluate']['checkpoints'])} checkpoints"
    return f"damaged: {asked}" if any(path.endswith("/scores.json") for path in damaged) else f"running: {asked}{now}"


def _on_form(results: Row, name: str, task: str) -> str:
    """What the form of its responses says of the checkpoint `name`, if anything.

    Only a model that had learned the form can game it: it, or a checkpoint before it, wrote half of its responses so.
    """
    order = ["base", *(stage["name"] for stage in results["stages"])]
    until = order[: order.index(name) + 1] if name in order else [name]
    shares = [_wellformed(results["checkpoints"].get(each, {}).get(task, {})) for each in until]
    known = [share for share in shares if share is not None]
    score = results["checkpoints"][name][task]
    if known and max(known) < LEARNED:
        said = ", ".join(f"{score[key]:.1%} {key}" for key in ("malformed", "truncated") if score.get(key))
        return f"the model has not learned the form{said and f' ({said})'}"
    return "possible gaming of the form" if known and (_gap(score) or 0) > GAP else ""


def _wellformed(score: Row) -> float | None:
    """The share of responses in the right form. To a prompt beyond the context there is none."""
    count, of = score.get("wellformed", {}).get("n"), score.get("n")
    if not (is_number(count) and is_number(of)):
        return None
    answered = float(of or 0) * (1 - (score.get("too_long") or 0))
    return float(count or 0) / answered if answered > 0 else None


# --- numbers in words -------------------------------------------------------------------------------------------------


def _percent(share: Any) -> str:
    return f"{share:.1%}" if is_number(share) else "–"


def _points(difference: Any) -> str:
    return f"{100 * difference:+.1f}".replace("-", "−") if is_number(difference) else "–"


def _thousands(count: Any) -> str:
    return f"{count:,}" if is_number(count) else "–"


def _number(value: Any, form: str) -> str:
    return format(value, form) if is_number(value) else "–"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, left = divmod(minutes, 60)
    return f"{hours:,} h {left} min" if hours else f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _gap(score: Row) -> float | None:
    """What a lenient reading adds to accuracy."""
    lenient = (score.get("lenient") or {}).get("accuracy")
    return round(float(lenient - score["accuracy"]), 9) if is_number(lenient) else None  # 1 - 0.99 is no more than 0.01


# --- charts -----------------------------------------------------------------------------------------------------------


def _stage_charts(metrics: Sequence[Row]) -> list[tuple[str, str]]:
    return [(title, chart) for title, names, axis in _CHARTS if (chart := _curves(title, metrics, names, axis))]


def _curves(title: str, metrics: Sequence[Row], names: tuple[str, ...], axis: str) -> str | None:
    logged = sorted({name for line in metrics for name in line})
    drawn = [name for pattern in names for name in logged if fnmatchcase(name, pattern)]
    if not drawn:
        return None
    figure = go.Figure()
    for name, dash in zip(drawn, itertools.cycle(_DASHES), strict=False):
        points = [(line["step"], line[name]) for line in metrics if name in line]
        steps, values = zip(*spread(points, POINTS), strict=True)
        mode = "lines" if len(points) > 1 else "markers"
        figure.add_scatter(x=steps, y=values, name=html.escape(name), mode=mode, line_dash=dash)
    figure.update_yaxes(type=axis, tickformat="~g" if axis == "log" else "", exponentformat="e")
    return _html(figure, title, xaxis_title="step", showlegend=True)


def _accuracy_chart(checkpoints: Row) -> str:
    figure = go.Figure()
    for task in task_names(checkpoints):
        for decoding in ("greedy", "sampled"):
            of = {name: tasks[task] for name, tasks in checkpoints.items() if task in tasks}
            if decoding == "sampled":
                of = {name: score["sampled"] for name, score in of.items() if "sampled" in score}
            of = {name: score for name, score in of.items() if is_number(score.get("accuracy"))}
            if of:
                ranges = [(score["accuracy"], *(score.get("ci95") or (None, None))) for score in of.values()]
                figure.add_scatter(
                    x=list(of),
                    y=[accuracy for accuracy, *_ in ranges],
                    error_y={
                        "array": [None if high is None else high - accuracy for accuracy, _, high in ranges],
                        "arrayminus": [None if low is None else accuracy - low for accuracy, low, _ in ranges],
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
