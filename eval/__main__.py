"""`python -m eval CHECKPOINT --task T`: ask a checkpoint the questions of tasks, and score what it says."""

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from eval.environment import prepare_environment, quieten

DESCRIPTION = """Ask CHECKPOINT (a folder or a hub id, full or an adapter) the questions of each task, greedily, and
score what it says. Run the same command again to resume. `accelerate launch -m eval` splits the rows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 a person must change something."""
    parser = argparse.ArgumentParser(prog="python -m eval", description=DESCRIPTION)
    parser.add_argument("checkpoint", help="a folder, a hub id, or with --rescore an earlier --out")
    parser.add_argument("--task", action="append", default=[], metavar="T", help="a shipped task, or a YAML file")
    parser.add_argument(
        "--samples", type=_whole(0), default=0, help="sampled responses a row: mean@k, pass@k (%(default)s)"
    )
    parser.add_argument("--temperature", type=_temperature, default=1.0, help="of the samples (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (%(default)s)")
    parser.add_argument("--limit", type=_whole(1), help="ask the first so many rows of each task alone")
    parser.add_argument(
        "--image-removed",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask rows with images a second time, without them (%(default)s)",
    )
    parser.add_argument("--backend", choices=["auto", "vllm", "transformers"], default="auto")
    parser.add_argument("--batch-size", type=_whole(1), default=64, help="prompts decoded together (%(default)s)")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], help="bfloat16 on a GPU, float32 on a CPU")
    parser.add_argument("--revision", help="of a checkpoint on the hub")
    parser.add_argument("--out", type=Path, help="a folder (evals/<checkpoint>)")
    parser.add_argument("--rescore", action="store_true", help="grade the completions of CHECKPOINT, a folder, anew")
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--keep-images" in arguments:
        parser.error("--keep-images is --no-image-removed now")
    options = parser.parse_args(arguments)
    if options.rescore and (options.task or options.out):
        parser.error("--rescore grades all tasks of the folder that is named, where they lie: no --task, no --out")
    if not options.rescore and not options.task:
        parser.error("which --task? Yours is a YAML file: see eval/tasks")
    prepare_environment()
    quieten()
    try:
        return _rescore(Path(options.checkpoint)) if options.rescore else _evaluate(options)
    except (ValueError, OSError) as error:
        print(f"ERROR {str(error).splitlines()[0]}")
        return 2


def _whole(lowest: int) -> Callable[[str], int]:
    """A whole number, `lowest` or more."""

    def whole(text: str) -> int:
        if not text.strip().lstrip("-").isdecimal() or int(text) < lowest:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number of {lowest} or more")
        return int(text)

    return whole


