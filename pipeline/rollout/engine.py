"""The vLLM engine that rolls out: what a recipe may ask of it, the server of server mode, and an end to its hangs."""

import faulthandler
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any
from urllib.parse import urlsplit

import requests
from trl import GRPOConfig
from trl.generation import vllm_generation


class RolloutError(RuntimeError):
    """Rollouts cannot go on."""


@contextmanager
def computing_in(dtype: str) -> Iterator[None]:
    """Colocated engines made in this context compute in the trainer's `dtype`.

    TRL 1.16 leaves it to vLLM, whose "auto" turns a float32 checkpoint into bfloat16: a policy that the trainer does
    not have, and on a CPU the slower one. Delete when TRL hands on a dtype (`trl/generation/vllm_generation.py:347`;
    huggingface/trl#6776).
    """
    whole = getattr(vllm_generation, "LLM", None)  # absent without vLLM
    vllm_generation.LLM = partial(whole, dtype=dtype, use_tqdm_on_load=False) if whole else None
    try:
        yield
    finally:
        vllm_generation.LLM = whole


# --- server mode ------------------------------------------------------------------------------------------------------


def check_server(args: GRPOConfig, model: str, say: Callable[[str], None]) -> None:
    """Wait for the server of server mode; compare how it was started with what rollouts need.

    Args:
        args: of the stage.
        model: what the server may be started with; the trainer's weights replace it.

    Raises:
        ValueError: there is none within `vllm_server_timeout` seconds, or it lacks an option.
    """
    url = (args.vllm_server_base_url or f"http://{args.vllm_server_host}:{args.vllm_server_port}").rstrip("/")
    length, patience = args.vllm_max_model_length, args.vllm_server_timeout
    command = (
        f"start it with: VLLM_SERVER_DEV_MODE=1 vllm serve {model} --port {urlsplit(url).port or 80} "
        '--weight-transfer-config \'{"backend": "nccl"}\' --logprobs-mode processed_logprobs --max-logprobs -1 '
        f"--enable-scale-out{f' --max-model-len {length}' if length else ''}"
    )
    if not _answers(url):
        say(f"waiting up to {patience:g} s for the vLLM server at {url}")
    deadline = time.monotonic() + patience
    while not _answers(url):
        if time.monotonic() > deadline:
            raise ValueError(f"no vLLM server answers at {url} within {patience:g} s (vllm_server_timeout); {command}")
        time.sleep(min(2.0, patience / 5))
    response = requests.get(f"{url}/server_info", params={"config_format": "json"}, timeout=30)
    if response.status_code == 404:
        raise ValueError(f"the vLLM server at {url} was started without VLLM_SERVER_DEV_MODE=1; {command}")
    response.raise_for_status()
    config = response.json()["vllm_config"]
    lacks = []
    if config["weight_transfer_config"] is None:
        lacks.append("--weight-transfer-config")
    if (mode := config["model_config"]["logprobs_mode"]) != "processed_logprobs":
        lacks.append(f"--logprobs-mode processed_logprobs (it has {mode})")
    if length and (served := config["model_config"]["max_model_len"]) < length:
        lacks.append(f"--max-model-len {length} (it has {served}, the recipe's vllm_max_model_length is {length})")
    if lacks:
        raise ValueError(f"the vLLM server at {url} lacks {', '.join(lacks)}; {command}")


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/health", timeout=10).ok
    except requests.RequestException:
        return False


def _tokens_served(url: str) -> float:
    """Prompt and completion tokens that the server has handled since it started."""
    metrics = requests.get(f"{url}/metrics", timeout=10).text
    return sum(
        map(float, re.findall(r"^vllm:(?:prompt|generation)_tokens_total\{[^}]*\} (\S+)", metrics, re.MULTILINE))
    )


# --- hangs ------------------------------------------------------------------------------------------------------------


def end_hangs(generation: Any, limit: float) -> None:
    """Let no call of `generation`, a `trl.generation.VLLMGeneration`, hang: without progress the process ends.

    Progress is a step of a colocated engine, a token of a server, or a weight on its way to either. An engine that
    stands still would otherwise hold the job for `ddp_timeout` (30 minutes), or without other ranks for ever, and a
    server that was cut off never answers. Delete when TRL's requests to it have a timeout (huggingface/trl#6973).

    Args:
        limit: seconds without progress after which the process prints why and exits with code 1.
    """
    done = 0  # weights and engine steps

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*args: Any) -> Any:
            nonlocal done
            done += 1
            return call(*args)

        return counting

    def progress() -> tuple[float, ...]:
        return (done, _tokens_served(url)) if url else (done,)

    walk, url = generation._iter_named_params, None
    generation._iter_named_params = lambda: map(counted(lambda each: each), walk())
    if generation.mode != "server":
        engine = generation.llm.llm_engine
        engine.step = counted(engine.step)
    elif generation.accelerator.is_main_process:
        url = generation.vllm_client.base_url
    else:  # it waits for the first rank, which watches
        return
    what = f"the vLLM server at {url}" if url else "vLLM"
    for name, doing in (("sync_weights", "taking new weights"), ("generate", "generating")):
        setattr(generation, name, _watched(getattr(generation, name), f"{what}, {doing},", limit, progress))


def _watched(call: Callable[..., Any], what: str, limit: float, progress: Callable[[], Any]) -> Callable[..., Any]:
    @wraps(call)
    def watched(*args: Any, **kwargs: Any) -> Any:
        finished = threading.Event()
        threading.Thread(target=_watch, args=(finished, what, limit, progress), daemon=True).start()
        try:
            return call(*args, **kwargs)
        except Exception as error:  # TRL raises bare exceptions for what a server answers
            raise RolloutError(f"{what} failed: {type(error).__name__}: {error}") from error
        finally:
            finished.set()

    return watched


def _watch(finished: threading.Event, what: str, limit: float, progress: Callable[[], Any]) -> None:
    seen, since, reason = None, time.monotonic(), ""
    while not finished.wait(min(limit / 10, 5.0)):
        try:
            now = progress()
        except requests.RequestException as error:
            reason = f"; it does not answer: {type(error).__name__}"
        else:
            reason = ""
            if now != seen:
                seen, since = now, time.monotonic()
        if time.monotonic() - since > limit and not finished.is_set():
            faulthandler.dump_traceback()
            message = f"{what} has made no progress for {limit:g} s (rollout_timeout){reason}. The run ends here; "
            print(f"ERROR {message}run the same command again to resume", file=sys.stderr, flush=True)
            os._exit(1)  # the hung call cannot be interrupted
