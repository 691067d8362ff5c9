"""A LoRA adapter as a checkpoint."""

from collections.abc import Callable
from pathlib import Path

import pytest
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen3Config, Qwen3ForCausalLM

from eval.adapter import model_class
from tests.support.evaluations import files, run


def test_the_class_of_a_model_is_the_one_that_its_configuration_names() -> None:
    assert model_class(Qwen3Config(architectures=["Qwen3ForCausalLM"])) is Qwen3ForCausalLM
    for unknown in (["OddForCausalLM"], None):
        with pytest.raises(ValueError, match="names no architecture of transformers"):
            model_class(Qwen3Config(architectures=unknown))


@pytest.mark.slow
def test_an_adapter_says_what_its_merged_model_says(small: Callable[[str], Path], task: Path, tmp_path: Path) -> None:
    base = AutoModelForImageTextToText.from_pretrained(small("qwen2_5_vl"), dtype="float32")
    model = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    model.save_pretrained(tmp_path / "adapter")
    merged = PeftModel.from_pretrained(
        AutoModelForImageTextToText.from_pretrained(small("qwen2_5_vl"), dtype="float32"), tmp_path / "adapter"
    ).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    AutoProcessor.from_pretrained(small("qwen2_5_vl")).save_pretrained(tmp_path / "merged")
    said = {}
    for name, checkpoint in {"adapter": tmp_path / "adapter", "merged": tmp_path / "merged"}.items():
        run(checkpoint, "--task", task, "--out", tmp_path / f"{name}-out")
        said[name] = [line["text"] for line in files(tmp_path / f"{name}-out")["lines"]]
    run(small("qwen2_5_vl"), "--task", task, "--out", tmp_path / "base-out")
    assert said["adapter"] == said["merged"]
    assert said["adapter"] != [line["text"] for line in files(tmp_path / "base-out")["lines"]]
