"""The entry point: `accelerate launch pipeline/run.py RECIPE [stage.key=value ...]`; installed: `balanced-thinking`."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
# `import pipeline`, `rewards` and `eval` work from a checkout, an editable install and the wheel alike, and no module
# beside this file can shadow an installed package.
sys.path[:] = [str(HERE.parent), *(path for path in sys.path if path != str(HERE))]


def main() -> int:
    from pipeline.main import main

    return main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
