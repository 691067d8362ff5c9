"""What a check is, what it is given and what it finds."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

Result = TypeVar("Result")
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Setting:
    """What a check is given."""

    folder: Path  # its own, empty; `shared` is every check's
    shared: Path
    tiny: bool = False  # a rehearsal: tiny sizes, on the CPU

    @property
    def device(self) -> str:
        return "cpu" if self.tiny else "cuda"


@dataclass(frozen=True)
class Finding:
    """A row of gpu.json. A check's rows bear its name, or its name, a dot and what the row is about."""

    name: str
    value: float | int | None  # None where it could not be measured; `detail` then says why
    unit: str
    detail: str
    wrong: str = ""  # what must not be so, if it is

    def row(self) -> dict[str, Any]:
        detail = f"WRONG: {self.wrong}; {self.detail}" if self.wrong else self.detail
        return {"name": self.name, "value": self.value, "unit": self.unit, "detail": detail}


@dataclass(frozen=True)
class Check:
    """`function` is a generator of findings in `module`, run in a process of its own.

    `seconds` are what it takes on one H100; it starts where so many are left, and is ended after `limit`.
    """

    name: str
    module: str
    function: str
    seconds: int
    limit: int
    gpus: int = 1
    needs: tuple[str, ...] = ()  # modules beside torch, transformers and accelerate
    gpu_only: str = ""  # why a rehearsal leaves it out

    def find(self, setting: Setting) -> Iterator[Finding]:
        """Run it here."""
        yield from getattr(import_module(self.module), self.function)(setting)


def rounded(value: float) -> float:
    """Four significant digits."""
    return float(f"{value:.4g}")


def launched_alone(port: int = 29_400) -> dict[str, str]:
    """The environment of the one rank of a job, as a launcher sets it."""
    alone = {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "LOCAL_WORLD_SIZE": 1, "MASTER_ADDR": "127.0.0.1"}
    return {**{name: str(value) for name, value in alone.items()}, "MASTER_PORT": str(port + os.getpid() % 1000)}


def apart(function: Callable[..., Result], *arguments: Any) -> Result:
    """Call `function` in a fork of this process, which is ended then; for what is set once a process.

    This one must have started neither CUDA nor the threads of an operation, which its forks would wait for.

    Raises:
        RuntimeError: the fork died, or `function` raised, with its traceback.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send, args=(sender, function, arguments))
    process.start()
    sender.close()
    try:
        failure, answer = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"{function.__name__} ended with exit code {process.exitcode}") from None
    process.join()
    if failure:
        raise RuntimeError(failure)
    return answer


def _send(sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        answer = "", function(*arguments)
    except BaseException:
        answer = traceback.format_exc(), None
    sender.send(answer)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)  # an engine's threads may never end
