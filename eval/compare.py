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
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from eval import scores
from eval.files import write_json
from eval.identity import differences
from eval.scores import CORRECT, Line, bootstrap, by_cluster, cluster
from eval.terminal import table

ALPHA, POWER = 0.05, 0.8
Lines = list[Line]
_ASKED = ("question", "gold", "image")  # what two lines of one id must agree in


def compare(a: Sequence[Lines], b: Sequence[Lines], sampled: bool = False) -> dict[str, Any]:
    """Accuracy of `b` minus that of `a` on their common rows, greedy or the mean of the sampled responses.

    One run of each: `ci95` by a paired bootstrap over images. `p` is exact McNemar's where each row is one response and
    has an image of its own, else that of a sign-flip test over images. These speak of two checkpoints.

    Several runs of each, paired by seed: `difference` is the mean over seeds. The variance between S seeds is known
    with S - 1 degrees of freedom and that of rows with many, so their margins are added in quadrature (Howe 1974, JASA
    69; Zou and Donner 2008, Statistics in Medicine 27); `p` is the level whose interval ends at 0. This speaks of two
    ways of training.

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
        result |= {**_over_seeds(difference_SN, error, clusters), "seeds": pairs}
    else:
        alone = bool(pairs) and len({*clusters}) == len(ids)
        p = pairs[0]["mcnemar_p"] if alone else _sign_flip(by_cluster(list(difference_SN[0]), clusters)[0])
        result |= {**(pairs[0] if pairs else {}), "p": p, "standard_error": error}
    return result | {"detectable": _detectable(result, ALPHA)}


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
        for key in _ASKED:
            if len({each[id][key] for each in by_id}) > 1:
                raise ValueError(
                    f"row {id} is not the same question everywhere ({key}): these are evaluations of different data"
                )


# --- one run of each --------------------------------------------------------------------------------------------------


def _mcnemar(a_N: np.ndarray, b_N: np.ndarray) -> dict[str, Any]:
    gained, lost = int((b_N > a_N).sum()), int((a_N > b_N).sum())
    p = float(mcnemar([[0, gained], [lost, 0]], exact=True).pvalue) if gained + lost else 1.0
    return {"difference": float((b_N - a_N).mean()), "gained": gained, "lost": lost, "mcnemar_p": p}


def _sign_flip(difference_C: np.ndarray) -> float:
    """Two-sided p of the sum over C images, whose signs are as likely either way if neither checkpoint is better.

    By `RESAMPLES` draws (Phipson and Smyth 2010 for the 1 that is added). Images that differ alike are drawn together.
    On rows of one response each, it is McNemar's test.
    """
    size_K, count_K = np.unique(np.abs(difference_C[difference_C != 0]), return_counts=True)
    draws = scores.RESAMPLES
    plus_RK = np.random.default_rng(0).binomial(count_K, 0.5, size=(draws, len(count_K)))
    flipped_R = np.abs((2 * plus_RK - count_K) @ size_K)
    extreme = int((flipped_R >= abs(difference_C.sum()) - 1e-9).sum())
    return (1 + extreme) / (1 + draws)


# --- several runs of each ---------------------------------------------------------------------------------------------


def _over_seeds(difference_SN: np.ndarray, rows_error: float, clusters: Sequence[str]) -> dict[str, Any]:
    """The mean over S seeds with its interval, p, and the standard errors of the mean that these are made of.

    `rows` is the bootstrap's, of `rows_error`; `seeds` the standard deviation of the seeds' means over root S. The
    noise of single responses is in both, so the interval errs to the wide side (our choice); `noise` is its share.
    """
    seeds, rows = difference_SN.shape
    sum_SC = np.stack([by_cluster(list(each), clusters)[0] for each in difference_SN])
    size_C = by_cluster([1.0] * rows, clusters)[0]
    effect_SC = sum_SC - difference_SN.mean(axis=1, keepdims=True) * size_C
    noise = float(((effect_SC - effect_SC.mean(axis=0)) ** 2).sum()) / (seeds - 1)
    errors = {
        "seeds": float(difference_SN.mean(axis=1).std(ddof=1)) / seeds**0.5,
        "rows": rows_error,
        "noise": (noise / seeds) ** 0.5 / rows,
    }
    mean, found = float(difference_SN.mean()), {"runs": seeds, "images": len(size_C), "standard_errors": errors}
    half = float(_margin(found, ALPHA))
    far = _margin(found, _TINY) < abs(mean)
    p = _TINY if far else float(optimize.brentq(lambda alpha: _margin(found, alpha) - abs(mean), _TINY, 1))
    return {**found, "ci95": [max(mean - half, -1.0), min(mean + half, 1.0)], "p": p}


_TINY = 1e-12  # the smallest p that is told


def _margin(found: dict[str, Any], alpha: float, seeds_factor: Any = 1.0) -> Any:
    """Half the interval of level 1 - `alpha`; `seeds_factor` is by how much the seeds' variance is another."""
    of_seeds, of_rows = (
        stats.t.isf(alpha / 2, freedom) for freedom in (found["runs"] - 1, max(found["images"] - 1, 1))
    )
    errors = found["standard_errors"]
    return np.sqrt(seeds_factor * (of_seeds * errors["seeds"]) ** 2 + (of_rows * errors["rows"]) ** 2)


