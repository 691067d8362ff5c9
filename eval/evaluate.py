"""Ask a checkpoint every row of a task, grade the responses, keep all of it in files; nothing is asked twice."""

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from accelerate.utils import broadcast_object_list

from eval.checkpoint import Checkpoint
from eval.data.rows import good, read
from eval.decode import Decoder, decoder_of
from eval.environment import versions
from eval.files import json_lines, sha256, text_digest, write_json, write_json_lines
from eval.grade import graded
from eval.identity import GRADING, asked_digest, differences, grader, identity, key, references_digest
from eval.respond import Pass, parts_of, process_state, remove_parts, respond, tell_of_parts
from eval.scores import Line, scores
from eval.task import Decoding, Task
from rewards.grading.verify import no_answer

if TYPE_CHECKING:
    import datasets

SCORES, COMPLETIONS = "scores.json", "completions.jsonl"


class Asked(NamedTuple):
    """A task, its rows that are asked, and how many could not be read."""

    task: Task
    rows: "datasets.Dataset"
    unreadable: int


def evaluate(checkpoint: Checkpoint, tasks: Sequence[Asked], out: Path, decoding: Decoding, name: str) -> bool:
    """Write `completions.jsonl` (one line a response) and `scores.json` to `out/<task>`, for each task.

    What is there already is used again if all that decided about it is as it was (`eval.identity`). Called by every
    rank; rows are split. A run that was killed goes on after the last batch that it wrote, to the same files.

    Args:
        name: of the checkpoint, for what is said.

    Returns whether anything was asked or graded.
    """
    plans = _from_first_rank(lambda: [_plan(checkpoint, each, decoding, out / each.task.name) for each in tasks])
    todo = [(asked, ingredients) for asked, (ingredients, action) in zip(tasks, plans, strict=True) if action == "anew"]
    if todo:
        with decoder_of(checkpoint) as decoder:
            for asked, ingredients in todo:
                title = f"evaluate {name} on {asked.task.name}"
                _evaluate(decoder, asked, out / asked.task.name, decoding, title, ingredients)
    return any(action != "stored" for _, action in plans)


def _from_first_rank(decide: Callable[[], Any]) -> Any:
    """What the first rank decides; it alone reads and hashes files, and may change them."""
    state = process_state()
    decided = [decide() if state.is_main_process else None]
    return broadcast_object_list(decided)[0] if state.num_processes > 1 else decided[0]


def _plan(checkpoint: Checkpoint, asked: Asked, decoding: Decoding, out: Path) -> tuple[dict[str, Any], str]:
    """What decides about this evaluation, and what comes of it: `stored`, `graded` anew now, or to be made `anew`."""
    now = identity(checkpoint, asked.rows, asked.task.max_new_tokens, decoding)
    found, problem = stored(out)
    if found is None and problem is None:
        tell_of_parts(out / "parts", now)
        return now, "anew"
    changed = differences(found["made"].get("identity", {}), now) if found else {}
    if found and not changed and not problem:
        return now, "stored"
    why = problem or ", ".join(changed.values())
    if found and not problem and changed.keys() <= {*GRADING}:
        print(f"{out}: graded anew: {why}", file=sys.stderr)
        regrade(out, json_lines(out / COMPLETIONS), asked.rows, found["made"], now)
        return now, "graded"
    kept, again = _set_aside(out, found), out / f"earlier-{key(now)}"
    said = f"the evaluation that was here is kept in {kept.name}/"
    if kept != again and stored(again)[1] is None and (again / SCORES).exists():
        _move(again, out)
        again.rmdir()
        print(f"{out}: taken back from {again.name}/: {why}; {said}", file=sys.stderr)
        return now, "graded"
    print(f"{out}: evaluated anew: {why}; {said}", file=sys.stderr)
    return now, "anew"


def stored(out: Path) -> tuple[dict[str, Any] | None, str | None]:
    """The scores in `out`, and what keeps them from being used; neither, where nothing was scored."""
    if not (out / SCORES).exists():
        return None, f"{SCORES} is not there" if (out / COMPLETIONS).exists() else None
    try:
        found = json.loads((out / SCORES).read_text(encoding="utf-8"))
        made = found["made"]
        if not isinstance(made.get("identity"), dict):
            return None, "what it was made from was not kept"
        if sha256(out / COMPLETIONS) != made["completions"]:
            return found, f"{COMPLETIONS} is not what was scored"
        if _digest(found) != made["scores"]:
            return found, f"{SCORES} is not what was written"
    except (ValueError, KeyError, TypeError, AttributeError, OSError):
        return None, "it is damaged"
    return found, None


def _digest(found: dict[str, Any]) -> str:
    """Of the scores, without what they were made from."""
    return text_digest(json.dumps({**found, "made": None}, sort_keys=True))


def _set_aside(out: Path, found: dict[str, Any] | None) -> Path:
    """Keep an evaluation of something else: it may have taken hours."""
    made = (found or {}).get("made") or {}
    first = folder = out / f"earlier-{key(made.get('identity') or made)}"
    number = 1
    while folder.exists():
        number += 1
        folder = first.with_name(f"{first.name}-{number}")
    folder.mkdir(parents=True)
    _move(out, folder)
    return folder


def _move(here: Path, there: Path) -> None:
    for name in (SCORES, COMPLETIONS):
        with suppress(FileNotFoundError):
            (here / name).replace(there / name)


