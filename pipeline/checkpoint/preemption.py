"""A cluster takes its machines back: SIGTERM or SIGUSR1 to any rank ends the run at a checkpoint, with exit code 143.

A signal only sets a flag, and the flag is reduced over the ranks at each optimizer step: ranks that decided by their
own flag would save at different steps and wait for each other for ever. Where nothing is trained, a signal ends the
process at once, and so does a second one.
"""

import ctypes
import os
import signal
import sys
import threading
import time

from pipeline.launch import is_launched, tell

EXIT_CODE = 143  # 128 + SIGTERM, whichever signal it was
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
# What the kernel sends when the launcher ends. `accelerate launch` with one process hands no signal on: it dies.
LAUNCHER_GONE = signal.SIGUSR2  # Delete when accelerate hands signals on (huggingface/accelerate#929)
REPEATED_S = 0.5  # a launcher hands on what its process group got too: that is one request
_PR_SET_PDEATHSIG = 1

_requested_at: float | None = None
_patient = False


def listen() -> None:
    """Take signals from here on, in a thread: the main one may be inside a rollout for minutes. Once a process."""
    receiver, sender = os.pipe()
    os.set_blocking(sender, False)
    signal.set_wakeup_fd(sender, warn_on_full_buffer=False)
    for number in (*SIGNALS, LAUNCHER_GONE):
        signal.signal(number, lambda *_: None)  # the pipe gets its number
        signal.siginterrupt(number, False)
    threading.Thread(target=_watch, args=(receiver,), daemon=True).start()
    if is_launched():
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, LAUNCHER_GONE)


def _watch(receiver: int) -> None:
    global _requested_at
    while True:
        for number in os.read(receiver, 1):
            if number not in (*SIGNALS, LAUNCHER_GONE):
                continue
            now = time.monotonic()
            again = _requested_at is not None and number != LAUNCHER_GONE and now - _requested_at > REPEATED_S
            _requested_at = _requested_at or now
            if again or not _patient:
                tell(f"stopped at once by {signal.Signals(number).name}; run the same command again to resume")
                os._exit(EXIT_CODE)
            tell(f"{signal.Signals(number).name}: stopping at the next checkpoint; a second signal stops at once")


def be_patient() -> None:
    """From here on a signal waits for `requested`. Called by every rank where all ranks are."""
    global _patient
    _patient = True


def requested() -> bool:
    """Whether any rank was asked to stop. Called by every rank."""
    import torch  # takes seconds; `listen` comes before
    from accelerate import PartialState
    from accelerate.utils import reduce

    state, mine = PartialState(), _requested_at is not None
    if state.num_processes == 1:
        return mine
    return bool(reduce(torch.tensor(float(mine), device=state.device), "sum"))


def stop(message: str) -> None:
    """End this process with the exit code of a preemption."""
    tell(message)
    sys.exit(EXIT_CODE)


def ignore(*_: object) -> None:
    """For a worker process: its parent gets the same signals, and needs it until the checkpoint is saved."""
    for number in (*SIGNALS, LAUNCHER_GONE):
        signal.signal(number, signal.SIG_IGN)
