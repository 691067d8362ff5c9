"""Are two expressions equal? Asked of worker processes (`worker.py`), which can be killed.

A static look at the shape comes first (our choice). Any expression of a few characters can keep a computer algebra
system busy for hours, and a big-integer power holds the interpreter's lock, so no thread and no signal can stop it;
only a process can be killed.
"""

import atexit
import contextlib
import json
import os
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

WALL_S = 60.0  # a worker that says nothing for so long is killed; its CPU time, `worker.TRY_S`, ends it far earlier
TRIES = 2  # of a comparison that ran out of time, or whose worker died

_TOO_COSTLY = re.compile(
    r"\d{31}"
    r"|\^\s*[{(]?\s*(?:[\d.]+|e)\s*[})]?\s*\^[\s{(]*[\d.e]"  # a tower of numbers
    r"|[)\]}]\s*\^[\s{(]*-?[\d ]{4}|\^[\s{(]*-?[\d ]{5}"  # a huge exponent
    r"|\d{4}\s*!|[)\]}!]\s*!"  # the factorial of something large
    r"|\\(?:int|iint|oint|sum|prod|lim|det|binom)"
)
_FACTORIAL = re.compile(r"\((?:\d?[a-z](?:[-+](?:\d{1,2}|[a-z]))?|\d[-+][a-z])\) ?!{1,2}")  # of a variable: (2n)!
_UNDEFINED = re.compile(r"\\frac ?\{[^{}]*\} ?\{ ?0+(?:\.0*)? ?\}|\\frac ?(?:\d|\{[^{}]*\}) ?0|/ ?0+(?:\.0*)?(?![\d.])")
_MAX_DEPTH = 6


def is_costly(text: str) -> bool:
    """Whether `text` might keep algebra busy, by its shape: then it is not tried."""
    text = text.replace("**", "^")
    depth = deepest = 0
    for char in text:
        depth += (char in "([{") - (char in ")]}")
        deepest = max(deepest, depth)
    return deepest > _MAX_DEPTH or bool(_TOO_COSTLY.search(_FACTORIAL.sub("n!", text)))


def is_undefined(text: str) -> bool:
    """Whether `text` divides by a zero that stands there."""
    return bool(_UNDEFINED.search(text))


# --- the workers ------------------------------------------------------------------------------------------------------

_ENTRY = (
    "import sys, json, importlib; sys.path[:] = json.loads(sys.argv[1]); importlib.import_module(sys.argv[2]).main()"
)
_free = threading.Condition()
_idle: "list[_Worker]" = []  # the one that is asked next is the last
_started = 0  # workers that are idle or busy


class WorkersFailed(RuntimeError):
    """No worker starts: its own error stands on stderr."""


class _Worker:
    """A process with a clean entry: it knows nothing of the `__main__` of this one, which may import anything."""

    def __init__(self) -> None:
        root = str(Path(__file__).resolve().parents[__package__.count(".") + 1])
        path = [root, *(os.path.abspath(each) for each in sys.path if each)]
        command = [sys.executable, "-c", _ENTRY, json.dumps(path), f"{__package__}.worker"]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, bufsize=0, start_new_session=True)
        self._is_ready = False

    def ask(self, call: Sequence[str]) -> str:
        """What the worker answers; `timeout` where it used up its time, `died` where its child is gone."""
        if not self._is_ready and self._read(None) != "ready":
            raise BrokenPipeError
        self._is_ready = True
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(call).encode() + b"\n")
        return self._read(WALL_S)

    def _read(self, wall_s: float | None) -> str:
        assert self._process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            if not select.select([self._process.stdout], [], [], wall_s)[0]:
                self.end()
                return "timeout"
            piece = self._process.stdout.read(4096)
            if not piece:
                raise BrokenPipeError
            line += piece
        return line.decode().strip()

    def end(self) -> None:
        """Kill the process and its child."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()
        self._process.wait()

    @property
    def is_alive(self) -> bool:
        return self._process.poll() is None


def compare(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """Compare each (reference, answer), both in their `normalize` spelling; all at once, in the workers.

    Returns for each `correct`, `wrong`, `answer_unusable` (algebra cannot read the reference), `unparseable` (nor the
    answer, or the worker died of it) or `timeout`. Callable from any thread. Raises: `WorkersFailed`.
    """
    return _ask([("compare", *pair) for pair in pairs])


def read_references(golds: Sequence[str]) -> list[str]:
    """`correct` for each reference that algebra can read, else what `compare` would say of it."""
    return _ask([("read", gold) for gold in golds])


def close() -> None:
    """End the worker processes; the next comparison starts others. One that is asked meanwhile ends by itself."""
    global _started
    with _free:
        while _idle:
            _idle.pop().end()
            _started -= 1


atexit.register(close)


def _ask(calls: Sequence[tuple[str, ...]]) -> list[str]:
    if len(calls) < 2:
        return [_ask_one(call) for call in calls]
    with ThreadPoolExecutor(min(len(calls), _most_workers())) as threads:
        return list(threads.map(_ask_one, calls))


def _ask_one(call: tuple[str, ...]) -> str:
    outcome = ""
    lost = tries = 0
    while tries < TRIES:
        with _worker() as worker:
            try:
                outcome = worker.ask(call)
            except OSError:  # the worker itself is gone, by no fault of the call's
                worker.end()
                lost += 1
                if lost > 3:
                    raise WorkersFailed(f"{lost} workers of rewards.grading ended before they answered") from None
                continue
        if outcome not in {"timeout", "died"}:
            return outcome
        tries += 1
    return "timeout" if outcome == "timeout" else "unparseable"


@contextlib.contextmanager
def _worker() -> Iterator[_Worker]:
    """A worker for one call: the one that was used last, since it is warm, or a new one while there are few."""
    global _started
    with _free:
        while not _idle and _started >= _most_workers():
            _free.wait()
        worker = _idle.pop() if _idle else None
        if worker is None:
            worker = _Worker()
            _started += 1
    try:
        yield worker
    finally:
        with _free:
            if worker.is_alive:
                _idle.append(worker)
            else:
                _started -= 1
            _free.notify()


def _most_workers() -> int:
    cores = len(os.sched_getaffinity(0)) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(max(cores, 3), 8)  # a rank's; the others go on while one is kept busy


def _forget() -> None:
    """A fork of this process must not talk to its workers."""
    global _free, _started
    _free, _started = threading.Condition(), 0
    _idle.clear()


os.register_at_fork(after_in_child=_forget)
