"""`python -m eval.report RUN`: write the page about a run, finished or not."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.environment import prepare_environment, quieten
from eval.report.page import write_report
from eval.report.results import write_results


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 written, 2 a person must change something."""
    parser = argparse.ArgumentParser(prog="python -m eval.report", description="Write the page about a run, as it is.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    run = parser.parse_args(arguments).run
    if not (run / "recipe.json").is_file():
        print(f"ERROR {run}: no run folder, since it holds no recipe.json")
        return 2
    if "on" in (json.loads((run / "recipe.json").read_text(encoding="utf-8"))["recipe"]["evaluate"] or {}):
        print(f"ERROR {run}: its keys are from before the renames that CHANGELOG lists; report it with what made it")
        return 2
    prepare_environment()
    quieten()
    write_results(run)
    write_report(run)
    print(run / "report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
