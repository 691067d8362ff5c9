"""`python -m eval CHECKPOINT --task T`: ask a checkpoint the questions of tasks, and score what it says."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.environment import prepare_environment, quieten

DESCRIPTION = """Ask CHECKPOINT (a folder or a hub id, full or an adapter) the questions of each task, greedily, and
score what it says. Run the same command again to resume. `accelerate launch -m eval` splits the rows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 a person must change something."""
    parser = argparse.ArgumentParser(prog="python -m eval", description=DESCRIPTION)
    parser.add_argument("checkpoint", help="a folder, a hub id, or with --rescore an earlier --out")
    parser.add_argument("--task", action="append", default=[], metavar="T", help="a shipped task, or a YAML file")
    parser.add_argument("--samples", type=int, default=0, help="sampled responses a row: mean@k, pass@k (%(default)s)")
    parser.add_argument("--temperature", type=float, default=1.0, help="of the samples (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (%(default)s)")
    parser.add_argument("--limit", type=int, help="ask the first so many rows of each task alone")
    parser.add_argument(
        "--image-removed",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask rows with images a second time, without them (%(default)s)",
    )
    parser.add_argument("--backend", choices=["auto", "vllm", "transformers"], default="auto")
    parser.add_argument("--batch-size", type=int, default=64, help="prompts decoded together (%(default)s)")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], help="bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--revision", help="of a checkpoint on the hub")
    parser.add_argument("--out", type=Path, help="a folder (evals/<checkpoint>)")
    parser.add_argument("--rescore", action="store_true", help="grade the completions of CHECKPOINT, a folder, anew")
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--keep-images" in arguments:
        parser.error("--keep-images is --no-image-removed now")
    options = parser.parse_args(arguments)
    if not options.rescore and not options.task:
        parser.error("which --task? Yours is a YAML file: see eval/tasks")
    prepare_environment()
    quieten()
    try:
        return _rescore(Path(options.checkpoint)) if options.rescore else _evaluate(options)
    except ValueError as error:
        print(f"ERROR {str(error).splitlines()[0]}")
        return 2


def _evaluate(options: argparse.Namespace) -> int:
    from eval.task import Decoding, is_scored, load_task

    update = {"limit": options.limit} if options.limit else {}
    tasks = [load_task(name).model_copy(update=update) for name in options.task]
    out = options.out or Path("evals") / options.checkpoint.strip("./").replace("/", "--")
    decoding = Decoding(**{key: getattr(options, key) for key in Decoding.model_fields})

    import torch

    from eval.decode import loaded
    from eval.evaluate import evaluate, process_state, task_rows

    todo = [task for task in tasks if not is_scored(out / task.name, task, decoding)]
    for task in todo:
        _, unreadable = task_rows(task)  # before any weights load
        if unreadable:
            print(f"WARNING task {task.name}: {unreadable} rows of {task.path} cannot be read and are left out")
    dtype = options.dtype or ("bfloat16" if torch.cuda.is_available() else "float32")
    if todo:
        with loaded(options.checkpoint, dtype, options.revision, options.backend) as decoder:
            for task in todo:
                evaluate(decoder, task, out / task.name, decoding, f"{options.checkpoint} on {task.name}")
    state = process_state()
    if state.is_main_process:
        _show(out)
    state.destroy_process_group()
    return 0


def _show(out: Path) -> None:
    """Gather the scores in `out` in results.json and results.csv, and print them."""
    from rich.console import Console

    from eval.files import write_json
    from eval.report.results import scores_in, tables, write_csv

    checkpoints = {out.name: scores_in(out)}
    write_json(out / "results.json", {"name": out.name, "stages": [], "checkpoints": checkpoints, "comparisons": []})
    write_csv(out / "results.csv", checkpoints)
    console = Console()
    console.print(*tables(checkpoints), sep="")
    console.print(
        f"responses: {out}/*/completions.jsonl\nresults:   {out}/results.json", highlight=False, soft_wrap=True
    )


def _rescore(out: Path) -> int:
    """Make every line's outcome and the scores again from the texts; say whether anything is different."""
    from eval.files import json_lines, write_json, write_json_lines
    from eval.grade import graded
    from eval.scores import scores

    files = sorted(out.glob("*/completions.jsonl"))
    if not files:
        raise ValueError(f"{out}: no */completions.jsonl; --rescore takes the --out folder of an evaluation")
    for file in files:
        before = json_lines(file)
        after = graded(before)
        stored = json.loads((file.parent / "scores.json").read_text(encoding="utf-8"))
        made = {**scores(after), "made": stored["made"]}
        changed = sum(old != new for old, new in zip(before, after, strict=True))
        print(f"{file}: {changed} of {len(after)} outcomes differ, the scores {'do not' if made == stored else 'do'}")
        write_json_lines(file, after)
        write_json(file.parent / "scores.json", made)
    _show(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
