"""Decoding with the demo's untrained model: what it says is noise, how it is said is not."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

import pytest
from transformers import AutoConfig, Qwen3Config

from eval.chat import ChatFormat
from eval.data.rows import Source, read
from eval.decode import Decoder, TransformersDecoder, loaded, vision_token_ids
from eval.environment import prepare_environment


@pytest.fixture(scope="module")
def decoder(assets: Path) -> Iterator[Decoder]:
    with loaded(str(assets / "model"), "float32") as decoder:
        yield decoder


@pytest.fixture(scope="module")
def rows(assets: Path) -> list[dict[str, object]]:
    rows = list(read(Source(path=str(assets / "heldout.parquet"))).select(range(3)))
    rows[1]["question"] += " Look twice before you count, and then once more."  # so that the batch needs padding
    return rows


def test_a_batch_says_what_each_row_says_alone(decoder: Decoder, rows: list[dict[str, object]]) -> None:
    together = decoder.decode(rows, 8, None, seed=0)
    alone = [decoder.decode([row], 8, None, seed=0)[0] for row in rows]
    assert together == alone


def test_rows_with_images_and_rows_without_may_stand_together(decoder: Decoder, rows: list[dict[str, object]]) -> None:
    """ScienceQA has both."""
    mixed = [rows[0], {**rows[1], "images": []}, {**rows[2], "images": None}, rows[2]]
    assert decoder.decode(mixed, 8, None, seed=0) == [decoder.decode([row], 8, None, seed=0)[0] for row in mixed]


def test_a_response_without_an_end_is_truncated_and_counted(decoder: Decoder, rows: list[dict[str, object]]) -> None:
    for response in decoder.decode(rows, 8, None, seed=0):
        assert response.truncated
        assert response.think_tokens + response.answer_tokens == 8


def test_sampling_repeats_for_a_seed_and_never_says_a_vision_token(
    decoder: Decoder, rows: list[dict[str, object]]
) -> None:
    first, again, other = (decoder.decode(rows, 60, 5.0, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    said = {token for response in [*first, *other] for token in decoder.chat.tokenizer(response.text)["input_ids"]}
    assert len(said) > 100
    assert not said & set(vision_token_ids(decoder.chat.config))


def test_a_checkpoints_own_penalties_change_nothing(
    decoder: Decoder, rows: list[dict[str, object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rollouts have none: an evaluation with them would be of another policy, and vLLM's would be too."""
    assert isinstance(decoder, TransformersDecoder)
    plain = decoder.decode(rows, 30, None, seed=0)
    for name, value in OWN.items():
        monkeypatch.setattr(decoder.model.generation_config, name, value)
    assert decoder.decode(rows, 30, None, seed=0) == plain
    drawn = {response.text for seed in range(4) for response in decoder.decode(rows[:1], 9, 5.0, seed=seed)}
    assert len(drawn) == 4
    assert decoder.model.generation_config.num_beams == OWN["num_beams"], "they are kept for whoever saves the model"


# What a checkpoint may bring, each of which changes responses or ends them.
OWN = {
    **{"repetition_penalty": 9.0, "top_k": 1, "top_p": 0.1, "min_p": 0.9, "typical_p": 0.1, "num_beams": 3},
    **{"no_repeat_ngram_size": 1, "min_new_tokens": 29, "max_time": 1e-9, "forced_eos_token_id": 2},
    **{"bad_words_ids": [[5]], "exponential_decay_length_penalty": [1, 9.0], "epsilon_cutoff": 0.9},
    **{"sequence_bias": {(7,): 9.0}, "encoder_repetition_penalty": 9.0, "renormalize_logits": True},
}


def _narrow(model: Path, folder: Path, positions: int) -> Path:
    """The same checkpoint, which says that it has so many positions."""
    shutil.copytree(model, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": positions}))
    return folder


def test_a_response_ends_where_the_context_does(small: Callable[[str], Path], tmp_path: Path) -> None:
    rows = [{"question": "What is 3 plus 4?"}, {"question": "What is 3 plus 4, and then 4 more?"}]
    with loaded(str(small("llama")), "float32") as whole:
        lengths = [whole.chat.prompt_tokens(whole.chat.prompt_text(row["question"])) for row in rows]
        before = whole.decode(rows, 12, None, seed=0)
    with loaded(str(_narrow(small("llama"), tmp_path / "narrow", max(lengths) + 3)), "float32") as decoder:
        after = decoder.decode(rows, 12, None, seed=0)
    for length, one, other in zip(lengths, before, after, strict=True):
        room = min(12, max(lengths) + 3 - length)
        assert other.think_tokens + other.answer_tokens <= room
        assert one.text.startswith(other.text)
        assert other.truncated


@pytest.mark.parametrize(
    ("changes", "context"),
    [
        ({"max_position_embeddings": 64}, 64),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}}, 256),
        ({"rope_parameters": {"rope_type": "linear", "factor": 2.0}, "max_position_embeddings": 64}, 128),
        ({"rope_parameters": {"rope_type": "default"}, "max_position_embeddings": 64}, 64),
    ],
)
def test_the_context_is_what_the_configuration_says(
    small: Callable[[str], Path], changes: dict[str, object], context: int
) -> None:
    chat = ChatFormat(str(small("llama")))
    for name, value in changes.items():
        setattr(chat.config, name, value)
    assert chat.context == context


def test_vision_markers_are_read_from_the_configuration(assets: Path) -> None:
    config = AutoConfig.from_pretrained(assets / "model")
    ids = {config.image_token_id, config.video_token_id, config.vision_start_token_id, config.vision_end_token_id}
    assert set(vision_token_ids(config)) == ids
    assert vision_token_ids(Qwen3Config()) == []


def test_a_text_model_pads_its_batch_too(small: Callable[[str], Path]) -> None:
    rows = [
        {"question": question} for question in ("What is 3 plus 4?", "And 3 plus 4 plus 4, what is that? Yes, that.")
    ]
    decoder = TransformersDecoder(ChatFormat(str(small("llama"))), "float32")
    together = decoder.decode(rows, 8, None, seed=0)
    assert together == [decoder.decode([row], 8, None, seed=0)[0] for row in rows]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("vllm") is None, reason="make setup installs vLLM")
@patch.dict(os.environ)
def test_vllm_serves_a_text_model_and_samples_the_same_for_a_seed(small: Callable[[str], Path]) -> None:
    rows = [{"question": f"What is {number} plus 2?"} for number in range(4)]
    prepare_environment()
    with loaded(str(small("llama")), "float32", backend="transformers") as decoder:
        greedy = decoder.decode(rows, 12, None, seed=0)
    with loaded(str(small("llama")), "float32", backend="vllm") as decoder:
        assert decoder.decode(rows, 12, None, seed=0) == greedy
        first, again, other = (decoder.decode(rows, 12, 1.0, seed=seed) for seed in (1, 1, 2))
        assert decoder.decode(rows[:2], 12, 1.0, seed=1) == first[:2]
    assert first == again
    assert first != other


@pytest.mark.slow
def test_an_engine_that_is_asked_for_and_cannot_serve_is_named(small: Callable[[str], Path], tmp_path: Path) -> None:
    folder = tmp_path / "odd"
    folder.mkdir()
    for file in small("llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["OddForCausalLM"]}))
    with (
        pytest.raises(ValueError, match="vLLM does not know OddForCausalLM; use transformers"),
        loaded(str(folder), "float32", backend="vllm"),
    ):
        pass
