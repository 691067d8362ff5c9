"""`make bench`: every benchmark against the code it stands beside, in one run; writes bench.json and prints it."""

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

if __name__ == "__main__":  # started by its path: what it imports lies in the repository's root
    sys.path[0] = str(Path(__file__).resolve().parents[2])

BENCHMARKS = ("verifier", "check", "rollouts", "sft")

# The verifier's workers import this file again, and torch would leave them no memory: nothing large is imported here.


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", action="store_true", help="import every benchmark, print their names and run none")
    parser.add_argument("--only", action="append", choices=BENCHMARKS, help="run this one; may be given several times")
    options = parser.parse_args(arguments)
    chosen = [name for name in BENCHMARKS if options.list or name in (options.only or BENCHMARKS)]
    benchmarks = [import_module(f"tests.bench.{name}") for name in chosen]
    if options.list:
        print(*chosen, sep="\n")
        return 0

    from datasets import disable_progress_bars
    from rich.console import Console
    from rich.table import Table
    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # of a kernel that a CPU does without
    disable_progress_bars()
    found = [result for benchmark in benchmarks for result in benchmark.results()]
    Path("bench.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    table = Table("name", "value", "unit", "detail")
    for result in found:
        table.add_row(result["name"], str(result["value"]), result["unit"], result["detail"])
    Console(width=160).print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
