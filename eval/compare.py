"""Two checkpoints on the same rows: `python -m eval.compare A B`.

A and B are each a run (its last checkpoint), a folder of one checkpoint's evaluation (`runs/demo/eval/sft`), or a
`completions.jsonl`. Several training seeds: as many of each, before and after `--against`, in the same order.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import NormalIndPower

from eval.files import json_lines, write_json
from eval.scores import CORRECT, Line, bootstrap, cluster

ALPHA, POWER = 0.05, 0.8
Lines = list[Line]


def compare(a: Sequence[Lines], b: Sequence[Lines], sampled: bool = False) -> dict[str, Any]:
    """Accuracy of `b` minus that of `a` on their common rows, greedy or the mean of the sampled responses.

    One run of each: `ci95` by a paired bootstrap over images, `p` is exact McNemar's (greedy only). These speak of two
    checkpoints. Several runs of each, paired by seed: the mean difference, whose variance is that between seeds over
    their number plus that of the rows, with Satterthwaite's degrees of freedom (our choice: the noise of the rows is in
    both, so it errs to the wide side); `p` is from the same t. This speaks of two ways of training.

    `detectable` is the smallest true difference that would be found with 80% probability at this n and noise.

    Raises:
        ValueError: no row in common, an id that asks something else, or not as many runs of each.
    """
    if len(a) != len(b):
        raise ValueError(f"{len(a)} runs against {len(b)}; as many of each, in the order of their seeds")
    right = [_right(lines, sampled) for lines in [*a, *b]]
    ids = sorted(set.intersection(*({*each} for each in right)))
    if not ids:
        raise ValueError("no row in common")
    _same_questions([{line["id"]: line for line in lines} for lines in [*a, *b]], ids)
    first = {line["id"]: line for line in _of(a[0], sampled)}
    clusters = [cluster(first[id]) for id in ids]
    right_RN = np.array([[each[id] for id in ids] for each in right])
    difference_SN = right_RN[len(a) :] - right_RN[: len(a)]
    mean, interval, error = bootstrap(list(difference_SN.mean(axis=0)), clusters)
    result: dict[str, Any] = {
        "n": len(ids),
        "images": len({*clusters}),
        "only_in_one": len(set.union(*({*each} for each in right))) - len(ids),
        "a_accuracy": float(right_RN[: len(a)].mean()),
        "b_accuracy": float(right_RN[len(a) :].mean()),
        "difference": mean,
        "ci95": interval,
    }
    pairs = [] if sampled else [_mcnemar(*pair) for pair in zip(right_RN[: len(a)], right_RN[len(a) :], strict=True)]
    if len(a) > 1:
        result |= _over_seeds(difference_SN.mean(axis=1), error, len({*clusters}))
        return result | {"seeds": pairs}
    result["detectable"] = _detectable(error)
    if pairs:
        result |= {**pairs[0], "p": pairs[0]["mcnemar_p"]}
    return result


def _of(lines: Iterable[Line], sampled: bool) -> Lines:
    return [line for line in lines if not line["image_removed"] and bool(line["sample"]) == sampled]


def _right(lines: Iterable[Line], sampled: bool) -> dict[str, float]:
    """The share of right responses by row."""
    found: dict[str, list[bool]] = {}
    for line in _of(lines, sampled):
        found.setdefault(line["id"], []).append(line["outcome"] == CORRECT)
    return {id: sum(each) / len(each) for id, each in found.items()}


def _same_questions(by_id: Sequence[dict[str, Line]], ids: Sequence[str]) -> None:
    for id in ids:
        if len({(each[id]["question"], each[id]["gold"]) for each in by_id}) > 1:
            raise ValueError(f"row {id} is not the same question everywhere: these are evaluations of different data")


def _mcnemar(a_N: np.ndarray, b_N: np.ndarray) -> dict[str, Any]:
    gained, lost = int((b_N > a_N).sum()), int((a_N > b_N).sum())
    p = float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue) if gained + lost else 1.0
    return {"difference": float((b_N - a_N).mean()), "gained": gained, "lost": lost, "mcnemar_p": p}


def _over_seeds(difference_S: np.ndarray, error: float, clusters: int) -> dict[str, Any]:
    """The mean over seeds, with the variance of seeds and of rows."""
    between = float(difference_S.var(ddof=1)) / len(difference_S)
    variance = between + error**2
    freedom = variance**2 / (between**2 / (len(difference_S) - 1) + error**4 / max(clusters - 1, 1))
    mean, error = float(difference_S.mean()), variance**0.5
    half = float(stats.t.ppf(1 - ALPHA / 2, freedom)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, freedom))
    return {"ci95": [mean - half, mean + half], "freedom": freedom, "p": p, "detectable": _detectable(error)}


def _detectable(error: float) -> float:
    """In shares of rows; the normal approximation. `error` is the standard error of the difference."""
    return float(NormalIndPower(ddof=0).solve_power(nobs1=1, alpha=ALPHA, power=POWER, ratio=0)) * error


def with_holm(comparisons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with `holm_p`: each `p` corrected for the number of them (Holm 1979). They are one family."""
    tested = [index for index, each in enumerate(comparisons) if "p" in each]
    corrected = multipletests([comparisons[index]["p"] for index in tested], ALPHA, "holm")[1] if tested else []
    by_index = dict(zip(tested, map(float, corrected), strict=True))
    return [{**each, **({"holm_p": by_index[i]} if i in by_index else {})} for i, each in enumerate(comparisons)]


