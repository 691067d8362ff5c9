"""lmms-eval's run and ours on one checkpoint: a small model that was taught right, wrong and malformed responses."""

import importlib.util
import json
import os
import re
import runpy
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from datasets import Dataset, DatasetDict, load_from_disk
from transformers import AutoModelForImageTextToText

from eval.chat import ChatFormat
from eval.checkpoint import opened
from eval.data.rows import read
from eval.evaluate import evaluate, task_rows
from eval.files import json_lines
from eval.task import Decoding, Task
from rewards.response import render
from tests.support.families import SIDE
from tests.support.inputs import iconqa, scienceqa

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = ROOT / ".venv-lmms-eval"
HARNESS = ROOT / "eval" / "harness"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not (ENVIRONMENT / "ready").exists(), reason="lmms-eval is not installed: make .venv-lmms-eval/ready"
    ),
]

MAX_NEW_TOKENS = 64
# What the model is taught to say to each row, and what our verifier should make of it.
SAID = {
    ("scienceqa", "0"): (render("I see a dog.", "A"), "correct"),
    ("scienceqa", "1"): (render("It purrs.", "A"), "wrong"),
    ("scienceqa", "2"): ("<think>A dog.<answer>A</answer>", "malformed"),
    ("scienceqa", "3"): (render("It purrs.\n\nA cat.", "(B) cat"), "correct"),
    ("scienceqa", "4"): ("A", "malformed"),
    ("scienceqa", "5"): (render("It purrs. " * 12, "B"), "truncated"),
    ("iconqa", "1"): (render("Four.", "4.0"), "correct"),
    ("iconqa", "2"): (render("It is round.", "circle"), "correct"),
    ("iconqa", "3"): (render("One.", "1,000"), "wrong"),
    ("iconqa", "4"): (render("The last.", "A or B"), "unparseable"),
    ("iconqa", "5"): (render("Half of it.", r"(1+x)/2"), "correct"),
}

Lines = list[dict[str, Any]]


class Theirs(NamedTuple):
    """What lmms-eval left."""

    samples: dict[str, Lines]  # by task
    results: dict[str, Any]
    said: dict[str, str]  # its log: rendered prompt to response


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hooks", HARNESS / "hooks.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `scienceqa`, saved, and `iconqa.parquet` with one more row, whose answer only algebra compares."""
    folder = tmp_path_factory.mktemp("data")
    DatasetDict(test=load_from_disk(scienceqa(folder / "raw"))).save_to_disk(folder / "scienceqa")
    rows = Dataset.from_parquet(str(iconqa(folder / "raw")))
    algebra = rows[0] | {"question_id": "5", "question": "Half of x plus 1?", "answer": r"\frac{x+1}{2}"}
    Dataset.from_list([*rows, algebra], features=rows.features).to_parquet(folder / "iconqa.parquet")
    return folder


@pytest.fixture(scope="module")
def tasks(data: Path) -> dict[str, Task]:
    paths = {"scienceqa": data / "scienceqa" / "test", "iconqa": data / "iconqa.parquet"}
    return {
        name: Task(name=name, path=str(path), format=name, max_new_tokens=MAX_NEW_TOKENS)
        for name, path in paths.items()
    }


@pytest.fixture(scope="module")
def checkpoint(small: Callable[[str], Path], tasks: dict[str, Task], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Learns `SAID` by heart."""
    chat = ChatFormat(str(small("qwen2_5_vl")))
    rows = [(name, row) for name, task in tasks.items() for row in read(task)]
    prompts = [chat.prompt_text(row["question"], row["images"]) for _, row in rows]
    texts = [
        prompt + SAID[name, row["id"]][0] + "<|im_end|>" for prompt, (name, row) in zip(prompts, rows, strict=True)
    ]
    inputs = {"images": [row["images"] for _, row in rows], "padding": True, "return_tensors": "pt"}
    batch = chat.processor(text=texts, **inputs)
    asked = chat.processor(text=prompts, **inputs)["attention_mask"].sum(dim=1, keepdim=True)
    taught = (torch.arange(batch["input_ids"].shape[1]) >= asked) & (batch["attention_mask"] == 1)
    labels = batch["input_ids"].where(taught, -100)
    model = AutoModelForImageTextToText.from_pretrained(chat.checkpoint, dtype="float32")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(500):  # 103 are enough
        loss = model(**batch, labels=labels).loss
        if loss < 0.01:
            break
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    folder = tmp_path_factory.mktemp("taught")
    model.save_pretrained(folder)
    chat.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def ours(checkpoint: Path, tasks: dict[str, Task], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Lines]:
    """The lines of our evaluation by task."""
    out = tmp_path_factory.mktemp("ours")
    with opened(str(checkpoint), "bfloat16", backend="transformers") as found:
        evaluate(found, [task_rows(task) for task in tasks.values()], out, Decoding(batch_size=4), "ours")
    lines = {name: json_lines(out / task.name / "completions.jsonl") for name, task in tasks.items()}
    return {name: [line for line in lines[name] if not line["image_removed"]] for name in tasks}


