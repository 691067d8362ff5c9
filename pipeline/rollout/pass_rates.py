"""Which questions a GRPO stage is worth asking: the pass rate of each under the model that the stage starts from.

A question that the model never or always gets right gives a group without contrast, rollout after rollout.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

from eval.decode import loaded
from eval.evaluate import process_state, remove_parts, sample
from eval.files import write_json
from eval.task import Decoding
from pipeline.data.prepare import held_out, rollout_rows
from pipeline.launch import tell
from pipeline.recipe.schema import GrpoStage, Recipe
from rewards.grading.verify import Outcome

if TYPE_CHECKING:
    import datasets


def measure(recipe: Recipe, stage: GrpoStage, model_in: str, file: Path, title: str) -> None:
    """Sample responses of `model_in` to the stage's questions; write the share of right ones by row id to `file`.

    Called by every rank; the rows are split between them.
    """
    assert stage.difficulty is not None
    setting, state = stage.settings(), process_state()
    batch_size = recipe.evaluate.batch_size if recipe.evaluate else 64
    drawn = {"samples": stage.difficulty.samples, "temperature": setting["temperature"], "seed": recipe.seed}
    decoding = Decoding(batch_size=batch_size, **drawn)
    with loaded(model_in, recipe.model.dtype, recipe.revision_of(model_in)) as decoder:
        rows = rollout_rows(recipe.data[stage.data], decoder.chat, stage, held_out(recipe, stage))
        lines = sample(decoder, rows, setting["max_completion_length"], decoding, title, file.with_suffix(".parts"))
    if state.is_main_process:
        right: dict[str, list[bool]] = {}
        for line in lines:
            right.setdefault(line["id"], []).append(line["outcome"] == Outcome.CORRECT)
        rates = {row_id: sum(samples) / len(samples) for row_id, samples in right.items()}
        write_json(file, {**_asked(recipe, stage), "pass_rates": rates})
        remove_parts(file.with_suffix(".parts"))
    state.wait_for_everyone()


def stored(recipe: Recipe, stage: GrpoStage, file: Path) -> dict[str, float] | None:
    """What `measure` found, by row id; None if it has not run, or was asked something else."""
    asked = json.loads(file.read_text()) if file.exists() else {}
    rates: dict[str, float] | None = asked.pop("pass_rates", None)
    return rates if asked == _asked(recipe, stage) else None


def _asked(recipe: Recipe, stage: GrpoStage) -> dict[str, object]:
    assert stage.difficulty is not None
    setting = stage.settings()
    return {
        "model": recipe.model.model_dump(),
        "data": recipe.data[stage.data].model_dump(),
        "samples": stage.difficulty.samples,
        "max_completion_length": setting["max_completion_length"],
        "temperature": setting["temperature"],
        "seed": recipe.seed,
    }


def within(rows: "datasets.Dataset", stage: GrpoStage, rates: dict[str, float]) -> "datasets.Dataset":
    """The rows whose pass rate the stage asks for.

    Raises:
        ValueError: there are none.
    """
    assert stage.difficulty is not None
    lowest, highest = stage.difficulty.min_pass_rate, stage.difficulty.max_pass_rate
    by_row = [rates[row_id] for row_id in rows["id"][:]]
    kept = [index for index, rate in enumerate(by_row) if lowest <= rate <= highest]
    easy, hard = sum(rate > highest for rate in by_row), sum(rate < lowest for rate in by_row)
    counts = f"of {len(rows)} rows (too hard {hard}, too easy {easy}: pass rates {lowest:g} to {highest:g} are asked)"
    if not kept:
        raise ValueError(f"{stage.name}.difficulty: nothing is left {counts}")
    tell(f"{stage.name}: kept {len(kept)} {counts}")
    return rows.select(kept)
