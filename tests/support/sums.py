"""Four sums as the rows of any family, and a trainer of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage
from trl import SFTConfig

from eval.chat import ChatFormat
from pipeline.data.prepare import sft_rows
from pipeline.recipe.schema import Data
from pipeline.sft import SegmentTrainer
from tests.support.families import VLMS

SUMS = [(3, 4), (6, 2), (5, 5), (1, 8)]
ROWS = [
    {
        "id": str(index),
        "question": f"What is {a} plus {b}?",
        "think": f"I see {a} and {b}; é ≠ 数.{' Yes!' * index} Together they are {a + b}.",
        "answer": str(a + b),
    }
    for index, (a, b) in enumerate(SUMS)
]


def sums(folder: Path) -> Callable[..., Data]:
    """The rows for a family: text, or with an image each, or `mixed`, with no, one, one and two of different sizes."""
    text = Features({name: Value("string") for name in ROWS[0]})
    Dataset.from_list(ROWS, features=text).to_parquet(folder / "text.parquet")
    for name, counts in (("images", (1, 1, 1, 1)), ("mixed", (0, 1, 1, 2))):
        rows = [{**row, "images": _pictures(count)} for row, count in zip(ROWS, counts, strict=True)]
        features = Features({**text, "images": List(Image())})
        Dataset.from_list(rows, features=features).to_parquet(folder / f"{name}.parquet")

    def data(family: str, images: str = "images") -> Data:
        return Data(path=str(folder / f"{images if family in VLMS else 'text'}.parquet"))

    return data


def _pictures(count: int) -> list[PILImage.Image]:
    noise = torch.Generator().manual_seed(count)
    sizes = [(60, 70), (120, 60)][:count]
    return [
        PILImage.fromarray(torch.randint(0, 256, (*size, 3), generator=noise).to(torch.uint8).numpy()) for size in sizes
    ]


def arguments(folder: Path) -> dict[str, Any]:
    return {
        "output_dir": str(folder),
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "model_init_kwargs": {"dtype": "float32"},
        "per_device_train_batch_size": 2,
    }


def sft_trainer(chat: ChatFormat, rows: Data, folder: Path) -> SegmentTrainer:
    return SegmentTrainer(
        model=chat.checkpoint,
        args=SFTConfig(**arguments(folder), max_length=None),
        train_dataset=sft_rows(rows, chat),
        chat=chat,
        loss="token_mean",
    )