@pytest.fixture(scope="module")
def theirs(checkpoint: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Theirs:
    """A run from elsewhere than the repository, over copies of the data."""
    folder = tmp_path_factory.mktemp("theirs")
    (folder / "scienceqa.yaml").write_text(
        f"include: {HARNESS}/ours_scienceqa_img.yaml\ntask: scienceqa_copy\n"
        f"dataset_path: {data}/scienceqa\ndataset_name: null\ndataset_kwargs: {{load_from_disk: true}}\n"
    )
    (folder / "iconqa.yaml").write_text(
        f"include: {HARNESS}/ours_iconqa.yaml\ntask: iconqa_copy\n"
        f"dataset_path: parquet\ndataset_kwargs: {{data_files: {{test: {data}/iconqa.parquet}}}}\n"
    )
    pixels = f"min_pixels={SIDE**2},max_pixels={(2 * SIDE) ** 2}"  # the processor's own, which lmms-eval would replace
    run = subprocess.run(
        [
            *(ENVIRONMENT / "bin" / "python", "-m", "lmms_eval", "--tasks", "scienceqa_copy,iconqa_copy"),
            *("--model", "qwen2_5_vl", "--model_args", f"pretrained={checkpoint},device_map=cpu,{pixels}"),
            *("--device", "cpu", "--gen_kwargs", f"max_new_tokens={MAX_NEW_TOKENS}", "--include_path", str(folder)),
            *("--log_samples", "--output_path", str(folder / "out"), "--verbosity", "DEBUG"),
        ],
        cwd=folder,
        env={**os.environ, "HF_HOME": str(folder / "home"), "HF_DATASETS_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    log = re.sub(r"\x1b\[[\d;]*m", "", run.stdout)
    said = re.findall(r" - Question: (.*?)\n[\d-]{10} [^\n]* - Model Response: (.*?)\n[\d-]{10} ", log, re.DOTALL)
    [results] = (folder / "out").rglob("*_results.json")
    found = json.loads(results.read_text())["results"]
    samples = {name: next((folder / "out").rglob(f"*_samples_{name}_copy.jsonl")) for name in ("scienceqa", "iconqa")}
    return Theirs(
        {name: json_lines(path) for name, path in samples.items()},
        {name: found[f"{name}_copy"] for name in samples},
        dict(said),
    )


def test_rows_and_conversations_are_those_of_our_evaluation(
    hooks: ModuleType, data: Path, tasks: dict[str, Task], checkpoint: Path
) -> None:
    chat = ChatFormat(str(checkpoint))
    scienceqa, iconqa = load_from_disk(data / "scienceqa")["test"], Dataset.from_parquet(str(data / "iconqa.parquet"))
    for name, docs in {"scienceqa": hooks.scienceqa(scienceqa), "iconqa": hooks.iconqa(iconqa)}.items():
        for doc, row in zip(docs, read(tasks[name]), strict=True):
            for column in ("id", "question", "answer", "kind", "choices"):
                assert doc[column] == row[column]
            conversation = chat.conversation(row["question"], row["images"])
            assert _in_pixels(hooks.doc_to_messages(doc), "url") == _in_pixels(conversation, "image")


def _in_pixels(conversation: list[dict[str, Any]], key: str) -> list[Any]:
    """A conversation with images that can be compared; until it is rendered, lmms-eval has them under `url`."""
    return [
        (turn["role"], [part[key].tobytes() if part["type"] == "image" else part for part in turn["content"]])
        for turn in conversation
    ]


def test_a_row_that_cannot_be_read_is_left_out(hooks: ModuleType, data: Path) -> None:
    table = load_from_disk(data / "scienceqa")["test"]
    broken = table.map(lambda row, index: {"answer": 7 if index == 2 else row["answer"]}, with_indices=True)
    with pytest.warns(UserWarning, match="1 of 6 rows cannot be read"):
        assert hooks.scienceqa(broken)["id"][:] == ["0", "1", "3", "4", "5"]


def test_both_agree_on_every_prompt_response_and_score(
    ours: dict[str, Lines], theirs: Theirs, checkpoint: Path, tasks: dict[str, Task], tmp_path: Path
) -> None:
    chat, table = (
        ChatFormat(str(checkpoint)),
        ["| row | prompt | response | ours | lmms-eval |", "|---|---|---|---|---|"],
    )
    for name, lines in ours.items():
        for row, line, sample in zip(read(tasks[name]), lines, theirs.samples[name], strict=True):
            prompt = chat.prompt_text(row["question"], row["images"])
            answered = theirs.said.get(prompt)
            same = [answered is not None, line["text"] == answered == sample["filtered_resps"]]
            prompts, responses = ("equal" if each else "different" for each in same)
            table.append(f"| {name} {row['id']} | {prompts} | {responses} | {line['outcome']} | {sample['outcome']} |")
            assert all(same), table[-1]
            assert sample["exact_match"] == (line["outcome"] == "correct"), table[-1]
            assert row["id"] == line["id"] == sample["id"]
            taught, outcome = SAID[name, row["id"]]
            assert taught.startswith(line["text"])  # all of it, but for the truncated one
            assert line["outcome"] == outcome
        right = [line["outcome"] == "correct" for line in lines]
        assert theirs.results[name]["exact_match,none"] == pytest.approx(sum(right) / len(right))
    (tmp_path / "agreement.md").write_text("\n".join(table))
    print("", *table, sep="\n")


def test_lmms_evals_own_scoring_gives_a_right_answer_in_our_form_nothing() -> None:
    [package] = ENVIRONMENT.glob("lib/python*/site-packages/lmms_eval")
    score = runpy.run_path(str(package / "tasks" / "scienceqa" / "utils.py"))["sqa_process_results"]
    without_thinking = runpy.run_path(str(package / "api" / "reasoning.py"))["strip_reasoning_tags"]
    doc, response = {"choices": ["dog", "cat"], "answer": 1}, render("It purrs.", "B")
    assert score(doc, ["B"]) == {"exact_match": 1.0}
    assert score(doc, [response]) == {"exact_match": 0.0}
    assert score(doc, [without_thinking(response, [["<think>", "</think>"]])]) == {"exact_match": 0.0}
