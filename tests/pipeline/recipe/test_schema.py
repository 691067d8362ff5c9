"""The recipe's schema, as editors get it."""

import json
from pathlib import Path

import jsonschema
import pytest

from pipeline.main import main
from tests.support import inputs


def test_editors_get_a_schema(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--schema"])
    assert ended.value.code == 0
    schema = json.loads(capsys.readouterr().out)
    from ruamel.yaml import YAML

    for path in inputs.RECIPES:
        jsonschema.validate(YAML(typ="safe").load(path.read_text()), schema)
    wrong = YAML(typ="safe").load((folder / "recipe.yaml").read_text())
    wrong["stages"][0]["trainer"]["learning_rate"] = -1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong, schema)
