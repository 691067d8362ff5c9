"""Manifests: what was written, or an error."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.checkpoint.manifest import read_sealed, seal


def test_a_manifest_notices_every_bit(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights").write_bytes(os.urandom(100))
    seal(tmp_path / "COMPLETE", tmp_path / "model", {"steps": 3})
    assert read_sealed(tmp_path / "COMPLETE")["steps"] == 3
    whole = (tmp_path / "COMPLETE").read_bytes()
    for place in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        (tmp_path / "COMPLETE").write_bytes(flipped)
        if json_of(flipped) == json_of(whole):  # white space
            continue
        with pytest.raises(ValueError, match="COMPLETE is damaged"):
            read_sealed(tmp_path / "COMPLETE")


def json_of(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        return None
