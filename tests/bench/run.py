"""`make bench`: every benchmark against the code it stands beside, in one run; writes bench.json and prints it."""

import json
import logging
import sys
from pathlib import Path

from datasets import disable_progress_bars
from rich.console import Console
from rich.table import Table
from transformers.utils import logging as transformers_logging

sys.path.insert(0, str(Path(__file__).parent))

import check
import rollouts
import sft
import verifier

if __name__ == "__main__":
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)  # of a kernel that a CPU does without
    disable_progress_bars()
    found = [result for benchmark in (verifier, check, rollouts, sft) for result in benchmark.results()]
    Path("bench.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    table = Table("name", "value", "unit", "detail")
    for result in found:
        table.add_row(result["name"], str(result["value"]), result["unit"], result["detail"])
    Console(width=160).print(table)