# --- what would be found ----------------------------------------------------------------------------------------------


def _detectable(found: dict[str, Any], alpha: float) -> float:
    """The difference that a test at `alpha` finds with 80% probability, in shares of rows.

    One run: the approximation by t. Several: the power of the interval above, over all values that the seeds' variance
    may be estimated at. Of few seeds, the mean estimate of a standard deviation is c4 of the true one, which is
    corrected. Above 1: no difference is found, since even the smallest p of so few images is not below `alpha`.
    """
    if "runs" not in found:
        if 2 * 0.5 ** found["images"] > alpha:
            return _NONE
        freedom = found["images"] - 1
        both = float(stats.t.isf(alpha / 2, freedom) + stats.t.isf(1 - POWER, freedom))
        step = 0.5 / found["n"] if "mcnemar_p" in found else 0.0  # an exact test of counts goes by whole rows
        return both * float(found["standard_error"]) + step
    freedom, errors = found["runs"] - 1, found["standard_errors"]
    c4 = float(stats.chi.mean(freedom)) / freedom**0.5
    margin_Q = _margin(found, alpha, stats.chi2.ppf((np.arange(1000) + 0.5) / 1000, freedom) / freedom / c4**2)
    variance = (errors["seeds"] / c4) ** 2 + errors["rows"] ** 2 - errors["noise"] ** 2
    error = max(variance, errors["rows"] ** 2) ** 0.5
    most = margin_Q[-1] + 9 * error
    found_in = optimize.brentq(lambda true: stats.norm.cdf((true - margin_Q) / error).mean() - POWER, 0, most)
    return min(float(found_in), _NONE)


_NONE = 2.0  # no share of rows is so large


