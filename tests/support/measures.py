"""What benchmarks and the checks on a GPU measure with."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback


class StepEnds(TrainerCallback):
    """Notes when each optimizer step ends, on the GPU too."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())


def timed(call: Callable[..., Any], note: Callable[[float, Any], None]) -> Callable[..., Any]:
    """`call`, which tells `note` the seconds that it took, on the GPU too, and what it returned."""

    def timing(*args: Any, **kwargs: Any) -> Any:
        begun = time.perf_counter()
        answer = call(*args, **kwargs)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        note(time.perf_counter() - begun, answer)
        return answer

    return timing


def peak_bytes(step: Callable[[], Any]) -> int:
    """Bytes of tensors that a second `step` holds at its peak beyond what it began with, counted, not sampled."""
    step()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return int(torch.cuda.max_memory_allocated() - before)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        step()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return int(np.cumsum([event.nbytes() for event in events]).max())
