"""Ends a process at one of the moments in which it changes a file of its run."""

import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers.modeling_utils

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Moment:
    """The `nth` change of its kind of `path`, in the run's process number `process`."""

    process: int
    kind: str  # open, save, rename, remove; hop: the process is about to be replaced
    path: str
    nth: int

    def __str__(self) -> str:
        return f"{self.kind} {self.path or 'the next process'}{f' ({self.nth + 1})' if self.nth else ''}"


class Injector:
    """Watches what the pipeline does to files below `root`; `act` is called at `moment`, in place of the change.

    Python's own audit events tell of files opened, renamed and removed; torch and safetensors write from native code
    and are wrapped. With `record`, every moment is written there as a line.
    """

    def __init__(
        self, root: Path, moment: Moment | None = None, act: Callable[[str, Callable[[], Any]], None] | None = None
    ) -> None:
        self.root, self.moment, self.act = str(root.resolve()), moment, act
        self.seen: Counter[tuple[str, str]] = Counter()
        self.record: Path | None = None
        self.busy = False

    def __call__(self, process: int) -> None:
        self.process = process
        sys.addaudithook(self._audit)
        for module, name in (
            (torch, "save"),
            (safetensors.torch, "save_file"),
            (transformers.modeling_utils, "safe_save_file"),
        ):
            setattr(module, name, self._wrapped(getattr(module, name)))
        replace = os.execve
        os.execve = lambda *arguments: (self._reach("hop", self.root, lambda: None), replace(*arguments))[1]

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.busy:
            return
        match event:
            case "open":
                path, mode, flags = arguments
                if isinstance(path, str | bytes | os.PathLike) and (set(mode or "") & set("wax+") or flags & WRITES):
                    self._reach("open", path, lambda: Path(os.fsdecode(path)).write_bytes(b""))
            case "os.rename":
                self._reach("rename", arguments[1], lambda: None)
            case "os.remove" | "shutil.rmtree":
                self._reach("remove", arguments[0], lambda: None)

    def _wrapped(self, save: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(what: Any, file: Any, *arguments: Any, **keys: Any) -> Any:
            def half() -> None:
                save(what, file, *arguments, **keys)
                os.truncate(file, os.path.getsize(file) // 2)

            self._reach("save", file, half)
            self.busy = True
            try:
                return save(what, file, *arguments, **keys)
            finally:
                self.busy = False

        return wrapped

    def _reach(self, kind: str, path: Any, half: Callable[[], Any]) -> None:
        """`half` does a part of the change, as a process does that is ended within it."""
        absolute = os.path.abspath(os.fsdecode(path))
        if not absolute.startswith(self.root) or absolute.endswith(".lock"):
            return
        relative = os.path.relpath(absolute, self.root) if kind != "hop" else ""
        moment = Moment(self.process, kind, relative, self.seen[kind, relative])
        self.seen[kind, relative] += 1
        if self.record is None and moment != self.moment:
            return
        self.busy = True
        if self.record is not None:
            with self.record.open("a") as file:
                file.write(repr(moment) + "\n")
        if moment == self.moment and self.act is not None:
            self.act(absolute, half)
        self.busy = False


def kill(_: str, half: Callable[[], Any]) -> None:
    """End this process as the kernel does when memory runs out: nothing is cleaned up."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_within(path: str, half: Callable[[], Any]) -> None:
    """As `kill`, when a part of the file is written."""
    half()
    kill(path, half)
