"""The memory that is counted, beside what was measured on an H100 and what recipes/README.md says.

Held bytes and files of real ranks are compared in tests/pipeline/test_launch_sharded.py.
"""

from collections.abc import Iterable
from typing import Any

import pytest
from transformers import Qwen2_5_VLConfig

from pipeline.check.memory import Memory, checkpoint_bytes, memory, model_sizes
from pipeline.checkpoint.manifest import format_bytes
from pipeline.recipe.schema import Recipe
from tests.support.inputs import ROOT, launch_under

# Of the text models width, layers, heads, key-value heads, MLP, vocabulary, a tied head or not; the vision MLP.
QWEN = {
    "3B": (2048, 36, 16, 2, 11008, 151936, True, 3420),
    "7B": (3584, 28, 28, 4, 18944, 152064, False, 3420),
    "32B": (5120, 64, 40, 8, 27648, 152064, False, 3456),
    "72B": (8192, 80, 64, 8, 29568, 152064, False, 3456),
}
TEXT = "hidden_size num_hidden_layers num_attention_heads num_key_value_heads intermediate_size vocab_size"


def _config(name: str) -> Qwen2_5_VLConfig:
    *numbers, tied, vision = QWEN[name]
    text = {**dict(zip(TEXT.split(), numbers, strict=True)), "tie_word_embeddings": tied}
    tower = {"depth": 32, "hidden_size": 1280, "intermediate_size": vision, "out_hidden_size": numbers[0]}
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config={**tower, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2},
        tie_word_embeddings=tied,
        architectures=["Qwen2_5_VLForConditionalGeneration"],
    )


def _counted(
    name: str,
    tokens: int,
    dtype: str = "bfloat16",
    kind: str = "sft",
    keys: dict[str, Any] | None = None,
    **trainer: Any,
) -> tuple[Memory, int, int]:
    """Of one process, of a checkpoint, of what is handed on."""
    stage = {"name": "one", "kind": kind, "data": "rows", **(keys or {})}
    stage |= {"trainer": {"per_device_train_batch_size": 1, **trainer}}
    stage |= {"loss": "token_mean"} if kind == "sft" else {"rewards": ["accuracy"]}
    recipe = Recipe.model_validate(
        {"name": "x", "model": {"path": "x", "dtype": dtype}, "data": {"rows": {"path": "x"}}, "stages": [stage]}
    )
    config = _config(name)
    of = model_sizes(recipe, recipe.stages[0], config)
    return memory(of, recipe.stages[0], config, tokens), checkpoint_bytes(of), of.total * of.compute_bytes


@pytest.mark.parametrize(
    ("dtype", "tokens", "checkpointing", "measured"),
    [
        ("float32", 4040, True, 61.5e9),
        ("bfloat16", 1982, True, 31.3e9),
        ("bfloat16", 8135, True, 31.3e9),
        ("bfloat16", 16325, True, 32.6e9),
        ("bfloat16", 4040, False, 55.1e9),
    ],
)
def test_what_is_counted_is_what_an_h100_held(
    dtype: str, tokens: int, checkpointing: bool, measured: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """recipes/README.md: Qwen2.5-VL-3B on one GPU; there bfloat16 weights were trained, which the pipeline does not."""
    monkeypatch.setattr("pipeline.check.memory.trained_dtype", lambda recipe, stage: dtype)
    counted, _, _ = _counted("3B", tokens, dtype, gradient_checkpointing=checkpointing)
    assert measured < counted.trainer < 1.05 * measured


def test_qlora_counts_a_base_of_four_bits() -> None:
    lora = {"r": 64, "alpha": 128, "target_modules": "all-linear", "load_in_4bit": True}
    counted, checkpoint, _ = _counted("7B", 4096, keys={"lora": lora})
    assert 5.5e9 < counted.weights < 7.5e9
    assert counted.gradients < 0.5e9
    assert checkpoint < 1.5e9


def test_a_reference_and_an_engine_are_counted_where_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    rollouts = {"kind": "grpo", "use_vllm": True, "beta": 0.04, "num_generations": 8}
    colocated, _, _ = _counted("3B", 4096, **rollouts)
    assert (colocated.reference, colocated.engine_share) == (colocated.weights, 0.3)
    apart, _, _ = _counted("3B", 4096, vllm_mode="server", **{**rollouts, "beta": 0.0})
    assert (apart.reference, apart.engine_weights, apart.engine_share) == (0, 0, 0)
    asleep, _, _ = _counted("3B", 4096, vllm_enable_sleep_mode=True, **rollouts)
    assert (asleep.engine_weights, asleep.engine_share) == (colocated.engine_weights, 0)


# Our choice: the fewest GPUs of 80 GB, in whole nodes, on which SFT and GRPO of all weights fit.
PLACES = {
    "3B": (8, "the same, 30% of each"),
    "7B": (8, "the same, 35% of each, asleep while it trains"),
    "32B": (16, "a node of its own, 8 GPUs"),
    "72B": (32, "a node of its own, 8 GPUs"),
}
COLUMNS = "Qwen2.5-VL,GPUs,weights,gradients,moments,layers,rows,SFT in all,reference of `beta`"
COLUMNS += ",vLLM's weights and place,checkpoint,handed on"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _row(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    gpus, place = PLACES[name]
    launch_under(monkeypatch, "fsdp2")
    monkeypatch.setenv("WORLD_SIZE", str(gpus))
    tensor = {"vllm_tensor_parallel_size": 8} if "own" in place else {}
    sft, checkpoint, handed_on = _counted(name, 4096)
    grpo, _, _ = _counted(name, 4096, kind="grpo", beta=0.04, use_vllm=True, num_generations=8, **tensor)
    assert sft.trainer + grpo.reference + (0.3 * 80e9 if name == "3B" else 0) < 75e9
    terms = [sft.weights, sft.gradients, sft.moments, sft.layers, sft.rows, sft.trainer, grpo.reference]
    cells = [
        name,
        str(gpus),
        *map(format_bytes, terms),
        f"{format_bytes(grpo.engine_weights)}, {place}",
        format_bytes(checkpoint),
        format_bytes(handed_on),
    ]
    return _line(cells)


def test_the_sizes_that_are_shown_are_the_counted_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = (ROOT / "recipes" / "README.md").read_text()
    heading = _line(COLUMNS.split(","))
    table = "\n".join([heading, "|---" * heading.count(" | ") + "|---|", *(_row(name, monkeypatch) for name in QWEN)])
    assert table in shown, table
