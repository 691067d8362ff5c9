"""What a run tells others: trackers, model cards, the hub."""

import hashlib
import http.server
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, constants
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from eval.grade import graded
from eval.report.card import write_cards
from eval.report.results import write_results
from eval.scores import scores
from pipeline import hub, stages
from pipeline.checkpoint.run_folder import RunFolder
from pipeline.checkpoint.run_identity import claim
from pipeline.recipe.consistency import problems
from pipeline.recipe.file import load
from pipeline.recipe.schema import Recipe
from pipeline.sft import SegmentTrainer

SEGMENTS = {"think_nll", "answer_nll", "think_weight"}
OUTCOMES = {"outcome/malformed", "format_rate", "rewards/accuracy/mean", "completions/think_tokens"}


@pytest.fixture
def run(small: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunFolder]:
    """Trains one stage of a small text model in this process; returns the run's folder, claimed and complete."""

    def run(kind: str, **trainer: Any) -> RunFolder:
        rows = [
            {"question": f"What is {n} plus 1?", "think": f"Add one to {n}.", "answer": str(n + 1)} for n in range(4)
        ]
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        common = {"max_steps": 2, "logging_steps": 1, "gradient_checkpointing": False, "learning_rate": 1e-3, **trainer}
        stage: dict[str, Any] = {"name": kind, "kind": kind, "data": "rows", "trainer": common}
        if kind == "sft":
            stage["loss"] = {"think_weight": {"start": 0.9, "end": 0.1}}
            common["per_device_train_batch_size"] = 4
        else:
            stage["rewards"] = ["accuracy"]
            common |= {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 8}
        content = {
            "name": "told",
            "model": {"path": str(small("qwen3")), "dtype": "float32"},
            "data": {"rows": {"path": "rows.jsonl"}},
            "stages": [stage],
            "evaluate": {"tasks": [], "checkpoints": [kind]},
        }
        (tmp_path / "told.yaml").write_text(yaml.safe_dump(content))
        recipe = load(tmp_path / "told.yaml", [])
        monkeypatch.chdir(tmp_path)
        for name in ("TENSORBOARD_LOGGING_DIR", "WANDB_DIR", "WANDB_PROJECT", "MASTER_PORT"):
            monkeypatch.setenv(name, "x")  # so that what the run sets is undone
            monkeypatch.delenv(name)
        folder = RunFolder(Path("runs") / recipe.name)
        folder.root.mkdir(parents=True)
        claim(folder, recipe)
        stages._run_stage(recipe, 0, folder, first=True)
        run.recipe = recipe  # type: ignore[attr-defined]
        return folder

    return run


