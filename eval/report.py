"""`report.html`: one self-contained page about a run, made of the files in its folder."""

import base64
import io
import itertools
import json
import math
import random
import statistics
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
import pyarrow.parquet as pq
from jinja2 import Environment, FileSystemLoader
from plotly.offline import get_plotlyjs

from eval.files import json_lines, write_text
from eval.rows import read
from eval.task import load_task
from rewards.response import Response, parse

SAMPLES = 10  # completions shown
STEPS, GROUPS, COMPLETIONS = 12, 3, 4  # rollouts shown: of a stage, of a step, of a group
LONGEST = 4000  # characters of a rollout's text; more are cut out of its middle
_LAYOUT = {
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "margin": {"l": 50, "r": 20, "t": 40, "b": 40},
    "autosize": True,
    "title_font_size": 15,
    "font": {"family": "system-ui, sans-serif", "color": "#8a8f98"},
    "legend": {"orientation": "h", "y": -0.2},
    "colorway": "#2f6fde #e07b39 #2a9d6f #a45bb5 #c94f5d #17a2b8 #b59a2c #8a6552".split(),  # outcomes are eight curves
}
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
        rollouts={stage["name"]: _rollouts(run, stage) for stage in held["recipe"]["stages"]},
        plotlyjs=get_plotlyjs(),
    )
    write_text(run / "report.html", page)


def _stage_charts(metrics: list[dict[str, Any]]) -> list[str]:
    return [chart for title, names, axis in _CHARTS if (chart := _curves(title, metrics, names, axis))]


def _curves(title: str, metrics: list[dict[str, Any]], names: tuple[str, ...], axis: str) -> str | None:
    logged = sorted({name for line in metrics for name, value in line.items() if value is not None})
    drawn = [name for pattern in names for name in logged if fnmatchcase(name, pattern)]
    if not drawn:
        return None
    figure = go.Figure()
    for name in drawn:
        points = [(line["step"], line[name]) for line in metrics if line.get(name) is not None]
        steps, values = zip(*points, strict=True)
        figure.add_scatter(x=steps, y=values, name=name, mode="lines" if len(points) > 1 else "markers")
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
    height = 320 + 12 * max(len(figure.data) - 4, 0)  # a long legend is not at the curves' expense
    figure.update_layout(title=title, height=height, **_LAYOUT, **layout)
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


def _rollouts(run: Path, stage: dict[str, Any]) -> list[dict[str, Any]]:
    """Steps from the first to the last, as TRL's `log_completions` wrote them down; none for a stage without."""
    files = (run / stage["name"] / "completions").glob("completions_*.parquet")
    in_order = sorted(files, key=lambda file: int(file.stem.removeprefix("completions_")))
    return [_step(file, [reward["weight"] for reward in stage["rewards"]]) for file in _spread(in_order, STEPS)]


def _step(file: Path, weights: list[float]) -> dict[str, Any]:
    table = pq.ParquetFile(file).read()
    rows = table.to_pylist()
    functions = table.column_names[3:][: len(weights)]  # after step, prompt and completion, in the recipe's order
    for row in rows:
        given = [(row[name], weight) for name, weight in zip(functions, weights, strict=True) if row[name] is not None]
        row["reward"] = sum(value * weight for value, weight in given) if given else None  # as TRL sums them
    groups = [list(group) for _, group in itertools.groupby(rows, _asked)]
    scored = [row["reward"] for row in rows if row["reward"] is not None]
    return {
        "step": rows[0]["step"],
        "reward": statistics.fmean(scored) if scored else None,
        "questions": len(groups),
        "groups": [_group(group, functions) for group in sorted(groups, key=_contrast, reverse=True)[:GROUPS]],
    }


def _asked(row: dict[str, Any]) -> dict[str, Any]:
    """What the completions of a group share. Questions about different images can have the same text: the id tells."""
    return {"question": _text(row["prompt"], "user"), "gold": row.get("answer"), "id": row.get("id")}


def _contrast(group: list[dict[str, Any]]) -> float:
    return float(statistics.pstdev([row["reward"] for row in group if row["reward"] is not None] or [0.0]))


def _group(group: list[dict[str, Any]], functions: list[str]) -> dict[str, Any]:
    best_first = sorted(group, key=lambda row: -row["reward"] if row["reward"] is not None else math.inf)
    return {
        **{name: None if value is None else _cut(str(value)) for name, value in _asked(group[0]).items()},
        "size": len(group),
        "completions": [
            {
                "rewards": {name: row[name] for name in functions},
                "reward": row["reward"],
                "advantage": row["advantage"],
                **{name: _cut(part) for name, part in _parts(_text(row["completion"], "assistant")).items()},
            }
            for row in _spread(best_first, COMPLETIONS)
        ],
    }


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    """At most `count` of `items` at even distances, with the first and the last."""
    if len(items) <= count:
        return list(items)
    return [items[index * (len(items) - 1) // (count - 1)] for index in range(count)]


def _text(messages: list[dict[str, Any]], role: str) -> str:
    """What `role` says; of a list of parts, which prompts with images are, the texts."""
    said = [message["content"] for message in messages if message["role"] == role]
    return "\n".join(
        content if isinstance(content, str) else "".join(part.get("text") or "" for part in content) for content in said
    )


def _cut(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    half = LONGEST // 2
    return f"{text[:half]} […{len(text) - 2 * half} characters left out…] {text[-half:]}"


def _parts(text: str) -> dict[str, str]:
    parsed = parse(text)
    if isinstance(parsed, Response):
        return {"think": parsed.think, "answer": parsed.answer}
    return {"think": text, "answer": f"({parsed.reason})"}


def _data_uri(image: Any) -> str:
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, format="PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
