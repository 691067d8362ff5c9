"""The workers: what hangs is ended, what dies is replaced, nothing else waits for it, and load changes no outcome."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pytest

from rewards.grading import algebra
from rewards.grading import verify as verifier
from rewards.grading.verify import Outcome, Question, usable, verify, verify_all
from rewards.grading.worker import TRY_S, WORKER_BYTES
from tests.support.tables import SLOW, table

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[3]


def _workers() -> list[int]:
    """The processes that fork, then the children that answer."""
    found: list[int] = []
    for parent in [os.getpid()]:
        found += _children(parent, "-f", "grading.worker")
    return [*found, *(child for worker in found for child in _children(worker))]


def _children(parent: int, *pattern: str) -> list[int]:
    pids = subprocess.run(["pgrep", "-P", str(parent), *pattern], capture_output=True, text=True).stdout.split()
    return [int(pid) for pid in pids]


def test_mathematics_is_equal_by_value() -> None:
    assert verify(r"(x+1)^2", r"x^2+2x+1") is Outcome.CORRECT
    assert verify(r"x^2+2x+2", r"x^2+2x+1") is Outcome.WRONG


def test_a_hung_comparison_is_ended_in_time_and_the_others_are_right() -> None:
    verify("x+x", "2x")
    questions = [Question(SLOW, rf"{n}x+\pi") for n in range(2, 6)]
    questions += [Question(rf"\pi+{n}x", rf"{n}x+\pi") for n in range(2, 42)]
    outcomes = verify_all(questions)
    assert outcomes == [Outcome.TIMEOUT] * 4 + [Outcome.CORRECT] * 40
    begun = time.process_time()
    assert verify(SLOW, "x+1") is Outcome.TIMEOUT
    assert time.process_time() - begun < TRY_S, "this process only waits"


def test_a_worker_that_dies_costs_no_answer() -> None:
    assert algebra.compare([(r"\frac{\pi}{2}", r"\pi/2")]) == ["correct"]
    for pid in _workers():
        os.kill(pid, signal.SIGKILL)
    assert algebra.compare([("3x+1", f"{n}x+1") for n in range(8)]) == ["wrong"] * 3 + ["correct"] + ["wrong"] * 4


def test_what_ends_each_worker_that_it_is_given_to_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algebra._Worker, "ask", lambda self, call: "died")
    assert algebra.compare([("x", "y")]) == ["unparseable"]


def test_workers_that_do_not_start_stop_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    algebra.close()
    monkeypatch.setattr(algebra, "_ENTRY", "raise SystemExit(1)")
    with pytest.raises(algebra.WorkersFailed, match="4 workers"):
        algebra.compare([("x", "y")])
    monkeypatch.undo()
    assert algebra.compare([("2x", "x+x")]) == ["correct"]


def test_workers_that_a_cluster_stops_cost_no_answer() -> None:
    """Its signal goes to every process of a run, which still finishes its step."""
    algebra.compare([("1", "1")])
    stopped = _workers()
    pairs = [(rf"\frac{{{n}\pi}}{{2}}", rf"{n}\pi/2") for n in range(1, 40)]
    timer = threading.Timer(0.05, lambda: [os.kill(pid, signal.SIGTERM) for pid in stopped])
    timer.start()
    found = algebra.compare(pairs)
    timer.join()
    assert found == ["correct"] * 39


def test_a_worker_limits_its_memory() -> None:
    algebra.compare([("2x", "x+x")])
    for pid in _workers():
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert f"Max address space         {WORKER_BYTES}" in limits


def test_workers_live_on_after_a_thousand_comparisons() -> None:
    pairs = [(f"{n}+x", f"x+{n}") for n in range(2500)]
    assert algebra.compare(pairs) == ["correct"] * len(pairs)


def test_mathematics_is_verified_off_the_main_thread_and_by_many_at_once() -> None:
    found: list[Outcome] = []
    threads = [threading.Thread(target=lambda n=n: found.append(verify(f"y+{n}", f"{n}+y"))) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [Outcome.CORRECT] * 12


def test_two_ranks_have_workers_of_their_own() -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as ranks:
        assert list(ranks.map(_rank, range(2))) == [[Outcome.TIMEOUT, Outcome.CORRECT]] * 2


def _rank(rank: int) -> list[Outcome]:
    try:
        return verify_all([Question(SLOW, rf"x+\pi+{rank}"), Question("x+x+1", "2x+1")])
    finally:
        algebra.close()


def test_a_fork_has_workers_of_its_own() -> None:
    algebra.compare([("2x", "x+x")])
    child = os.fork()
    if child == 0:
        os._exit(int(bool(algebra._idle)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert algebra.compare([("3x", "x+2x")]) == ["correct"]


_SCRIPT = """
import datasets, torch
from rewards.grading.verify import usable, verify
assert usable([("2 \\\\sqrt { 13 }", None, None)]) == [True]
print(verify("x+x", "2x"))
"""


@pytest.mark.parametrize("how", ["a file", "a string", "stdin"])
def test_a_script_that_imports_torch_without_a_guard_can_verify(how: str, tmp_path: Path) -> None:
    """The workers know nothing of the script: neither what it imports nor where it stands."""
    script = tmp_path / "mine.py"
    script.write_text(_SCRIPT)
    arguments = {"a file": [str(script)], "a string": ["-c", _SCRIPT], "stdin": ["-"]}[how]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ran = subprocess.run(
        [sys.executable, *arguments], input=_SCRIPT, env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert (ran.stdout, ran.returncode) == ("correct\n", 0), ran.stderr


# --- time-outs --------------------------------------------------------------------------------------------------------


def test_a_timeout_is_tried_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter(["timeout", "correct", "timeout", "timeout"])
    monkeypatch.setattr(algebra._Worker, "ask", lambda self, call: next(answers))
    assert algebra.compare([("x", "x")]) == ["correct"]
    assert algebra.compare([("x", "x")]) == ["timeout"]


def test_a_timeout_is_not_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verifier, "_compared", {})
    answers = iter(["timeout", "correct"])
    monkeypatch.setattr(algebra, "compare", lambda pairs: [next(answers)] if pairs else [])
    found = [verify("x+x", "2x") for _ in range(3)]
    assert found == [Outcome.TIMEOUT, Outcome.CORRECT, Outcome.CORRECT]


def test_a_timeout_condemns_no_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algebra, "read_references", lambda golds: ["timeout"] * len(golds))
    assert usable([("x+1", None, None)]) == [None]


def test_a_worker_without_a_word_is_killed_and_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    algebra.compare([("2x", "x+x")])
    monkeypatch.setattr(algebra, "WALL_S", 0.02)
    assert algebra.compare([("3x", SLOW)]) == ["timeout"]
    monkeypatch.undo()
    assert algebra.compare([("3x", "x+2x")]) == ["correct"]


@pytest.fixture
def busy() -> Iterator[None]:
    spinning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    yield
    for process in spinning:
        process.kill()
        process.wait()


def _outcomes(monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    monkeypatch.setattr(verifier, "_compared", {})
    return verify_all(
        Question(row["answer"], row["gold"], row.get("kind"), row.get("choices")) for row in table("pairs")
    )


def test_load_changes_no_outcome(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    quiet = _outcomes(monkeypatch)
    request.getfixturevalue("busy")
    assert _outcomes(monkeypatch) == quiet


# --- the look at the shape --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "9^{9^9}",
        "9**9**9",
        "1000000!",
        "((3!)!)!",
        "2^{1000000}",
        r"\binom{9}{3}",
        "9" * 31,
        "(x+1)^{1000}",
        "(" * 7 + "x" + ")" * 7,
    ],
)
def test_costly_mathematics_is_known_by_its_shape(text: str) -> None:
    assert algebra.is_costly(text)


@pytest.mark.parametrize(
    "text",
    [
        "(x+1)^2",
        "(1.05)^{120}",
        "x^2e^{x}",
        "2^{100}",
        "5!",
        "x^2+y^2",
        r"\frac{\sqrt{3}}{2}",
        "10^{-9}",
        "((x+1)^2+1)^3",
    ],
)
def test_ordinary_mathematics_is_not(text: str) -> None:
    assert not algebra.is_costly(text)