@pytest.mark.parametrize(("kind", "metrics"), [("sft", SEGMENTS), ("grpo", OUTCOMES)])
def test_tensorboard_gets_every_metric_that_the_file_has(
    run: Callable[..., RunFolder], kind: str, metrics: set[str]
) -> None:
    folder = run(kind, report_to="tensorboard")
    events = EventAccumulator(str(folder.stage(kind) / "tensorboard")).Reload()
    told = {
        tag.removeprefix("train/"): [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    lines = [json.loads(line) for line in (folder.stage(kind) / "metrics.jsonl").read_text().splitlines()]
    for name in metrics:
        assert told[name] == pytest.approx([line[name] for line in lines if name in line], rel=1e-6)
        assert len(told[name]) == 2


def test_a_run_has_a_port_of_its_own(run: Callable[..., RunFolder]) -> None:
    """TRL's own choice is 29500 where that is free, for each of two runs that start together."""
    run("sft")
    assert int(os.environ["MASTER_PORT"]) not in (29500, 23456, 12355, 12345)


def test_the_recipe_says_in_what_precision_and_not_the_launcher(
    run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`accelerate launch` with `mixed_precision: bf16`, on a recipe with `dtype: float32`."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    used: list[str] = []
    train = SegmentTrainer.train
    monkeypatch.setattr(
        SegmentTrainer,
        "train",
        lambda self, **given: (used.append(self.accelerator.mixed_precision), train(self, **given)),
    )
    run("sft")
    assert used == ["no"]


def test_trackio_gets_the_run_by_its_name(
    run: Callable[..., RunFolder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import trackio
    from trackio import utils

    monkeypatch.setattr(utils, "TRACKIO_DIR", tmp_path / "trackio")
    import trackio.sqlite_storage as storage

    monkeypatch.setattr(storage, "TRACKIO_DIR", tmp_path / "trackio", raising=False)
    run("sft", report_to="trackio")
    found = trackio.Api().runs("told")
    assert [each.name for each in found] == ["told-sft"]


def test_wandb_writes_beside_the_stage(run: Callable[..., RunFolder], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = run("sft", report_to="wandb")
    assert list((folder.stage("sft") / "wandb").glob("offline-run-*/run-*.wandb"))


# --- the card ---------------------------------------------------------------------------------------------------------


def _evaluate(folder: RunFolder, checkpoint: str) -> None:
    """Files as an evaluation leaves them, of four responses, one malformed."""
    texts = ["<think>Add.</think><answer>1</answer>"] * 3 + ["1"]
    lines = graded(
        [
            {
                **{"id": str(n), "sample": 0, "image_removed": False, "image": None, "prompt": "p", "question": "?"},
                **{"gold": "1", "kind": None, "choices": None, "text": text, "truncated": False},
                **{"think_tokens": 3, "answer_tokens": 2},
            }
            for n, text in enumerate(texts)
        ]
    )
    out = folder.scores(checkpoint, "sums")
    out.mkdir(parents=True)
    (out / "completions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    task = {"path": "openai/gsm8k", "config": "main", "split": "test", "revision": "abc"}
    (out / "scores.json").write_text(json.dumps({**scores(lines), "made": {"task": task}}))


def test_a_checkpoint_has_a_card_with_its_data_and_what_was_measured(
    run: Callable[..., RunFolder], tmp_path: Path
) -> None:
    folder = run("sft")
    path = folder.model("sft") / "README.md"
    before = path.read_text()
    assert "Nothing yet." in before
    _evaluate(folder, "sft")
    write_cards(folder.root, write_results(folder.root))
    card = ModelCard.load(path)
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.tags == ["trl", "sft"]
    [result] = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_revision) == ("accuracy", 0.75, "abc")
    assert "| sums | 4 | 0.750 (0.301 to 0.954) |  | 25.0% | 0.0% | 1.000 | 1.000 |" in card.text
    assert hashlib.sha256((tmp_path / "rows.jsonl").read_bytes()).hexdigest() in card.text
    assert str(tmp_path) not in card.text.partition("<details>")[0], "a path of this machine says nothing elsewhere"
    folder.verify("sft")
    for entry in json.loads((folder.stage("sft") / "COMPLETE").read_text())["files"]:
        assert entry["sha256"] in card.text


# --- the hub ----------------------------------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub's interface as an upload needs, kept in memory."""

    repos: dict[str, dict[str, Any]]
    files: dict[str, str]
    refuses = False

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.refuses:
            return self._answer({"error": "no such user"}, 403)
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self.repos[asked["name"]] = asked
            return self._answer({"url": f"{constants.ENDPOINT}/me/{asked['name']}", "id": asked["name"]})
        if self.path.endswith("/preupload/main"):
            names = [each["path"] for each in json.loads(body)["files"]]
            return self._answer(
                {"files": [{"path": name, "uploadMode": "regular", "shouldIgnore": False} for name in names]}
            )
        if self.path == "/api/validate-yaml":
            return self._answer({"errors": [], "warnings": []})
        for line in body.splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.files[entry["value"]["path"]] = entry["value"]["content"]
        return self._answer(
            {"commitUrl": f"{constants.ENDPOINT}/me/told/commit/1", "commitOid": "1", "pullRequestUrl": None}
        )

    def do_GET(self) -> None:
        self._answer({"id": "me/told", "sha": "0", "siblings": []})

    def _answer(self, content: Any, code: int = 200) -> None:
        text = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    handler = type("Handler", (Hub,), {"repos": {}, "files": {}})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield handler
        server.shutdown()


def test_a_checkpoint_is_pushed_with_its_card_once_and_only_if_asked(
    run: Callable[..., RunFolder], server: type[Hub], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run("sft", push_to_hub=True, hub_model_id="me/told", hub_private_repo=True, hub_token="t")
    assert not server.repos, "not while training"
    recipe = run.recipe  # type: ignore[attr-defined]
    server.refuses = True
    with pytest.raises(ValueError, match=r"the hub did not take me/told: .*; the same command tries again"):
        hub.push(recipe, folder)
    server.refuses = False
    hub.push(recipe, folder)
    assert (server.repos["told"]["visibility"], server.repos["told"]["organization"]) == ("private", "me")
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= server.files.keys()
    assert f"{constants.ENDPOINT}/me/told/commit/1" in capsys.readouterr().err
    server.files.clear()
    hub.push(recipe, folder)
    assert not server.files


def test_a_push_that_cannot_be_is_found_before_training(
    run: Callable[..., RunFolder], small: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    content = yaml.safe_load(
        f"""
        name: told
        model: {{path: {small("qwen3")}}}
        data: {{rows: {{path: rows.jsonl}}}}
        stages: [{{name: sft, kind: sft, data: rows, loss: token_mean, trainer: {{push_to_hub: true}}}}]
        """
    )
    found = list(problems(Recipe.model_validate(content), tmp_path))
    assert [code for _, code, _ in found] == ["hub", "hub"]
    assert "Set hub_model_id" in found[0][2]
    assert "HF_TOKEN" in found[1][2]
