"""`python -m eval.report RUN`: write the page about a run, finished or not."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from eval.environment import prepare_environment, quieten
from eval.report.found import read_recipe
from eval.report.page import write_report
from eval.report.results import write_results


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 written, 2 a person must change something."""
    parser = argparse.ArgumentParser(prog="python -m eval.report", description="Write the page about a run, as it is.")
    parser.add_argument("run", type=Path, metavar="RUN", help="the folder of a run, finished or not")
    run = parser.parse_args(arguments).run
    prepare_environment()
    quieten()
    try:
        read_recipe(run)
    except ValueError as error:
        print(f"ERROR {error}")
        return 2
    try:
        write_results(run)
        write_report(run)
    except OSError as error:
        print(f"ERROR {error.filename or run}: cannot be written: {error.strerror}")
        return 2
    print(run / "report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
