"""The model card of each checkpoint that a run hands on: what it is, how it was made, and what was measured."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import Environment, FileSystemLoader

from eval.files import CARD, write_text
from rewards.response import SYSTEM_PROMPT


def write_cards(run: Path, results: dict[str, Any]) -> None:
    """Write `model/README.md` of every complete stage of `run`; `results` are the run's so far."""
    stored = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    for index, stage in enumerate(stored["recipe"]["stages"]):
        if (run / stage["name"] / "COMPLETE").exists():
            write_text(run / stage["name"] / "model" / CARD, _card(run, stored, results, index))


def _card(run: Path, stored: dict[str, Any], results: dict[str, Any], index: int) -> str:
    recipe, stage = stored["recipe"], stored["recipe"]["stages"][index]
    stages = recipe["stages"][: index + 1]
    scores = results["checkpoints"].get(stage["name"], {})
    used = dict.fromkeys(each["data"] for each in stages)
    data = {name: {**recipe["data"][name], "digest": stored["data"].get(name)} for name in used}
    manifest = json.loads((run / stage["name"] / "COMPLETE").read_text(encoding="utf-8"))
    config = json.loads((run / stage["name"] / "model" / "config.json").read_text(encoding="utf-8"))
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), trim_blocks=True, lstrip_blocks=True)
    body = environment.get_template("card.md.j2").render(
        name=f"{recipe['name']}, {stage['name']}",
        stored=stored,
        stages=[(each, results["stages"][number]) for number, each in enumerate(stages)],
        data=data,
        scores=scores,
        comparisons=[each for each in results["comparisons"] if each["b"] == stage["name"]],
        files=manifest["files"],
        recipe=json.dumps(recipe, indent=1),
        system_prompt=SYSTEM_PROMPT,
        hub_id=_hub_id,
    )
    metadata = ModelCardData(
        base_model=_hub_id(recipe["model"]["path"]),
        datasets=[path for each in data.values() if (path := _hub_id(each["path"]))] or None,
        library_name="transformers",
        pipeline_tag="image-text-to-text" if "vision_config" in config else "text-generation",
        tags=["trl", *dict.fromkeys(each["kind"] for each in stages)],
        model_name=f"{recipe['name']}-{stage['name']}",
        eval_results=[_result(task, score) for task, score in scores.items()] or None,
    )
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}"))


def _result(task: str, score: dict[str, Any]) -> EvalResult:
    asked = score["made"]["task"]
    return EvalResult(
        task_type="visual-question-answering" if "image_removed" in score else "question-answering",
        dataset_type=_hub_id(asked["path"]) or task,
        dataset_name=task,
        dataset_config=asked["config"],
        dataset_split=asked["split"],
        dataset_revision=asked["revision"],
        metric_type="accuracy",
        metric_value=round(score["accuracy"], 4),
    )


def _hub_id(path: str) -> str | None:
    """A folder of this machine is nobody else's business."""
    return None if Path(path).is_absolute() or Path(path).exists() else path