def rescore(out: Path) -> str:
    """Grade the responses in `out` anew, by its task's references as they are now, and say what came of it.

    Raises:
        ValueError: nothing is there to grade, or a file is damaged.
    """
    lines = json_lines(out / COMPLETIONS)
    if not lines:
        raise ValueError(f"{out / COMPLETIONS}: no line; there is nothing to grade")
    before = _scores_of(out)
    made = before.get("made", {})
    rows, why = _rows_of(made)
    now = {**made.get("identity", {}), "grader": grader()}
    if rows is not None:
        now["references"] = references_digest(rows)
    changed = regrade(out, lines, rows, made, now)
    alike = _digest(_scores_of(out)) == _digest(before)
    differ = f"{changed} of {len(lines)} outcomes differ, the scores {'do not' if alike else 'do'}"
    return f"{differ}; graded by the references that were stored: {why}" if why else differ


def _scores_of(out: Path) -> dict[str, Any]:
    """The scores in `out`; none where there are no scores yet."""
    if not (out / SCORES).exists():
        return {}
    try:
        found = json.loads((out / SCORES).read_text(encoding="utf-8"))
        made = found.get("made", {}) or {}
        if not isinstance(made.get("identity", {}), dict):
            raise ValueError("`made` says nothing that can be read")
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{out / SCORES}: damaged, {str(error).splitlines()[0]}; evaluate again") from None
    return {**found, "made": made}


def _rows_of(made: dict[str, Any]) -> tuple["datasets.Dataset | None", str | None]:
    """The rows of the task as they are now; or why its references cannot be taken from them."""
    try:
        rows = task_rows(Task.model_validate(made["task"]), warn=False).rows
        if asked_digest(rows) != made["identity"]["rows"]:
            return None, "the task asks something else by now"
    except (KeyError, TypeError):
        return None, "what they were was not kept"
    except (ValueError, OSError) as error:
        return None, str(error).splitlines()[0]
    return rows, None


def regrade(
    out: Path, before: list[Line], rows: "datasets.Dataset | None", made: dict[str, Any], now: dict[str, Any]
) -> int:
    """Grade the lines of `out` anew, by the references of `rows`, or by those stored; how many outcomes differ.

    Args:
        made: what the scores were made from until now.
        now: the identity that they have then.
    """
    if rows is not None:
        columns = [name for name in ("id", "answer", "kind", "choices") if name in rows.column_names]
        right = {row["id"]: row for row in rows.select_columns(columns)}
        lines = [{**line, **_reference(right[line["id"]])} for line in before]
    else:
        lines = before
    after = graded(lines)
    _write(out, after, {**made, "identity": now})
    return sum(
        old["outcome"] != new["outcome"] or old["parse"] != new["parse"] for old, new in zip(before, after, strict=True)
    )


def _reference(row: dict[str, Any]) -> dict[str, Any]:
    return {"gold": row["answer"], "kind": row.get("kind"), "choices": row.get("choices")}


def _write(out: Path, lines: list[dict[str, Any]], made: dict[str, Any]) -> None:
    """The scores last: all is then done."""
    write_json_lines(out / COMPLETIONS, lines)
    found = scores(lines)
    made = {**made, "completions": sha256(out / COMPLETIONS), "scores": _digest(found)}
    write_json(out / SCORES, {**found, "made": made})


def _evaluate(
    decoder: Decoder,
    asked: Asked,
    out: Path,
    decoding: Decoding,
    title: str,
    ingredients: dict[str, Any],
) -> None:
    task, rows, unreadable = asked
    passes = [Pass(sample) for sample in range(1 + decoding.samples)]
    if ingredients["decoding"]["image_removed"]:
        passes.append(Pass(0, image_removed=True))
    parts = parts_of(out / "parts", ingredients, decoding)
    lines = respond(decoder, rows, task.max_new_tokens, decoding, title, passes, parts)
    state = process_state()
    if state.is_main_process:
        facts = {
            "task": task.model_dump(),
            **decoding.model_dump(),
            "identity": ingredients,
            "context": decoder.context,
            "unreadable_rows": unreadable,
            "versions": versions(),
        }
        _write(out, lines, facts)
        remove_parts(out / "parts", ingredients)
        if long := [line["id"] for line in lines if line["too_long"] and not line["sample"]]:
            named = f"{', '.join(long[:3])}{f' and {len(long) - 3:,} more' if len(long) > 3 else ''}"
            why = f"the prompt leaves no room in {decoder.context:,} tokens, so it is counted as wrong"
            print(f"WARNING task {task.name}: too_long: row id {named}: {why}", file=sys.stderr)
    state.wait_for_everyone()


def task_rows(task: Task, warn: bool = True) -> Asked:
    """The rows of a task.

    Raises:
        ValueError: there is none, or two have one id, by which checkpoints are compared.
    """
    every = read(task)
    rows = good(every)
    if len(rows) == 0:
        raise ValueError(f"task {task.name}: none of the {len(every)} rows of {task.path} can be read")
    unreadable = len(every) - len(rows)
    if warn:
        for line in _warnings(task, rows, unreadable):
            print(f"WARNING task {task.name}: {line}", file=sys.stderr)
    ids = rows["id"][:]
    if len({*ids}) < len(ids):
        twice = Counter(ids).most_common(1)[0][0]
        raise ValueError(f"task {task.name}: two rows of {task.path} have the id {twice!r}")
    return Asked(task, rows.select(range(min(task.limit or len(rows), len(rows)))), unreadable)


def _warnings(task: Task, rows: "datasets.Dataset", unreadable: int) -> Iterator[str]:
    if unreadable:
        yield f"{unreadable} rows of {task.path} cannot be read and are left out"
    declared = [rows[name][:] if name in rows.column_names else [None] * len(rows) for name in ("kind", "choices")]
    hopeless = sum(bool(no_answer(*of_row)) for of_row in zip(rows["answer"][:], *declared, strict=True))
    if hopeless:
        why = "empty, prose, a placeholder, or several in one; no response will be right there"
        yield f"{hopeless} of {len(rows)} references are no answer: {why}"
