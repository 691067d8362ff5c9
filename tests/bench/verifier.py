"""The verifier: throughput, latency, and a batch in which one answer in eleven is hostile."""

import itertools
import logging
import os
import random
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from trl.rewards import accuracy_reward

from rewards.accuracy import accuracy
from rewards.grading import algebra
from rewards.grading.verify import Outcome, Question, verify, verify_all
from rewards.grading.worker import TRY_S
from rewards.response import MAX_ANSWER_CHARS, render
from tests.support.tables import hostile_answers

SLOW = [rf"\exp(\exp(\exp({n})))" for n in range(95, 100)]  # pass the look at their shape and run until they are killed


def results() -> list[dict[str, Any]]:
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    algebra.compare([("2x", "x+x")])  # the workers are warm in training too, and the list of units is read
    verify("1 km", "1 m")
    found = [_plain_answers(), _beside_trl(), *_expressions(), *_hostile_batch()]
    algebra.close()
    return found


def _result(name: str, value: float, unit: str, detail: str) -> dict[str, Any]:
    return {"name": name, "value": round(value, 3), "unit": unit, "detail": detail}


def _responses(count: int) -> tuple[list[str], list[str]]:
    """Completions and references, half letters and half numbers, written in several ways, half of them right."""
    rng = random.Random(0)
    completions, golds = [], []
    for index in range(count):
        if index % 2:
            answer, gold, forms = rng.choice("ABCD"), rng.choice("ABCD"), ["{}", "({})", "{}.", r"\boxed{{{}}}"]
        else:
            answer = str(rng.randrange(10**6))
            gold, forms = (
                (answer if rng.random() < 0.5 else str(rng.randrange(10**6))),
                ["{}", "{}.0", "${}$", "{} cm", "x = {}"],
            )
        completions.append(render("So it is. " * 50, rng.choice(forms).format(answer)))
        golds.append(gold)
    return completions, golds


def _plain_answers() -> dict[str, Any]:
    completions, golds = _responses(20_000)
    begun = time.perf_counter()
    accuracy(completions, answer=golds)
    rate = len(golds) / (time.perf_counter() - begun)
    return _result(
        "letters_per_second", rate, "1/s", "letters and numbers through `accuracy`, parser included, one thread"
    )


def _beside_trl() -> dict[str, Any]:
    """Numbers alone, in dollars, since TRL's reward answers None to a letter; five alternating pairs of batches."""
    pairs = list(zip(*_responses(1000), strict=True))[::2]
    ratios = []
    for begin in range(0, 500, 100):
        completions, golds = zip(*pairs[begin : begin + 100], strict=True)
        conversations = [[{"content": completion}] for completion in completions]
        begun = time.perf_counter()
        accuracy(completions, answer=golds)
        ours = time.perf_counter() - begun
        begun = time.perf_counter()
        accuracy_reward(conversations, [f"${gold}$" for gold in golds])
        ratios.append((time.perf_counter() - begun) / ours)
    detail = f"numbers, TRL's accuracy_reward's time over ours; {min(ratios):.0f} to {max(ratios):.0f} in five pairs"
    return _result("accuracy_speedup_over_trl", statistics.median(ratios), "ratio", detail)


def _expressions() -> list[dict[str, Any]]:
    """One at a time through the warm workers; every pair is a new one."""
    rng = random.Random(1)
    forms = [
        (r"\frac{{{a}\sqrt{{{b}}}}}{{{c}}}", r"{a}\sqrt{{{b}}}/{c}"),
        ("({x}+{a})({x}+{b})", "{x}^2+{sum}{x}+{product}"),
        (r"\frac{{{a}\pi}}{{{b}}}", r"{a}\pi/{b}"),
        (r"\sin({a}{x})+{b}", r"{b}+\sin {a}{x}"),
        ("e^{{{c}{x}}}+{a}", "{b}+e^{{{c}{x}}}"),
        (r"\log_{{{b}}} {a}", r"\frac{{\ln {a}}}{{\ln {b}}}"),
        ("y={a}x+{b}", "{a}x-y+{b}=0"),
        (r"\frac{{{x}+{a}}}{{{x}+{b}}}", r"\frac{{{a}+{x}}}{{{b}+{x}}}"),
    ]
    seconds = []
    for index in range(400):
        a, b, c, x = rng.randrange(2, 99), rng.randrange(2, 99), rng.randrange(2, 9), rng.choice("xyzabnt")
        gold, answer = (form.format(a=a, b=b, c=c, x=x, sum=a + b, product=a * b) for form in forms[index % len(forms)])
        begun = time.perf_counter()
        verify(answer, gold)
        seconds.append(time.perf_counter() - begun)
    seconds = sorted(seconds[100:])
    return [
        _result(
            "math_p99_ms", 1000 * seconds[int(0.99 * len(seconds))], "ms", "300 different expressions, warm worker"
        ),
        _result("math_median_ms", 1000 * statistics.median(seconds), "ms", "the same"),
    ]


def _hostile_batch() -> list[dict[str, Any]]:
    """200 ordinary expressions and 20 hostile ones, five of which run until they are killed."""
    ordinary = [Question(rf"\pi+{n}x", rf"{n}x+\pi") for n in range(200, 400)]
    texts = [
        answer for answer in hostile_answers() if (len(answer) <= MAX_ANSWER_CHARS and "\\" in answer) or "!" in answer
    ]
    hostile = [Question(answer, r"\frac{\pi}{2}") for answer in [*SLOW, *texts][:20]]
    assert len(hostile) == 20
    every = 11
    questions = list(itertools.chain(*([*ordinary[10 * i : 10 * i + 10], hostile[i]] for i in range(20))))
    longest = 0.0
    begun = time.perf_counter()
    outcomes = []
    for question in questions:
        one = time.perf_counter()
        outcomes.append(verify(*question))
        longest = max(longest, time.perf_counter() - one)
    apart = time.perf_counter() - begun
    right = sum((outcome is Outcome.CORRECT) == bool((index + 1) % every) for index, outcome in enumerate(outcomes))
    shifted = [Question(question.answer + "+0.5", question.gold + "+0.5") for question in questions]  # not seen before
    begun = time.perf_counter()
    verify_all(shifted)
    together = time.perf_counter() - begun
    killed = outcomes.count(Outcome.TIMEOUT)
    detail = f"{right} of 220 right, {killed} ended after {algebra.TRIES} tries of {TRY_S:g} s; "
    detail += f"one by one {apart:.1f} s, as one batch {together:.1f} s"
    return [
        _result("hostile_batch_max_seconds", longest, "s", detail),
        _result("verifier_worker_peak_mb", _peak_mb(), "MB", "of the workers alive after it; their limit is 1,024"),
    ]


def _peak_mb() -> float:
    workers = _children(os.getpid(), "-f", "grading.worker")
    answering = [child for worker in workers for child in _children(int(worker))]
    peaks = [Path(f"/proc/{pid}/status").read_text().split("VmHWM:")[1].split()[0] for pid in workers + answering]
    return max(map(int, peaks)) / 1024


def _children(parent: int, *pattern: str) -> list[str]:
    return subprocess.run(["pgrep", "-P", str(parent), *pattern], capture_output=True, text=True).stdout.split()
