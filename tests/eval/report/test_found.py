"""What can be read of a run, and what is noted of the rest."""

import json
from pathlib import Path
from typing import Any

import pytest

from eval.files import json_lines
from eval.report.found import Found, is_number, read_recipe
from tests.support.inputs import line

STORED: dict[str, Any] = {"recipe": {}, "rewards": {}}


@pytest.fixture
def found(tmp_path: Path) -> Found:
    return Found(tmp_path, STORED)


def _problems(found: Found) -> dict[str, tuple[str, bool]]:
    return {each["path"]: (each["problem"], each["usual"]) for each in found.missing}


def test_lines_are_read_with_their_offsets_and_are_read_again_there(found: Found) -> None:
    path = found.run / "lines.jsonl"
    rows = [{"id": "é\u2028\u0085\x0b", "n": n} for n in range(4)]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    read = [*found.lines(path)]
    assert [row for _, row in read] == rows
    assert found.missing == []
    offsets = [offset for offset, _ in read][1:3]
    assert found.lines_at(path, offsets) == dict(zip(offsets, rows[1:3], strict=True))


def test_a_text_s_own_separators_end_no_line_of_json(tmp_path: Path) -> None:
    row = {"text": "a\u2028b\u2029c\u0085d\x1ce"}
    (tmp_path / "lines.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert json_lines(tmp_path / "lines.jsonl") == [row]
    (tmp_path / "lines.jsonl").write_text('{}\n{"a": \n')
    with pytest.raises(ValueError, match=r"lines\.jsonl: line 2 is no JSON: "):
        json_lines(tmp_path / "lines.jsonl")


@pytest.mark.parametrize(
    ("text", "growing", "problem", "usual"),
    [
        ('{"a": 1}\n{"a"', True, "its last line is cut, as it is while a stage writes it and after a kill", True),
        ('{"a": 1}\n{"a"', False, "line 2 is no JSON object and is left out", False),
        ('{"a": 1}\n{"a"\n', True, "line 2 is no JSON object and is left out", False),
        (
            '{"a"\n{"a": 1}\n{"a"',
            True,
            "2 of its lines are no JSON objects and are left out, the first is line 1",
            False,
        ),
        ("", True, "is empty", True),
        ("", False, "is empty", False),
    ],
)
def test_half_a_line_at_the_end_is_usual_only_while_it_is_written(
    found: Found, text: str, growing: bool, problem: str, usual: bool
) -> None:
    path = found.run / "lines.jsonl"
    path.write_text(text)
    assert [row for _, row in found.lines(path, growing)] == [{"a": 1}] * text.count('{"a": 1}')
    assert _problems(found) == {"lines.jsonl": (problem, usual)}


def test_blank_lines_and_an_end_without_a_line_break_are_no_damage(found: Found) -> None:
    path = found.run / "lines.jsonl"
    path.write_text('{"a": 1}\n\n  \n{"a": 2}')
    assert [row["a"] for _, row in found.lines(path)] == [1, 2]
    assert found.missing == []


def test_a_problem_is_noted_once_and_a_second_one_beside_it(found: Found) -> None:
    path = found.run / "sft" / "metrics.jsonl"
    assert found.lacks(path, "half", usual=True) == "half"
    found.lacks(path, "half", usual=True)
    assert _problems(found) == {"sft/metrics.jsonl": ("half", True)}
    found.lacks(path, "gone")
    assert _problems(found) == {"sft/metrics.jsonl": ("half; gone", False)}
    after = Found(found.run, STORED, found.missing)
    after.lacks(path, "gone")
    after.lacks("words", "/home/ann/x is not there")
    assert _problems(after) == {"sft/metrics.jsonl": ("half; gone", False), "words": ("x is not there", False)}
    assert len(found.missing) == 1


def test_a_response_needs_what_is_counted_and_compared_and_the_rest_may_lack(found: Found) -> None:
    path = found.run / "completions.jsonl"
    sound = line("a", "correct", text="t")
    others = [
        {key: value for key, value in sound.items() if key != "image"},
        {"id": "b", "sample": 1, "image_removed": True, "outcome": "new", "question": "", "gold": "", "more": [1]},
    ]
    bad = [{**sound, "id": 3}, {**sound, "image": 5}, {**sound, "gold": None}, {}]
    path.write_text("".join(json.dumps(each) + "\n" for each in [sound, *others, *bad]))
    assert [row["id"] for _, row in found.responses(path)] == ["a", "a", "b"]
    assert _problems(found) == {
        "completions.jsonl": ("4 of its lines lack id or have it of another type, and are left out", False)
    }


def test_metrics_are_numbers_with_their_steps(found: Found) -> None:
    folder = found.run / "sft"
    folder.mkdir()
    assert found.metrics("sft") == [], "a stage that has logged nothing yet"
    assert found.missing == []
    lines = ['{"step": 1, "loss": 1, "note": "a", "flag": true, "kl": null, "entropy": -Infinity}', '{"loss": 2}']
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    assert found.metrics("sft") == [{"step": 1, "loss": 1}]
    assert "1 of its lines have no step" in found.missing[0]["problem"]
    assert "1 values are NaN or infinite" in found.missing[0]["problem"]
    assert "the first is entropy at step 1" in found.missing[0]["problem"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, True),
        (0.5, True),
        (True, False),
        (float("nan"), False),
        (float("inf"), False),
        (10**400, False),
        ("1", False),
    ],
)
def test_a_number_is_finite(value: Any, expected: bool) -> None:
    assert is_number(value) == expected


def test_a_recipe_is_read_with_what_older_code_did_not_store(run: Path) -> None:
    stored = read_recipe(run)
    assert stored["processes"] == 2
    (run / "recipe.json").write_text(json.dumps({"recipe": stored["recipe"]}))
    assert read_recipe(run) | {"recipe": None} == {
        **{"recipe": None, "processes": None, "data": {}, "model": None, "rewards": {}, "versions": {}, "git": None}
    }


def test_a_damaged_recipe_names_the_place(run: Path) -> None:
    stored = json.loads((run / "recipe.json").read_text())
    del stored["recipe"]["stages"][0]["kind"]
    (run / "recipe.json").write_text(json.dumps(stored))
    with pytest.raises(ValueError, match=r"recipe\.json: damaged, .*: recipe\.stages\.0\.kind: Field required"):
        read_recipe(run)
