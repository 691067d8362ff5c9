"""README and the pages: links lead somewhere, messages are those of the source, commands print what is shown."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.recipe.file import load
from tests.support.inputs import stand_ins
from tests.test_commands import PAGES, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SOURCE = "\n".join(
    path.read_text() for folder in ("pipeline", "eval", "rewards") for path in (ROOT / folder).rglob("*.py")
)


def _anchors(page: Path) -> set[str]:
    """The headings of a page as GitHub links to them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        place = (page.parent / file).resolve() if file else page
        assert place.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in _anchors(place), f"{page.name}: {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_row_of_a_table_has_more_cells_than_its_head(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for table in re.findall(r"(?:^\|.*\n)+", text, re.M):
        head, *rows = (re.sub(r"\\\||`[^`]*`", "", line).count("|") for line in table.splitlines())
        assert max(rows) <= head, f"{page.name}: {table[:80]}"
        assert all(line.endswith("|") for line in table.splitlines()), f"{page.name}: {table[:80]}"


def test_readme_is_read_in_a_minute() -> None:
    assert 120 <= len(README.splitlines()) <= 160
    assert len(README.split()) <= 1_500


def test_readmes_picture_is_small_and_made_by_a_script_that_is_there() -> None:
    [picture] = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert (ROOT / picture).stat().st_size <= 300_000
    with Image.open(ROOT / picture) as image:
        assert image.width >= 1000
    assert (ROOT / "tests" / "support" / "picture.py").exists()


def test_readmes_recipe_is_one_that_passes_its_check_on_stand_ins(
    tmp_path: Path, small: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.main import main

    [recipe] = re.findall(r"^```yaml\n(name: qwen.*?)^```", README, re.M | re.S)
    [reward] = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    (tmp_path / "my_rewards.py").write_text(reward)
    (tmp_path / "recipe.yaml").write_text(recipe)
    assert len(recipe.splitlines()) <= 22
    monkeypatch.chdir(tmp_path)
    overrides = stand_ins(load(tmp_path / "recipe.yaml", []), small, tmp_path)
    assert main(["recipe.yaml", "--check", *overrides]) == 0
    assert ": no problem found" in capsys.readouterr().out


TROUBLE = (ROOT / "TROUBLESHOOTING.md").read_text(encoding="utf-8")


def _table(heading: str) -> list[list[str]]:
    section = TROUBLE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in row] for row in rows[2:]]


def test_at_least_25_messages_have_a_cause_and_a_cure() -> None:
    rows = _table("Messages")
    assert len(rows) >= 25
    assert all(len(row) == 3 and all(row) for row in rows)


@pytest.mark.parametrize("message", [row[0].strip("`") for row in _table("Messages")])
def test_a_message_that_the_page_explains_is_one_that_is_printed(message: str) -> None:
    """The fixed parts of a message stand in the source, whatever is put in between; of two libraries', in theirs."""
    words = re.sub(r"\s+", r"\\W+", re.escape(message).replace(r"\ ", " "))
    joined = re.sub(r'"\s*\n\s*f?"', "", SOURCE)  # texts that go on in the next line
    joined = re.sub(r"\{NUMA\}", "libnuma.so.1", joined)
    assert re.search(words, joined) or message == "Config name is missing", message


def test_every_environment_variable_that_we_set_is_on_the_page() -> None:
    from eval import environment

    names = {*environment._QUIET, *environment._VLLM_ON_CPU}
    libraries = {
        "HF_HUB_DISABLE_TELEMETRY",
        "TOKENIZERS_PARALLELISM",
        "TQDM_DELAY",
        "TQDM_MININTERVAL",
        "VLLM_NO_USAGE_STATS",
    }
    assert {name for name in names - libraries if name not in TROUBLE} == set()


# --- commands of the pages, run from a clean clone --------------------------------------------------------------------


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The committed tree in a folder of its own."""
    folder = tmp_path_factory.mktemp("clone") / "balanced-thinking"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(folder)], check=True)
    return folder


def _run(command: str, folder: Path) -> str:
    """What a command of a page prints, run in `folder` with this environment's Python."""
    words = command.split()
    words[0] = {"python": sys.executable}.get(words[0], words[0])
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode in {0, 2}, done.stdout + done.stderr
    return done.stdout + done.stderr


def _shape(text: str) -> list[str]:
    """A text's lines without what differs from run to run: numbers and widths."""
    lines = (re.sub(r"[-+]?\d[\d,]*(\.\d+)?( [kMG]B)?", "N", line) for line in text.splitlines())
    return [re.sub(r"[\s━─┏┳┓┡╇┩└┴┘]+", " ", line).strip() for line in lines if re.search(r"\w", line)]


def _block(page: str, beginning: str) -> list[str]:
    """The shape of what a page shows below the command that begins so."""
    text = (ROOT / page).read_text(encoding="utf-8")
    block = next(block for block in text.split("```")[1::2] if f"$ {beginning}" in block)
    return _shape(block.partition(f"$ {beginning}")[2].partition("\n")[2])


@pytest.mark.slow
def test_the_score_command_of_the_page_about_rewards_prints_such_a_line(clone: Path) -> None:
    page = (ROOT / "rewards" / "README.md").read_text(encoding="utf-8")
    [reward] = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    [command] = re.findall(r"^\$ (python -m rewards score .*)$", page, re.M)
    (clone / "my_rewards.py").write_text(reward)
    texts = ["<think>3 + 4</think><answer>7</answer>", "<think>3 + 4</think><answer>8</answer>", "7"]
    rows = [{"id": index, "completion": text, "answer": "7"} for index, text in enumerate(texts)]
    (clone / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert _shape(_run(command, clone)) == _block("rewards/README.md", "python -m rewards score")
    scores = [json.loads(line)["reward"] for line in (clone / "scores.jsonl").read_text().splitlines()]
    assert scores == [1.0, 0.0, 0.0]


@pytest.mark.slow
def test_the_checks_of_the_pages_print_such_tables_and_plans(clone: Path, assets: Path) -> None:
    (clone / "recipes" / "demo" / "assets").symlink_to(assets)
    printed = _shape(_run("python pipeline/run.py recipes/own_reward.yaml --check", clone))
    shown = _block("rewards/README.md", "python pipeline/run.py recipes/own_reward.yaml --check")
    begin = printed.index(shown[0])
    assert printed[begin : begin + len(shown)] == shown
    assert not [line for line in printed if line.startswith("WARNING")], "no reward of a page draws a warning"
    few = "grpo.trainer.per_device_train_batch_size=8"  # the small demo has two questions
    printed = _shape(_run(f"python pipeline/run.py recipes/demo.yaml --check {few}", clone))
    plan = _block("pipeline/check/README.md", "python pipeline/run.py recipes/demo.yaml --check")
    assert {*plan} - {"..."} <= {*printed}


@pytest.mark.slow
def test_the_evaluation_commands_of_readme_go_through_on_a_small_model(clone: Path, assets: Path) -> None:
    [task] = re.findall(r"^```yaml\n(# my\.yaml.*?)^```", README, re.M | re.S)
    (clone / "my.yaml").write_text(task.replace("1024", "4"))
    rows = [{"question": f"{n} + 1?", "answer": str(n + 1)} for n in range(4)]
    (clone / "questions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    printed = _shape(_run(f"python -m eval {assets / 'model'} --task my.yaml --samples 2 --out evals/a", clone))
    assert [line for line in printed if line.startswith("checkpoint task n accuracy")]
    compared = _run("python -m eval.compare evals/a evals/a", clone)
    assert "mine, greedy: no difference shown" in compared
