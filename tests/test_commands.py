"""Every command that a page names starts, with the flags given there; so does every make target and script."""

import os
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
FOLDERS = ("pipeline", "rewards", "eval", "recipes", "tests", "requirements")
PAGES = [*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in sorted((ROOT / folder).rglob("*.md")))]

# How each command of the pages is started here in its shortest form, by what its line begins with.
STARTED = {
    "python -m eval.compare": [sys.executable, "-m", "eval.compare", "--help"],
    "python -m eval.report": [sys.executable, "-m", "eval.report", "--help"],
    "python -m eval": [sys.executable, "-m", "eval", "--help"],
    "python -m rewards score": [sys.executable, "-m", "rewards", "score", "--help"],
    "python pipeline/run.py": [sys.executable, "pipeline/run.py", "--help"],
    "python tests/gpu/run.py": [sys.executable, "tests/gpu/run.py", "--help"],
    "python -m pytest": [sys.executable, "-m", "pytest", "--help"],
    "accelerate launch": [str(BIN / "accelerate"), "launch", "--help"],
}
# What no machine of ours can start, and the test that holds it instead.
ELSEWHERE = {
    "docker": "tests/test_image.py",
    "sbatch": "tests/test_cluster.py",
    "SERVES=": "tests/test_cluster.py",
    "kubectl": "tests/test_cluster.py",
    "sky ": "tests/test_cluster.py",
    ".venv-lmms-eval/bin/python -m lmms_eval": "tests/eval/harness/test_hooks.py",
    ".venv/bin/uv pip install": "make against",
    "pip install": "requirements/README.md",
    "VLLM_SERVER_DEV_MODE=1 vllm serve": "tests/pipeline/rollout/test_engine.py",
}
COMMAND = re.compile(
    r"^(?:\$ )?((?:make|python|accelerate|torchrun|docker|sbatch|kubectl|sky|pip|pytest|git|\.venv\S+|[A-Z_]+=\S+) .*)"
)


def _lines(page: Path) -> list[str]:
    """The shell lines of a page's code blocks, continued lines joined, comments left out."""
    blocks = page.read_text(encoding="utf-8").split("```")[1::2]
    text = "\n".join(blocks).replace("\\\n", " ")
    return [re.split(r"\s+#\s", match[1])[0].strip() for line in text.splitlines() if (match := COMMAND.match(line))]


COMMANDS = sorted({(str(page.relative_to(ROOT)), line) for page in PAGES for line in _lines(page)})


@cache
def _help(key: str) -> str:
    done = subprocess.run(STARTED[key], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_pages_name_commands() -> None:
    assert len(COMMANDS) > 20
    assert {"README.md", "CONTRIBUTING.md", "recipes/README.md"} <= {page for page, _ in COMMANDS}


@pytest.mark.parametrize(("page", "line"), [command for command in COMMANDS if not command[1].startswith("make ")])
def test_a_command_of_a_page_starts_with_the_flags_that_it_is_given(page: str, line: str) -> None:
    if any(line.startswith(known) for known in ELSEWHERE):
        return
    ours = line.removeprefix(".venv/bin/")
    if line.startswith("accelerate launch"):  # its own flags stand before the script, ours behind it
        launcher, script, ours = re.fullmatch(r"(accelerate launch .*?)(pipeline/run\.py|-m eval)(.*)", line).groups()  # type: ignore[union-attr]
        assert all(flag in _help("accelerate launch") for flag in re.findall(r"--\w+", launcher))
        ours = f"python {script}{ours}"
    key = next((key for key in STARTED if ours.startswith(key)), None)
    assert key is not None, f"{page}: {line!r} is started by no test; enter it in STARTED"
    flags = {token.partition("=")[0] for token in shlex.split(ours) if token.startswith("--")}
    assert not {flag for flag in flags if flag not in _help(key)}, f"{page}: {line!r} has flags that the command lacks"


# Each target of Makefile with the arguments that make it short; None, which is `-n`, where it needs an index or root.
TARGETS = {
    "help": "",
    "setup": "",
    "demo": "ARGS=--help",
    "paper-table": "ARGS=--help",
    "test": "ARGS=--version",
    "bench": "ARGS=--list",
    "faults": "ARGS=--help",
    "gpu": "ARGS=--list",
    "check": None,  # is run by .ci/run
    "locked": None,  # is run by .ci/run
    "browser": None,  # is run by .ci/run
    "image": None,  # is run by .ci/run
    "lock": None,
    "against": None,
    "clean": None,
}


def _make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """make, with the environments as they are: a test installs nothing."""
    fixed = ["-o", ".venv/ready", "-o", ".venv-lmms-eval/ready", f"BIN={BIN}"]
    # Under `make test` this make would be that one's child: it would print its folder, and take over that one's ARGS.
    inherited = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS"}
    alone = {name: value for name, value in os.environ.items() if name not in inherited}
    command = ["make", *fixed, *arguments]
    return subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, timeout=300)


def test_every_target_is_started_here_and_described_by_help() -> None:
    text = (ROOT / "Makefile").read_text()
    [phony] = re.findall(r"^\.PHONY: (.*)$", text, re.M)
    assert {*phony.split()} == {*TARGETS}
    assert {line.split()[1] for line in _make("help").stdout.splitlines()} == {*TARGETS}


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_a_target_starts(target: str) -> None:
    arguments = TARGETS[target]
    made = _make(target, *([] if arguments == "" else [arguments] if arguments else ["-n"]))
    assert made.returncode == 0, made.stdout + made.stderr


def test_targets_that_pages_name_are_there() -> None:
    named = {word for _, line in COMMANDS if line.startswith("make ") for word in line.split()[1:2]}
    named |= {word for page in PAGES for word in re.findall(r"`make ([a-z-]+)`", page.read_text(encoding="utf-8"))}
    assert {name for name in named if not name.startswith(".venv")} <= {*TARGETS}


# Those of tests/bench, tests/faults and recipes/benchmark/table.py are started, or imported, by a target above.
SCRIPTS = ["recipes/demo/build.py", "recipes/benchmark/build.py"]


def test_every_script_is_started_here() -> None:
    found = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "recipes").rglob("*.py")
        if 'if __name__ == "__main__"' in path.read_text()
    }
    assert found == {*SCRIPTS, "recipes/benchmark/table.py"}


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_starts(script: str) -> None:
    done = subprocess.run([sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "usage:" in done.stdout
