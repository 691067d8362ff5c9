"""A worker: reads one comparison a line, and answers it by algebra. Started by `algebra.py`, never imported by it.

The process that starts imports algebra once and forks; its child answers. A child that used up its CPU time is ended by
the kernel, since a big-integer power holds the interpreter's lock, and another takes its place within milliseconds.
CPU time decides, not the clock: an answer is worth the same on a busy machine. All limits are our choice.
"""

import gc
import json
import logging
import os
import resource
import signal
import sys

from . import equality

TRY_S = 1.0  # CPU time of one try at one comparison
WORKER_BYTES = 1024**3
_CALLS = 1000  # by one child, whose memory grows
_DONE, _RENEW = 0, 3
# Sent from outside: a cluster's signal, or Ctrl-C, goes to all processes of a run, which still finishes its step.
_OTHERS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Answer on the descriptor that was stdout, until stdin ends."""
    for number in _OTHERS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)  # which ends the process
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    logging.getLogger("math_verify").setLevel(logging.ERROR)
    equality.warm_up()
    gc.freeze()  # the parser's tables, through which each full collection would go, and which a child would copy
    _limit_memory()
    _say(answers, "ready")
    code = _RENEW
    while code != _DONE:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _serve(answers)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code not in {_DONE, _RENEW}:
            _say(answers, "timeout" if code == -signal.SIGPROF else "died")


def _say(answers: int, text: str) -> None:
    os.write(answers, f"{text}\n".encode())


def _serve(answers: int) -> None:
    """Answer calls in this process, then end it."""
    for _ in range(_CALLS):
        line = b""
        while not line.endswith(b"\n"):
            if not (piece := os.read(0, 65536)):
                os._exit(_DONE)
            line += piece
        signal.setitimer(signal.ITIMER_PROF, TRY_S)
        outcome = answer(*json.loads(line))
        signal.setitimer(signal.ITIMER_PROF, 0)
        _say(answers, outcome)
    os._exit(_RENEW)


def answer(what: str, *texts: str) -> str:
    """`correct`, `wrong`, `answer_unusable` or `unparseable`: one call of `equality.compare` or `equality.readable`."""
    try:
        if what == "read":
            return "correct" if equality.readable(*texts) else "answer_unusable"
        return "correct" if equality.equal(*texts) else "wrong"
    except equality.Unreadable as error:
        return str(error)
    except Exception:  # whatever algebra raises over a model's text has an outcome of its own, and is counted
        return "answer_unusable" if what == "read" else "unparseable"


def _limit_memory() -> None:
    """Set a soft limit, below the hard one that the system may have set."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    bytes_ = WORKER_BYTES if hard == resource.RLIM_INFINITY else min(WORKER_BYTES, hard)
    resource.setrlimit(resource.RLIMIT_AS, (bytes_, hard))
