"""A user's mistake as the one line that it gets."""

import json

import pytest

from pipeline.recipe.problem import Problem, RecipeError, as_recipe_error, suggest


def test_a_problem_says_the_same_as_a_line_and_as_json() -> None:
    of_row, of_file = (
        Problem("rows.jsonl:3", "empty_answer", "there is no answer", id="r3"),
        Problem("a.yaml", "x", "y"),
    )
    assert str(of_row) == "ERROR rows.jsonl:3 id=r3 empty_answer: there is no answer"
    assert str(RecipeError([of_row, of_file])) == f"{of_row}\nERROR a.yaml id=- x: y"
    assert Problem(**json.loads(of_row.json())) == of_row


def test_only_what_a_user_can_mend_becomes_a_line_and_one_line_stays_as_it_is() -> None:
    with pytest.raises(RecipeError) as caught, as_recipe_error("runs/x", "run_folder"):
        raise ValueError("it is damaged\nat byte 7")
    assert caught.value.problems == [Problem("runs/x", "run_folder", "it is damaged")]
    with pytest.raises(RecipeError) as again, as_recipe_error("elsewhere", "other"):
        raise caught.value
    assert again.value is caught.value
    with pytest.raises(KeyError), as_recipe_error("runs/x", "run_folder"):
        raise KeyError("ours")


def test_an_unknown_word_gets_the_nearest_or_all_that_are_known_unless_they_are_many() -> None:
    assert suggest("acuracy", ["accuracy", "format"]) == "Did you mean 'accuracy'?"
    assert suggest("zzz", ["accuracy", "format"]) == "Known: accuracy, format"
    assert suggest("zzz", [f"word{n}" for n in range(20)]) == ""
