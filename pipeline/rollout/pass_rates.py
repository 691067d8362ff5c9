"""Which questions a GRPO stage is worth asking: the pass rate of each under the model that the stage starts from.

A question that the model never or always gets right gives a group without contrast, rollout after rollout.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.checkpoint import Checkpoint, opened
from eval.decode import decoder_of
from eval.files import write_json
from eval.identity import differences, identity
from eval.respond import Pass, parts_of, process_state, remove_parts, respond
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
    state, decoding, parts = process_state(), _decoding(recipe, stage), file.with_suffix(".parts")
    with _opened(recipe, model_in) as checkpoint:
        rows, made = _asked(recipe, stage, checkpoint)
        passes = [Pass(sample) for sample in range(1, 1 + decoding.samples)]
        length = stage.settings()["max_completion_length"]
        with decoder_of(checkpoint) as decoder:
            lines = respond(decoder, rows, length, decoding, title, passes, parts_of(parts, made, decoding))
    if state.is_main_process:
        right: dict[str, list[bool]] = {}
        for line in lines:
            right.setdefault(line["id"], []).append(line["outcome"] == Outcome.CORRECT)
        rates = {row_id: sum(samples) / len(samples) for row_id, samples in right.items()}
        write_json(file, {"identity": made, "pass_rates": rates})
        remove_parts(parts, made)
    state.wait_for_everyone()


def stored(recipe: Recipe, stage: GrpoStage, model_in: str, file: Path, begun: bool) -> dict[str, float] | None:
    """What `measure` found, by row id; None if it has not run, or was asked something else.

    A stage that has `begun` goes on with the rows that it began with, and what differs by now is said.
    """
    if not file.exists():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    with _opened(recipe, model_in) as checkpoint:
        _, now = _asked(recipe, stage, checkpoint)
    changed = ", ".join(differences(found.get("identity", {}), now).values())
    if changed:
        done = "kept, since the stage has begun with them" if begun else "measured anew"
        tell(f"WARNING {stage.name}: pass rates are {done}; what made them is another: {changed}")
    rates: dict[str, float] = found["pass_rates"]
    return rates if begun or not changed else None


def _opened(recipe: Recipe, model_in: str) -> Any:
    return opened(model_in, recipe.model.dtype, recipe.revision_of(model_in))


def _decoding(recipe: Recipe, stage: GrpoStage) -> Decoding:
    assert stage.difficulty is not None
    batch_size = recipe.evaluate.batch_size if recipe.evaluate else 64
    drawn = {"samples": stage.difficulty.samples, "temperature": stage.settings()["temperature"], "seed": recipe.seed}
    return Decoding(batch_size=batch_size, **drawn)


def _asked(recipe: Recipe, stage: GrpoStage, checkpoint: Checkpoint) -> "tuple[datasets.Dataset, dict[str, Any]]":
    """The rows that are asked, and what decides about their pass rates."""
    rows = rollout_rows(recipe.data[stage.data], checkpoint.chat, stage, held_out(recipe, stage))
    length = stage.settings()["max_completion_length"]
    return rows, identity(checkpoint, rows, length, _decoding(recipe, stage), greedy=False)


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
