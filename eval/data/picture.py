"""The type of a canonical row's images: `datasets.Image` that decodes to the one picture of `eval.data.images.rgb`."""

import io
import warnings
from dataclasses import dataclass, field
from typing import Any

import datasets
from datasets.features.features import register_feature
from PIL import Image

from eval.data.images import rgb


@dataclass
class Picture(datasets.Image):
    """Kept in a table's schema, so that whoever reads a row, TRL's trainers too, gets the same pixels."""

    _type: str = field(default="Picture", init=False, repr=False)

    def decode_example(self, value: Any, token_per_repo_id: Any = None) -> Any:
        """A PIL image, RGB, from {"bytes", "path"}; an image that is decoded already stays as it is."""
        if not isinstance(value, dict):
            return value
        with Image.open(io.BytesIO(value["bytes"]) if value["bytes"] is not None else value["path"]) as opened:
            return rgb(opened)


with warnings.catch_warnings():  # the function is experimental, and says so to whoever reads rows
    warnings.simplefilter("ignore")
    register_feature(Picture, "Picture")