def verdict(found: dict[str, Any], a: str = "A", b: str = "B") -> str:
    """What may be said: that one is better only where the interval leaves out 0 and the corrected test agrees."""
    low, high = found["ci95"]
    if low <= 0 <= high or found.get("holm_p", found.get("p", 0)) >= ALPHA:
        return f"no difference shown (one of {found['detectable']:.1%} would be found 4 times in 5)"
    return f"{b if low > 0 else a} is better"


# --- the command ------------------------------------------------------------------------------------------------------


def tasks_of(place: Path) -> dict[str, Lines]:
    """The responses in an evaluation, by task.

    Raises:
        ValueError: there are none.
    """
    if place.is_file():
        return {place.parent.name: json_lines(place)}
    if (place / "recipe.json").is_file():
        evaluate = json.loads((place / "recipe.json").read_text())["recipe"]["evaluate"] or {}
        place = place / "eval" / (evaluate.get("checkpoints") or ["?"])[-1]
    by_task = {file.parent.name: json_lines(file) for file in sorted(place.glob("*/completions.jsonl"))}
    if not by_task:
        raise ValueError(
            f"{place}: no evaluation here; a run folder, a folder of tasks, or a completions.jsonl is needed"
        )
    return by_task


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 compared, 2 a person must change something."""
    parser = argparse.ArgumentParser(prog="python -m eval.compare", description=__doc__)
    parser.add_argument("places", nargs="+", type=Path, metavar="A [B]", help="two, or with --against the runs of A")
    parser.add_argument("--against", nargs="+", type=Path, default=[], metavar="B", help="the runs of B, seed by seed")
    parser.add_argument("--out", type=Path, default=Path("comparison.json"), help="where it is written (%(default)s)")
    options = parser.parse_args(arguments)
    if not options.against and len(options.places) != 2:
        parser.error("two places are compared; for several seeds: A1 A2 A3 --against B1 B2 B3")
    sides = (options.places, options.against) if options.against else tuple([place] for place in options.places)
    try:
        compared = _by_task(*([tasks_of(place) for place in side] for side in sides))
    except ValueError as error:
        print(f"ERROR {error}")
        return 2
    names = [", ".join(map(str, side)) for side in sides]
    write_json(options.out, {"a": names[0], "b": names[1], "comparisons": compared})
    console = Console()
    console.print(f"A: {names[0]}\nB: {names[1]}", soft_wrap=True, highlight=False)
    console.print(table(compared))
    for result in compared:
        console.print(f"{result['task']}, {result['decoding']}: {verdict(result)}", soft_wrap=True, highlight=False)
    console.print(f"written: {options.out}", soft_wrap=True, highlight=False)
    return 0


def _by_task(a: Sequence[dict[str, Lines]], b: Sequence[dict[str, Lines]]) -> list[dict[str, Any]]:
    """Every task that all have."""
    common = [task for task in a[0] if all(task in each for each in [*a, *b])]
    if not common:
        raise ValueError(f"no task in common: {', '.join(a[0])} against {', '.join(b[0])}")
    return with_holm(
        [each for task in common for each in both(task, [run[task] for run in a], [run[task] for run in b])]
    )


def both(task: str, a: Sequence[Lines], b: Sequence[Lines]) -> list[dict[str, Any]]:
    """The comparison of greedy responses and, where all have some, of sampled ones."""
    kinds = {"greedy": False, "sampled": True}
    return [
        {"task": task, "decoding": name, **compare(a, b, sampled)}
        for name, sampled in kinds.items()
        if all(_of(lines, sampled) for lines in [*a, *b])
    ]


def table(comparisons: Sequence[dict[str, Any]]) -> Table:
    """One row a comparison."""
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1), collapse_padding=True, pad_edge=False)
    for column in ("task", "decoding", "n (images)", "A", "B", "B - A (95%)", "gained, lost", "p (Holm)", "detectable"):
        shown.add_column(column, no_wrap=True)
    for result in comparisons:
        low, high = result["ci95"]
        shown.add_row(
            result["task"],
            result["decoding"],
            f"{result['n']} ({result['images']})",
            f"{result['a_accuracy']:.3f}",
            f"{result['b_accuracy']:.3f}",
            f"{result['difference']:+.3f} ({low:+.3f} to {high:+.3f})",
            f"{result['gained']}, {result['lost']}" if "gained" in result else "-",
            f"{result['p']:.2g} ({result['holm_p']:.2g})" if "p" in result else "-",
            f"{result['detectable']:.3f}",
        )
    return shown


if __name__ == "__main__":
    sys.exit(main())
