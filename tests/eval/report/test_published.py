"""Nothing of the machine that made a run leaves it with what is published."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from eval.report.__main__ import main
from eval.report.card import write_cards
from eval.report.published import LEFT_OUT, cleaned, private, published, without_secrets
from tests.support.inputs import line
from tests.support.reports import WRONG, log, rollout, save_lines, save_rollouts

FOLDER, TOKEN, KEY = "plumbago home", "hf_abcdefghijklmnopqrstuvwx", "sk-0123456789abcdef"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/home/ann/models/qwen", "qwen"),
        ("/home/ann/models/qwen/", "qwen"),
        ("/home/ann smith/my data/rows.jsonl", "rows.jsonl"),
        ("~/models/qwen", "qwen"),
        ("~ann/models/qwen", "qwen"),
        ("../ann/pictures", "pictures"),
        ("./pictures", "pictures"),
        ("file:///home/ann/rows.jsonl", "rows.jsonl"),
        ("/home/ann/mine.py:brief", "mine.py:brief"),
        ("openai/gsm8k", "openai/gsm8k"),
        ("gsm8k", "gsm8k"),
        ("train[:100]", "train[:100]"),
        ("https://huggingface.co/datasets/a/b", "https://huggingface.co/datasets/a/b"),
        ("https://ann:secret@example.org/a/b", "https://example.org/a/b"),
        ("hf://datasets/a/b@main", "hf://datasets/a/b@main"),
        ("<think>a</think><answer>1/2</answer>", "<think>a</think><answer>1/2</answer>"),
        ("1 / 2 and/or 3", "1 / 2 and/or 3"),
        ("/", "/"),
        ("", ""),
        (r".*\.(q|k)_proj", r".*\.(q|k)_proj"),
        ("--dir=/home/ann/x --log:/home/ann/y", "--dir=x --log:y"),
        ("two lines\n/home/ann/x\nand more", "two lines\nx\nand more"),
        (3, 3),
        (None, None),
        (["/home/ann/a", {"/home/ann/b": "/home/ann/c"}], ["a", {"b": "c"}]),
        ({"/x/mine.py": 1, "/y/mine.py": 2}, {"mine.py": 1, "mine.py (2)": 2}),
    ],
)
def test_a_path_is_its_last_part_and_all_else_stays(value: Any, shown: Any) -> None:
    assert published(value) == shown


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("no task '/home/ann/t.yaml'. Shipped: gsm8k", "no task 't.yaml'. Shipped: gsm8k"),
        ("/home/ann/rows.jsonl: no row", "rows.jsonl: no row"),
        ("/srv/plumbago home/rows.jsonl: no row", "rows.jsonl: no row"),
        ("[Errno 2] No such file: '~/x/y.png'", "[Errno 2] No such file: 'y.png'"),
        ("//server/share/x: gone", "x: gone"),
        (f"401 for {TOKEN}", f"401 for {LEFT_OUT}"),
        ("row 3 of 4: a and/or b", "row 3 of 4: a and/or b"),
    ],
)
def test_messages_lose_folders_and_secrets(message: str, shown: str) -> None:
    recipe = {"data": {"a": {"path": f"/srv/{FOLDER}/rows.jsonl"}}, "trainer": {"hub_token": TOKEN}}
    assert cleaned(message, private({"recipe": recipe, "rewards": {}}, Path("/srv/run"))) == shown


def test_secrets_are_left_out_and_words_of_a_vocabulary_are_not() -> None:
    trainer = {
        **{"hub_token": TOKEN, "HUB-TOKEN": TOKEN, "openai_api_key": KEY, "client_secret": KEY, "password": 1234},
        **{"secret": [KEY], "eos_token": "<|im_end|>", "pad_token": "<pad>", "max_tokens": 5, "api_key": None},
        **{"push_to_hub": True, "use_token": False, "nested": [{"api_key": KEY}], "keys": "a"},
    }
    kept = without_secrets(trainer)
    assert TOKEN not in str(kept)
    assert KEY not in str(kept)
    assert "1234" not in str(kept)
    same = ("eos_token", "pad_token", "max_tokens", "api_key", "push_to_hub", "use_token", "keys")
    assert {key: kept[key] for key in same} == {key: trainer[key] for key in same}
    assert kept["nested"] == [{"api_key": LEFT_OUT}]
    named = {"data": {"secret": {"path": "a/b"}, "token": {"path": "c/d"}}}
    assert without_secrets(named) == named, "data may be named so"


def test_page_results_and_cards_hold_no_folder_and_no_secret(
    run: Path, evaluate: Callable[..., None], tmp_path: Path
) -> None:
    place = tmp_path / FOLDER
    home = place / "runs"
    home.mkdir(parents=True)
    stored = json.loads((run / "recipe.json").read_text())
    recipe = stored["recipe"]
    recipe["model"]["path"] = str(place / "model")
    recipe["data"]["cold"] |= {"path": str(place / "rows.jsonl"), "images": f"~/{FOLDER}/pictures"}
    recipe["data"]["hub"] = {**recipe["data"]["cold"], "path": "some/rows", "images": None}
    recipe["stages"][0] |= {"data": "hub", "trainer": {"hub_token": TOKEN, "logging_dir": f"../{FOLDER}/logs"}}
    recipe["stages"][1]["rewards"][0] |= {
        "use": f"{place / 'mine.py'}:brief",
        "api_key": KEY,
        "args": [str(place / "a")],
    }
    recipe["evaluate"] = {"tasks": [str(place / "task.yaml")], "checkpoints": ["sft", "rl"]}
    stored |= {"rewards": {str(place / "mine.py"): "d2"}, "model": "d4"}
    (run / "recipe.json").write_text(json.dumps(stored))
    for name in ("sft", "rl"):
        folder = run / "eval" / name / "task"
        folder.mkdir(parents=True)
        save_lines(folder, [line("r0", "wrong", text=WRONG, image="0" * 16)], path=str(place / "held.jsonl"))
        made = json.loads((folder / "scores.json").read_text())
        made["made"]["task"]["images"] = str(place / "pictures")
        made["made"]["checkpoint"] = str(run / name / "model")
        (folder / "scores.json").write_text(json.dumps(made))
    log(run / "sft", [{"step": 1, "think_nll": 1.0}])
    save_rollouts(run, 1, [rollout("q1", WRONG, 0.0)])
    moved = home / "one"
    run_files = [path for path in run.iterdir() if path.name != FOLDER]
    moved.mkdir()
    for path in run_files:
        path.rename(moved / path.name)
    for task in (None, "[", f"name: task\npath: held.jsonl\nimages: {place}/none\nmax_new_tokens: 9\n"):
        if task is not None:
            (place / "task.yaml").write_text(task)
        assert main([str(moved)]) == 0
        write_cards(moved, json.loads((moved / "results.json").read_text()))
        for name in ("report.html", "results.json", "results.csv", "sft/model/README.md", "rl/model/README.md"):
            text = (moved / name).read_text()
            for word in (FOLDER, str(tmp_path), TOKEN, KEY):
                assert word not in text, f"{name} holds {word}"
    page, card = (moved / "report.html").read_text(), (moved / "rl/model/README.md").read_text()
    assert '<th scope="row">model model</th><td><code>d4</code>' in page
    assert '<th scope="row">reward mine.py</th><td><code>d2</code>' in page
    assert "mine.py:brief" in page
    assert LEFT_OUT in page
    assert LEFT_OUT in card
    assert "| cold | a local file |" in card
    assert "| hub | some/rows |" in card
    assert "datasets:\n- some/rows\n" in card, "hub ids are those of the recipe, not what a path was cut to"
    assert "type: held.jsonl" not in card
    assert "base_model" not in card
    assert TOKEN in (moved / "recipe.json").read_text(), "the run's own files stay"
    assert FOLDER in (moved / "eval/rl/task/scores.json").read_text()