def _temperature(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no temperature above 0; greedy responses are always drawn")
    return value


def _evaluate(options: argparse.Namespace) -> int:
    from eval.task import Decoding, load_task

    update = {"limit": options.limit} if options.limit else {}
    tasks = [load_task(name).model_copy(update=update) for name in options.task]
    if len({task.name for task in tasks}) < len(tasks):
        raise ValueError(f"two tasks have one name: {', '.join(task.name for task in tasks)}; rename one in its file")
    out = options.out or _folder(options.checkpoint, options.revision)
    decoding = Decoding(**{key: getattr(options, key) for key in Decoding.model_fields})

    import torch

    from eval.checkpoint import opened
    from eval.evaluate import evaluate, task_rows
    from eval.respond import process_state

    if Path(options.checkpoint).is_dir() and out.resolve().is_relative_to(Path(options.checkpoint).resolve()):
        raise ValueError(f"--out {out}: lies in the checkpoint's own folder, and would change it; name another")
    first = process_state().is_main_process
    asked = [task_rows(task, warn=first) for task in tasks]  # what is wrong with them is said before any weights load
    dtype = options.dtype or ("bfloat16" if torch.cuda.is_available() else "float32")
    with opened(options.checkpoint, dtype, options.revision, options.backend) as checkpoint:
        for task in tasks:  # what cannot be written is said before any weights load
            (out / task.name).mkdir(parents=True, exist_ok=True)
        evaluate(checkpoint, asked, out, decoding, options.checkpoint)
        ignored = checkpoint.ignored
    state = process_state()
    if state.is_main_process:
        _show(out, [task.name for task in tasks], ignored)
    state.destroy_process_group()
    return 0


def _folder(checkpoint: str, revision: str | None) -> Path:
    """Where its evaluations lie: another folder for each checkpoint, however its place is written."""
    if not Path(checkpoint).is_dir():
        return Path("evals") / "--".join([*checkpoint.split("/"), *([revision] if revision else [])])
    place = Path(checkpoint).resolve()
    here = place.relative_to(Path.cwd()).parts if place.is_relative_to(Path.cwd()) else ()
    if here and not any("--" in part for part in here):
        return Path("evals") / "--".join(here)
    return Path("evals") / f"{place.name}-{hashlib.sha256(str(place).encode()).hexdigest()[:8]}"


def _show(out: Path, asked: Sequence[str], ignored: dict[str, Any]) -> None:
    """Gather the scores in `out` in results.json and results.csv, and print them.

    What was asked before stays, if the same checkpoint said it in the same way.
    """
    from eval.files import write_json
    from eval.report.results import scores_in, tables, write_csv

    found = scores_in(out)
    first = found[asked[0]]["made"].get("identity", {})
    alike = {name for name, score in found.items() if _is_alike(score, first)} | {*asked}
    for name in sorted(found.keys() - alike):
        print(f"{out / name}: left out, since it is of another checkpoint or another way to decode", file=sys.stderr)
    checkpoints = {out.name: {name: score for name, score in found.items() if name in alike}}
    write_json(out / "results.json", {"name": out.name, "stages": [], "checkpoints": checkpoints, "comparisons": []})
    write_csv(out / "results.csv", checkpoints)
    print(tables(checkpoints), *_how(checkpoints[out.name], asked, ignored), sep="\n")
    print(f"responses: {out}/*/completions.jsonl\nresults:   {out}/results.json")


def _is_alike(score: dict[str, Any], first: dict[str, Any]) -> bool:
    made = score.get("made", {}).get("identity", {})
    return all(made.get(name) == first.get(name) for name in ("checkpoint", "revision", "backend", "dtype", "prompt"))


def _how(scores: dict[str, Any], asked: Sequence[str], ignored: dict[str, Any]) -> Iterator[str]:
    """How responses were drawn."""
    from eval.task import NEUTRAL

    for name in asked:
        made = scores[name]["made"]
        if (drawn := made["identity"].get("decoding")) is None:  # of an evaluation that kept no identity
            continue
        settings = ", ".join(f"{key} {drawn[key]:g}" for key in NEUTRAL)
        sampled = f" and {drawn['samples']} sampled at temperature {drawn['temperature']:g}" if drawn["samples"] else ""
        yield (
            f"{name}: greedy{sampled}, at most {drawn['max_new_tokens']} new tokens, {settings}; "
            f"{made['identity']['backend']}, {made['identity']['dtype']}"
        )
    if ignored:
        told = ", ".join(f"{name} {value}" for name, value in ignored.items())
        yield f"not taken from the checkpoint's generation_config.json: {told}"


def _rescore(out: Path) -> int:
    """Grade what is stored in `out` anew, by the references as they are now; say whether anything is different."""
    from eval.evaluate import COMPLETIONS, rescore
    from eval.report.results import scores_in

    files = sorted(out.glob(f"*/{COMPLETIONS}"))
    if not files:
        raise ValueError(f"{out}: no */{COMPLETIONS}; --rescore takes the --out folder of an evaluation")
    for file in files:
        print(f"{file}: {rescore(file.parent)}")
    _show(out, [*scores_in(out)], {})
    return 0


if __name__ == "__main__":
    sys.exit(main())
