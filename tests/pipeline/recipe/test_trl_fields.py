"""TRL's own settings and their limits, read from its source."""

from typing import get_args

from pipeline.recipe import trl_fields


def test_every_limit_is_on_a_setting_that_trl_has() -> None:
    known = {**trl_fields.fields("sft"), **trl_fields.fields("grpo")}
    assert trl_fields._LIMITS.keys() <= known.keys()
    for name in trl_fields._WORDS:
        assert known[name].default in get_args(known[name].type), "TRL's own default is one of the words"