def with_holm(comparisons: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with `holm_p`: each `p` corrected for the number of them (Holm 1979). They are one family.

    `detectable` is then that of Holm's first step, which the only difference among many has to pass.
    """
    tested = [index for index, each in enumerate(comparisons) if "p" in each]
    corrected = multipletests([comparisons[index]["p"] for index in tested], ALPHA, "holm")[1] if tested else []
    by_index = dict(zip(tested, map(float, corrected), strict=True))
    return [
        {**each, **({"holm_p": by_index[index]} if index in by_index else {}), **_in_family(each, len(tested))}
        for index, each in enumerate(comparisons)
    ]


def _in_family(found: dict[str, Any], tests: int) -> dict[str, float]:
    return {"detectable": _detectable(found, ALPHA / tests)} if "detectable" in found and "p" in found else {}


def verdict(found: dict[str, Any], a: str = "A", b: str = "B") -> str:
    """What may be said: that one is better only where the interval leaves out 0 and the corrected test agrees."""
    low, high = found["ci95"]
    if not low <= 0 <= high and found.get("holm_p", found.get("p", 1)) < ALPHA:
        return f"{b if low > 0 else a} is better{_few(found)}"
    if found["detectable"] > 1:
        return "no difference shown, and none could be with so few rows and seeds"
    return f"no difference shown (one of {found['detectable']:.1%} would be found 4 times in 5){_few(found)}"


def _few(found: dict[str, Any]) -> str:
    """Two seeds tell next to nothing of the third."""
    return "; two seeds show little of the next: take three or more" if found.get("runs") == 2 else ""


# --- the command ------------------------------------------------------------------------------------------------------

_READ = ("id", "sample", "image_removed", "outcome", *_ASKED)
# Of `eval.identity`: what may differ, or is compared row by row; and what decides about sampled responses alone.
_BY_ITSELF, _SAMPLED = ("checkpoint", "revision", "references", "rows", "seed"), ("samples", "temperature")


def tasks_of(place: Path) -> dict[str, Path]:
    """The `completions.jsonl` of each task in an evaluation.

    Raises:
        ValueError: there are none.
    """
    if place.is_file():
        return {place.parent.name: place}
    if (place / "recipe.json").is_file():
        evaluate = json.loads((place / "recipe.json").read_text(encoding="utf-8"))["recipe"]["evaluate"] or {}
        place = place / "eval" / (evaluate.get("checkpoints") or ["?"])[-1]
    by_task = {file.parent.name: file for file in sorted(place.glob("*/completions.jsonl"))}
    if not by_task:
        raise ValueError(
            f"{place}: no evaluation here; a run folder, a folder of tasks, or a completions.jsonl is needed"
        )
    return by_task


def read_lines(file: Path) -> Lines:
    """What `compare` needs of each line of `file`.

    Raises:
        ValueError: naming the file, and the line that is none of an evaluation.
    """
    lines = []
    with file.open(encoding="utf-8", errors="replace") as opened:
        for number, text in enumerate(opened, 1):
            try:
                line = json.loads(text)
                lines.append({key: line[key] for key in _READ})
            except (ValueError, TypeError):
                raise ValueError(f"{file}: line {number} is no JSON object; evaluate again, or remove it") from None
            except KeyError as missing:
                raise ValueError(
                    f"{file}: line {number} has no {missing}, as the lines of an evaluation have"
                ) from None
    if not lines:
        raise ValueError(f"{file}: no line; there is nothing to compare")
    return lines


def unlike(files: Sequence[Path]) -> list[str]:
    """The ingredients of a number, its checkpoint aside, in which these evaluations differ; what is unknown is not."""
    made = [found for file in files if (found := _made(file.with_name("scores.json")))]
    every = [differences(made[0], each) for each in made[1:]]
    return list(dict.fromkeys(name for each in every for name in each if name not in _BY_ITSELF))


def _made(file: Path) -> dict[str, Any]:
    try:
        made: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["made"]["identity"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return made


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
    if len({place.resolve() for side in sides for place in side}) < sum(map(len, sides)):
        print("WARNING an evaluation is named twice; seeds are different trainings, and one counts once")
    write_json(options.out, {"a": names[0], "b": names[1], "comparisons": compared})
    print(f"A: {names[0]}\nB: {names[1]}\n\n{_table(compared)}\n")
    for result in compared:
        print(f"{result['task']}, {result['decoding']}: {verdict(result)}")
        if result["only_in_one"]:
            print(f"  left out: {result['only_in_one']:,} rows that not all of them have")
        if result["unlike"]:
            print(f"  WARNING not made alike, which may be the difference: {', '.join(result['unlike'])}")
    print(f"written: {options.out}")
    return 0


def _by_task(a: Sequence[dict[str, Path]], b: Sequence[dict[str, Path]]) -> list[dict[str, Any]]:
    """Every task that all have."""
    common = [task for task in a[0] if all(task in each for each in [*a, *b])]
    if not common:
        raise ValueError(f"no task in common: {', '.join(a[0])} against {', '.join(b[0])}")
    found = []
    for task in common:
        sides = [[read_lines(run[task]) for run in side] for side in (a, b)]
        differ = unlike([run[task] for run in [*a, *b]])
        for each in both(task, *sides):
            greedy = each["decoding"] == "greedy"
            found.append({**each, "unlike": [name for name in differ if not (greedy and name in _SAMPLED)]})
    return with_holm(found)


def both(task: str, a: Sequence[Lines], b: Sequence[Lines]) -> list[dict[str, Any]]:
    """The comparison of greedy responses and, where all have some, of sampled ones."""
    kinds = {"greedy": False, "sampled": True}
    return [
        {"task": task, "decoding": name, **compare(a, b, sampled)}
        for name, sampled in kinds.items()
        if all(_of(lines, sampled) for lines in [*a, *b])
    ]


def _table(comparisons: Sequence[dict[str, Any]]) -> str:
    """One row a comparison."""
    columns = ["task", "decoding", "A", "B", "B - A (95%)", "p (Holm)"]
    columns += ["n (images)", "gained, lost", "detectable"]
    return table(columns, [_row(result) for result in comparisons], names=2)


def _row(result: dict[str, Any]) -> list[str]:
    low, high = result["ci95"]
    return [
        result["task"],
        result["decoding"],
        f"{result['a_accuracy']:.3f}",
        f"{result['b_accuracy']:.3f}",
        f"{result['difference']:+.3f} ({low:+.3f} to {high:+.3f})",
        f"{result['p']:.2g} ({result['holm_p']:.2g})",
        f"{result['n']} ({result['images']})",
        f"{result['gained']}, {result['lost']}" if "gained" in result else "-",
        f"{result['detectable']:.3f}" if result["detectable"] <= 1 else "none",
    ]


if __name__ == "__main__":
    sys.exit(main())
