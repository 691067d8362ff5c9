"""The model card of each checkpoint that a run hands on: what it is, how it was made, and what was measured."""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import ChainableUndefined, Environment, FileSystemLoader

from eval.compare import verdict
from eval.files import CARD, write_text
from eval.report.found import Found, Row, is_number, read_recipe
from eval.report.published import published_run
from rewards.response import SYSTEM_PROMPT


def write_cards(run: Path, results: Row) -> None:
    """Write `model/README.md` of every complete stage of `run` that has its model; `results` are the run's so far.

    Raises:
        ValueError: `recipe.json` is damaged.
    """
    stored = read_recipe(run)
    found = Found(run, stored)  # what is missing is noted by `write_results`, for the page
    for index, stage in enumerate(stored["recipe"]["stages"]):
        manifest, model = found.manifest(stage["name"]), run / stage["name"] / "model"
        if manifest and model.is_dir():
            write_text(model / CARD, _card(found, stored, results, index, manifest))


def _card(found: Found, stored: Row, results: Row, index: int, manifest: Row) -> str:
    recipe, stage = stored["recipe"], stored["recipe"]["stages"][index]
    stages, shown = recipe["stages"][: index + 1], published_run(stored, found.run)
    scores = results["checkpoints"].get(stage["name"], {})
    of_recipe = recipe.get("data", {})
    used = [name for name in dict.fromkeys(each.get("data") for each in stages) if name in of_recipe]
    data = {name: {**of_recipe[name], "digest": stored["data"].get(name)} for name in used}
    config = found.json(found.run / stage["name"] / "model" / "config.json")
    folder = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=folder, trim_blocks=True, lstrip_blocks=True, undefined=ChainableUndefined)
    environment.filters |= {"number": _number, "interval": _interval, "verdict": verdict}
    body = environment.get_template("card.md.j2").render(
        name=f"{recipe['name']}, {stage['name']}",
        stored=shown,
        stages=list(zip(stages, results["stages"], strict=False)),
        data=data,
        scores=scores,
        too_long=any(score.get("too_long") for score in scores.values()),
        comparisons=[each for each in results["comparisons"] if each["b"] == stage["name"]],
        files=manifest.get("files", []),
        recipe=json.dumps(shown["recipe"], indent=1),
        system_prompt=SYSTEM_PROMPT,
        hub_id=_hub_id,
    )
    metadata = ModelCardData(
        base_model=_hub_id(recipe["model"]["path"]),
        datasets=[path for each in data.values() if (path := _hub_id(each["path"]))] or None,
        library_name="transformers",
        pipeline_tag=None if config is None else _PIPELINES["vision_config" in config],
        tags=["trl", *dict.fromkeys(each["kind"] for each in stages)],
        model_name=f"{recipe['name']}-{stage['name']}",
        eval_results=[_result(found, stage["name"], task, score) for task, score in scores.items()] or None,
    )
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}"))


def _result(found: Found, checkpoint: str, task: str, score: Row) -> EvalResult:
    # `results` have paths cut to their ends, which look like hub ids; the file of the scores has them whole.
    held = found.json(found.run / "eval" / checkpoint / task / "scores.json") or {}
    asked = (held.get("made") or {}).get("task") or {}
    return EvalResult(
        task_type="visual-question-answering" if "image_removed" in score else "question-answering",
        dataset_type=_hub_id(str(asked.get("path", ""))) or task,
        dataset_name=task,
        dataset_config=asked.get("config"),
        dataset_split=asked.get("split"),
        dataset_revision=asked.get("revision"),
        metric_type="accuracy",
        metric_value=round(score["accuracy"], 4),
    )


_PIPELINES = {True: "image-text-to-text", False: "text-generation"}  # of models that see, and of others
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")


def _hub_id(path: str) -> str | None:
    """A folder of this machine is nobody else's business."""
    return path if _HUB_ID.fullmatch(path) and not Path(path).exists() else None


def _number(value: Any, form: str) -> str:
    """Empty where it is not known."""
    return format(value, form) if is_number(value) else ""


def _interval(score: Any, form: str) -> str:
    """An accuracy or a difference with its interval, where it has one."""
    value = score.get("accuracy", score.get("difference"))
    low, high = score.get("ci95") or (None, None)
    around = f" ({_number(low, form)} to {_number(high, form)})" if is_number(low) and is_number(high) else ""
    return _number(value, form) + around
