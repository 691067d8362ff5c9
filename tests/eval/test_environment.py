"""The environment that libraries get."""

import os
from importlib import metadata
from unittest.mock import patch

from eval.environment import PACKAGES, prepare_environment, versions


def test_what_a_user_has_set_stays_and_the_rest_is_set() -> None:
    with patch.dict(os.environ, {"VLLM_LOGGING_LEVEL": "DEBUG"}):
        os.environ.pop("TRANSFORMERS_VERBOSITY", None)
        prepare_environment()
        assert os.environ["VLLM_LOGGING_LEVEL"] == "DEBUG"
        assert os.environ["TRANSFORMERS_VERBOSITY"] == "error"


def test_versions_are_those_that_are_installed() -> None:
    installed = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    assert versions() == {name: installed[name] for name in PACKAGES if name in installed}
