"""What is known of a checkpoint before its weights load."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from eval.checkpoint import opened
from tests.support.evaluations import change_weights


def test_the_settings_that_are_not_taken_are_named(small: Callable[[str], Path], tmp_path: Path) -> None:
    shutil.copytree(small("llama"), tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    own = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**own, "num_beams": 4, "repetition_penalty": 1.05, "eos_token_id": 1}))
    with opened(str(tmp_path / "model"), "float32") as checkpoint:
        assert checkpoint.ignored == {"num_beams": 4, "repetition_penalty": 1.05}
        assert 1 in checkpoint.chat.ends


def _adapter(base: Path, folder: Path) -> Path:
    config = LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


def _digest(place: Path) -> str:
    with opened(str(place), "float32") as checkpoint:
        return checkpoint.digest


def test_an_adapter_is_named_by_itself_and_by_its_base_and_nothing_is_merged_before_it_decodes(
    model: Path, tmp_path: Path
) -> None:
    adapter = _adapter(model, tmp_path / "adapter")
    with patch("eval.checkpoint.merge_adapter", side_effect=AssertionError("weights were loaded")):
        first = _digest(adapter)
        assert _digest(adapter) == first != _digest(model)
        change_weights(model)
        second = _digest(adapter)
        assert second != first, "another base"
        _adapter(model, adapter)
        assert _digest(adapter) != second, "other adapter weights"


def test_a_card_and_what_a_training_resumes_from_change_no_digest(model: Path) -> None:
    before = _digest(model)
    for name in (
        "README.md",
        "optimizer.pt",
        "rng_state_0.pth",
        "trainer_state.json",
        "checkpoint-5/model.safetensors",
    ):
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text("x")
        assert _digest(model) == before
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert _digest(model) != before


def test_a_checkpoint_that_is_not_there_or_lacks_its_base_is_one_line(model: Path, tmp_path: Path) -> None:
    adapter = _adapter(model, tmp_path / "adapter")
    shutil.rmtree(model)
    for place, said in ((tmp_path / "none", "no such folder"), (adapter, f"its base {str(model)!r}")):
        with pytest.raises(ValueError, match=r"^model ") as raised, opened(str(place), "float32"):
            pass
        assert said in str(raised.value).splitlines()[0]
