"""`report.html`: one self-contained page about a run, made of the files in its folder."""

import base64
import io
import json
import random
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from jinja2 import Environment, FileSystemLoader
from plotly.offline import get_plotlyjs

from eval.results import json_lines
from eval.rows import read
from eval.task import load_task
from rewards.response import Response, parse

SAMPLES = 10  # completions shown
_LAYOUT = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 50, "r": 20, "t": 40, "b": 40},
    "autosize": True,
    "title_font_size": 15,
    "height": 320,
    "font": {"family": "system-ui, sans-serif", "color": "#8a8f98"},
    "legend": {"orientation": "h", "y": -0.2},
    "colorway": ["#2f6fde", "#e07b39", "#2a9d6f", "#a45bb5", "#c94f5d"],
}
# A chart of a stage's log: its title, the metrics drawn in it, its axis. Left out where the stage logs none of them.
_CHARTS = [
    ("Negative log-likelihood by segment", ("think_nll", "answer_nll"), "log"),
    ("Think weight, answer's share of the loss", ("think_weight", "answer_loss_share"), "linear"),
    ("Rewards", ("reward", "rewards/*/mean"), "linear"),
    ("Share of groups without contrast", ("frac_reward_zero_std",), "linear"),
    ("Engine against trainer, log-probability gap", ("sampling/sampling_logp_difference/mean",), "linear"),
    ("Completion length, tokens", ("completions/mean_length",), "linear"),
]


def write_report(run: Path) -> None:
    """Write `report.html` from `results.json`, the stages' metrics and the completions in `run`."""
    held = json.loads((run / "recipe.json").read_text())
    results = json.loads((run / "results.json").read_text())
    charts = [
        {"stage": stage["name"], "html": chart}
        for stage in results["stages"]
        for chart in _stage_charts(json_lines(run / stage["name"] / "metrics.jsonl"))
    ]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    page = environment.get_template("report.html.j2").render(
        results=results,
        versions=held["versions"],
        git=held["git"],
        recipe=json.dumps(held["recipe"], indent=2),
        accuracy=_accuracy_chart(results["checkpoints"]) if results["checkpoints"] else "",
        charts=charts,
        samples=_samples(run, held["recipe"]),
        plotlyjs=get_plotlyjs(),
    )
    (run / "report.html").write_text(page, encoding="utf-8")


def _stage_charts(metrics: list[dict[str, Any]]) -> list[str]:
    return [chart for title, names, axis in _CHARTS if (chart := _curves(title, metrics, names, axis))]


def _curves(title: str, metrics: list[dict[str, Any]], names: tuple[str, ...], axis: str) -> str | None:
    logged = sorted({name for line in metrics for name in line})
    drawn = [name for pattern in names for name in logged if fnmatchcase(name, pattern)]
    if not drawn:
        return None
    figure = go.Figure()
    for name in drawn:
        points = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
        steps, values = zip(*points, strict=True)
        figure.add_scatter(x=steps, y=values, name=name, mode="lines")
    return _html(figure, title, xaxis_title="step", yaxis_type=axis, showlegend=True)


def _accuracy_chart(checkpoints: dict[str, Any]) -> str:
    figure = go.Figure()
    for task in next(iter(checkpoints.values())):
        for label, key in (("greedy", None), ("sampled", "sampled")):
            scores = {
                name: tasks[task][key] if key else tasks[task]
                for name, tasks in checkpoints.items()
                if not key or key in tasks[task]
            }
            if scores:
                figure.add_bar(
                    x=list(scores),
                    y=[score["accuracy"] for score in scores.values()],
                    error_y={
                        "array": [score["ci95"][1] - score["accuracy"] for score in scores.values()],
                        "arrayminus": [score["accuracy"] - score["ci95"][0] for score in scores.values()],
                    },
                    name=f"{task}, {label}",
                )
    return _html(figure, "Accuracy with 95% intervals", yaxis_range=[0, 1], showlegend=True)


def _html(figure: go.Figure, title: str, **layout: Any) -> str:
    figure.update_layout(title=title, **_LAYOUT, **layout)
    figure.update_xaxes(gridcolor="rgba(128,128,128,0.2)", zeroline=False)
    figure.update_yaxes(gridcolor="rgba(128,128,128,0.2)", zeroline=False)
    return str(
        figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            default_width="100%",
            config={"displayModeBar": False, "responsive": True},
        )
    )


def _samples(run: Path, recipe: dict[str, Any]) -> list[dict[str, Any]]:
    """The same ten rows of the first task, as every checkpoint answered them."""
    if not recipe["evaluate"]:
        return []
    task = load_task(recipe["evaluate"]["tasks"][0])
    answered = {
        name: {
            line["id"]: line
            for line in json_lines(run / "eval" / name / task.name / "completions.jsonl")
            if line["sample"] == 0
        }
        for name in recipe["evaluate"]["on"]
    }
    rows = read(task.source())
    ids = {id: index for index, id in enumerate(rows["id"])}
    chosen = random.Random(0).sample(sorted(next(iter(answered.values()))), k=min(SAMPLES, len(ids)))
    return [_sample(rows[ids[id]], {name: lines[id] for name, lines in answered.items()}) for id in chosen]


def _sample(row: dict[str, Any], lines: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": row["id"],
        "question": row["question"],
        "gold": row["answer"],
        "images": [_data_uri(image) for image in row.get("images") or []],
        "responses": [
            {"checkpoint": name, "outcome": line["outcome"], **_parts(line["text"])} for name, line in lines.items()
        ],
    }


def _parts(text: str) -> dict[str, str]:
    parsed = parse(text)
    if isinstance(parsed, Response):
        return {"think": parsed.think, "answer": parsed.answer}
    return {"think": text, "answer": f"({parsed.reason})"}


def _data_uri(image: Any) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
