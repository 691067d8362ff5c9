"""What the paper's table is made on: questions whose thinking is long, whose answer is short and stands in no trace.

A picture is the demo's 2x2 grid of real digits (recipes/demo/build.py: model, tokenizer, processor and drawing are its
own). The question is "What is the larger value in the top row?", or the smaller, of a row or a column. The trace reads
all four cells, muses in many wordings, says which two cells the question is about, and reads these two again, in any
order; which of them is larger it never says. That is left to the answer, one digit, which no token of the trace gives
away: to name one of the two by chance is right half of the time.

The paper starts from models that write fluently, so the base is trained first, on `pretrain` (which digit stands where)
and `fluent` (the first or second digit of a row or column, thought about in the same way). All questions have the same
length, and so have all traces, for the reason that the demo gives.
"""

import random
import sys
from pathlib import Path
from typing import NamedTuple

from ruamel.yaml import YAML

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parents[1]), *(path for path in sys.path if path != str(HERE))]  # see pipeline/run.py

from recipes.demo.build import CELLS, SHIFT, Example, Plan, command, load_digits, reading, write  # noqa: E402

LINES = {"top row": (0, 1), "bottom row": (2, 3), "left column": (0, 2), "right column": (1, 3)}
TRACES = YAML(typ="safe").load((HERE / "traces.yaml").read_text(encoding="utf-8"))
WORDS = {name: choice.split() for name, choice in TRACES["words"].items()}
VOCABULARY = 1500  # so that each word is one token
DEV_DIGITS = 500  # of the 4,000 for training: learning rates are chosen on questions about these
HELDOUT_SEED = 20261126  # the same questions for every seed


class Sizes(NamedTuple):
    """Rows of each data set."""

    pretrain: int = 12000
    fluent: int = 12000
    sft: int = 12000
    rl: int = 4096
    dev: int = 500
    heldout: int = 1000


SIZES = Sizes()


def _thought(digits: list[int], line: str, rng: random.Random) -> str:
    one, other = LINES[line]
    musings = [_worded(each, line, rng) for each in rng.sample(TRACES["musings"], 3)]
    pick = rng.choice(TRACES["picks"]).format(line=line, one=CELLS[one], other=CELLS[other])
    a, b = rng.sample((one, other), 2)
    again = rng.choice(TRACES["again"]).format(one=CELLS[a], a=digits[a], other=CELLS[b], b=digits[b])
    return f"{reading(digits)} {' '.join(musings)} {pick} {again}"


def _worded(text: str, line: str, rng: random.Random) -> str:
    words = {name: rng.choice(choice) for name, choice in WORDS.items()}
    return f"{rng.choice(TRACES['openings'])} {text.format(line=line, **words)}"


def read_example(digits: list[int], rng: random.Random) -> Example:
    """Which digit stands in a cell."""
    cell = rng.randrange(4)
    think = f"{reading(digits)} I read it once more to be sure: {CELLS[cell]} {digits[cell]}."
    return Example(f"What is the digit value in the {CELLS[cell]}?", think, str(digits[cell]))


def fluent_example(digits: list[int], rng: random.Random) -> Example:
    """The same thinking about questions that need no comparison: the first or the second digit of a row or column."""
    line, name = rng.choice(list(LINES)), rng.choice(("first", "second"))
    answer = digits[LINES[line][name == "second"]]
    return Example(f"What is the {name} value in the {line}?", _thought(digits, line, rng), str(answer))


def compare_example(digits: list[int], rng: random.Random) -> Example:
    """The benchmark's question."""
    line, name = rng.choice(list(LINES)), rng.choice(("larger", "smaller"))
    pair = [digits[cell] for cell in LINES[line]]
    answer = max(pair) if name == "larger" else min(pair)
    return Example(f"What is the {name} value in the {line}?", _thought(digits, line, rng), str(answer))


def build(out: Path, seed: int, sizes: Sizes = SIZES) -> None:
    """Write `out/model` and the parquet files `pretrain`, `fluent`, `sft`, `rl`, `dev` and `heldout`."""
    every, heldout = load_digits()
    train, dev = every.part(slice(-DEV_DIGITS)), every.part(slice(-DEV_DIGITS, None))
    write(
        out,
        {
            "pretrain": Plan(read_example, train, sizes.pretrain, 10 * seed + 1, SHIFT),
            "fluent": Plan(fluent_example, train, sizes.fluent, 10 * seed + 2, SHIFT),
            "sft": Plan(compare_example, train, sizes.sft, 10 * seed + 3, SHIFT),
            "rl": Plan(compare_example, train, sizes.rl, 10 * seed + 4, SHIFT),
            "dev": Plan(compare_example, dev, sizes.dev, HELDOUT_SEED + 1, 0),
            "heldout": Plan(compare_example, heldout, sizes.heldout, HELDOUT_SEED, 0),
        },
        seed,
        VOCABULARY,
    )


if __name__ == "__main__":
    command("the benchmark's images, questions, tokenizer and untrained model", build, HERE / "assets" / "0")
