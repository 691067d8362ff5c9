"""Public data sets, in the exact columns of their cards, are read by the lines of a recipe alone."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from eval.chat import ChatFormat
from eval.data.rows import read
from eval.evaluate import task_rows
from eval.task import load_task
from pipeline.data.prepare import grpo_rows, rollout_rows, sft_rows
from pipeline.recipe.schema import Data
from tests.support.layouts import ALL, LAYOUTS, Layout
from tests.support.steps import grpo_stage

PAGE = Path(__file__).resolve().parents[3] / "eval" / "README.md"


@pytest.fixture(scope="module")
def chat(small: Callable[[str], Path]) -> ChatFormat:
    return ChatFormat(str(small("qwen2_5_vl")))


@pytest.mark.parametrize("layout", ALL, ids=lambda layout: layout.folder)
def test_a_layout_is_read_by_the_lines_of_a_recipe(layout: Layout, chat: ChatFormat, tmp_path: Path) -> None:
    """For GRPO and as a task of the evaluation; for SFT where it has traces."""
    data = Data.model_validate({"path": layout.path, **layout.lines})
    first = read(data)[0]
    assert (first["question"], first["answer"], first.get("choices")) == (
        layout.question,
        layout.answer,
        layout.choices,
    )
    assert [image.mode for image in first.get("images") or []] == ["RGB"] * layout.images
    assert first.get("think") == layout.think

    stage = grpo_stage("accuracy", mixed_rows="split")
    asked = grpo_rows(
        rollout_rows(data, chat, stage),
        data,
        stage.model_copy(update={"trainer": {"num_generations": 2, "per_device_train_batch_size": 2}}),
    )
    assert len(asked) == 6
    assert asked[0]["prompt"][-1]["content"] == layout.question

    task = tmp_path / "mine.yaml"
    lines = {"split": "train", **layout.lines}
    task.write_text(yaml.safe_dump({"name": "mine", "path": layout.path, **lines, "max_new_tokens": 9}))
    _, rows, unreadable = task_rows(load_task(str(task)))
    assert (len(rows), unreadable, rows[0]["answer"]) == (6, 0, layout.answer)

    if layout.think is not None:
        taught = sft_rows(data, chat)
        answer = f"<think>{layout.think}</think><answer>{layout.answer}</answer>"
        assert (len(taught), taught[0]["completion"][0]["content"]) == (6, answer)


def test_every_stand_in_has_its_lines_and_the_page_has_them_all() -> None:
    assert {path.name for path in LAYOUTS.iterdir()} == {layout.folder for layout in ALL} | {"cauldron"}
    table = dict(re.findall(r"^\| ([^|]+?) \| `([^|]*)` \|", PAGE.read_text(), re.M))
    written = {name: yaml.safe_load("{" + lines + "}") for name, lines in table.items()}
    assert {layout.data_set: layout.lines for layout in ALL}.items() <= written.items()


def test_a_layout_that_is_not_read_is_named_with_what_it_lacks() -> None:
    data = Data(path=str(LAYOUTS / "cauldron"), format="messages")
    with pytest.raises(
        ValueError, match=r"needs the columns messages or prompt or conversations; .* found: images, texts"
    ):
        read(data)
