"""The workers: what hangs is killed, what dies is replaced, and nothing else waits for it."""

import multiprocessing
import os
import resource
import signal
import subprocess
import threading
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from rewards.grading import algebra
from rewards.grading.verify import Outcome, Question, verify, verify_all
from tests.support.tables import SLOW

pytestmark = pytest.mark.slow


def _workers() -> list[int]:
    children = subprocess.run(
        ["pgrep", "-P", str(os.getpid()), "-f", "spawn_main"], capture_output=True, text=True
    ).stdout.split()
    return [int(pid) for pid in children]


def test_mathematics_is_equal_by_value() -> None:
    assert verify(r"(x+1)^2", r"x^2+2x+1") is Outcome.CORRECT
    assert verify(r"x^2+2x+2", r"x^2+2x+1") is Outcome.WRONG


def test_a_hung_comparison_is_killed_in_time_and_the_others_are_right() -> None:
    verify("x+x", "2x")
    questions = [Question(SLOW, rf"{n}x+\pi") for n in range(2, 6)]
    questions += [Question(rf"\pi+{n}x", rf"{n}x+\pi") for n in range(2, 42)]
    outcomes = verify_all(questions)
    assert outcomes == [Outcome.TIMEOUT] * 4 + [Outcome.CORRECT] * 40
    for gold in ("x+1", "x+2"):
        begun = time.monotonic()
        assert verify(SLOW, gold) is Outcome.TIMEOUT
        assert time.monotonic() - begun < 2 * algebra.TIMEOUT_S  # `make bench` measures it


def test_a_worker_that_dies_costs_one_answer_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algebra, "_compare", _die)
    assert algebra.compare([(r"\frac{\pi}{2}", r"\pi/2")]) == ["unparseable"]
    monkeypatch.undo()
    assert algebra.compare([(r"\frac{\pi}{2}", r"\pi/2")]) == ["correct"]
    for pid in _workers():
        os.kill(pid, signal.SIGKILL)
    assert algebra.compare([("3x+1", f"{n}x+1") for n in range(8)]) == ["wrong"] * 3 + ["correct"] + ["wrong"] * 4


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


def _die(gold: str, answer: str) -> str:
    os._exit(1)


def test_what_algebra_raises_is_an_outcome(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algebra, "read", lambda text: 1 / 0)
    monkeypatch.setattr(algebra, "_limit_time", lambda: None)  # this process is no worker, and would be ended by it
    assert algebra._compare("x", "y") == "unparseable"


def test_a_worker_that_wants_too_much_memory_is_refused_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(algebra, "_compare", _grow)
    assert algebra.compare([("x", "y")]) == ["unparseable"]
    monkeypatch.undo()
    assert algebra.compare([("2x", "x+x")]) == ["correct"]


def _grow(gold: str, answer: str) -> str:
    return str(len(bytearray(algebra.WORKER_BYTES)))


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


def test_a_worker_limits_its_memory_and_its_time() -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, initializer=algebra._prepare_worker) as worker:
        worker.apply(algebra._compare, ("x", "y"))
        assert worker.apply(resource.getrlimit, (resource.RLIMIT_AS,))[0] == algebra.WORKER_BYTES
        assert 10 <= worker.apply(resource.getrlimit, (resource.RLIMIT_CPU,))[0] < 60


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
