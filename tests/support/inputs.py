"""Small data in exactly the formats that the recipes name, for the hub's data sets that they stand in for."""

import io
import json
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from datasets import Dataset, Features, Image, List, Value
from PIL import Image as PILImage

from pipeline.recipe.schema import Recipe

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = [ROOT / "recipes" / "benchmark" / f"{name}.yaml" for name in ("base", "arm", "ablation")]
RECIPES = [path for folder in ("", "controls", "paper") for path in sorted((ROOT / "recipes" / folder).glob("*.yaml"))]
RECIPES += BENCHMARK


def launched_with(path: Path) -> dict[str, str]:
    """What `accelerate launch --config_file` gives to each process, of how the model is cut."""
    arguments = launch_command_parser().parse_args(["--config_file", str(path), "pipeline/run.py"])
    arguments, _, _ = _validate_launch_command(arguments)
    arguments.deepspeed_fields_from_accelerate_config = ""
    if arguments.use_deepspeed:
        _, made = prepare_deepspeed_cmd_env(arguments)
    else:
        made = prepare_multi_gpu_env(arguments)
    return {name: value for name, value in made.items() if "FSDP" in name or "DEEPSPEED" in name}


def cut_by(name: str, scratch: Path) -> dict[str, str]:
    """The environment of the launch file `name`. ZeRO-3 keeps no weight whole, small as it is."""
    environment = launched_with(ROOT / "recipes" / "accelerate" / f"{name}.yaml")
    if name == "zero3":
        zero = {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True, "stage3_param_persistence_threshold": 0}
        batch = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
        settings = {"zero_optimization": zero, **dict.fromkeys((*batch, "gradient_clipping"), "auto")}
        (scratch / "zero3.json").write_text(json.dumps({**settings, "bf16": {"enabled": "auto"}}))
        environment["ACCELERATE_DEEPSPEED_CONFIG_FILE"] = str(scratch / "zero3.json")
    return environment


def launch_under(
    monkeypatch: pytest.MonkeyPatch, name: str, folder: Path = ROOT / "recipes" / "accelerate"
) -> dict[str, str]:
    """As a process that the launch file starts; with the environment that it sets."""
    environment = launched_with(folder / f"{name}.yaml")
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    return environment


def two_short_stages(folder: Path, model: str, **rollouts: Any) -> Path:
    """A recipe in `folder` with its rows: 600 short steps of SFT, to be stopped in, and one of GRPO."""
    rows = "".join(f'{{"question": "{n}+1?", "think": "Add one to {n}.", "answer": "{n + 1}"}}\n' for n in range(64))
    (folder / "rows.jsonl").write_text(rows)
    common = {"per_device_train_batch_size": 2, "gradient_checkpointing": False, "learning_rate": 1e-3}
    sft = {"name": "sft", "kind": "sft", "data": "rows", "loss": "token_mean", "trainer": {**common, "max_steps": 600}}
    settings = {**common, "max_steps": 1, "num_generations": 2, "max_completion_length": 8, **rollouts}
    grpo = {"name": "grpo", "kind": "grpo", "data": "rows", "rewards": ["format"], "trainer": settings}
    recipe = {
        "name": "short",
        "model": {"path": model, "dtype": "float32"},
        "data": {"rows": {"path": "rows.jsonl"}},
        "stages": [sft, grpo],
    }
    (folder / "small.yaml").write_text(json.dumps(recipe))
    return folder / "small.yaml"


def wait_for_a_loss(job: subprocess.Popen[bytes], log: Path) -> None:
    """Until the run says one, or has ended."""
    deadline = time.monotonic() + 240
    while ", loss " not in log.read_text() and time.monotonic() < deadline and job.poll() is None:
        time.sleep(0.2)


def picture(path: Path, number: int, size: tuple[int, int] = (56, 56)) -> Path:
    """A small image that no other number has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    PILImage.fromarray(noise).save(path)
    return path


def mulberry(folder: Path, count: int = 8) -> Path:
    """Osilly/Vision-R1-cold's vision_r1_mulberry_sft_full.json: user and assistant, `images`, no id."""
    answers = ["Final Answer:B. cat", "Final Answer: option B", "**Final Answer:** B", "B.\nAnswer:B", "7"]
    answers.append("Final Answer:7")
    rows = []
    for number in range(count):
        name = f"Mulberry-SFT/{number}.png"
        picture(folder / "images" / name, number)
        reply = f"<think>\nLook at picture {number}.\n</think>\n\n<answer>\n{answers[number % len(answers)]}\n</answer>"
        turns = [{"from": "user", "value": f"<image>\nWhich one, {number}?"}, {"from": "assistant", "value": reply}]
        rows.append({"images": [name], "conversations": turns})
    return _json(folder / "vision_r1_mulberry_sft_full.json", rows)


def llava_cot(folder: Path, count: int = 8) -> Path:
    """Osilly/Vision-R1-cold's vision_r1_llava_cot_full.json: human and gpt, `image`, an id."""
    rows = []
    for number in range(count):
        name = f"sqa/train/{number}/image.png"
        picture(folder / "images" / name, 100 + number)
        reply = f"<think>Count to {number}.</think><answer>Final Answer:{number}</answer>"
        turns = [{"from": "human", "value": f"<image>\nHow many, {number}?"}, {"from": "gpt", "value": reply}]
        rows.append({"id": f"sqa/{number}", "image": name, "conversations": turns})
    return _json(folder / "vision_r1_llava_cot_full.json", rows)


def geometry3k(folder: Path, count: int = 64) -> Path:
    """hiyouga/geometry3k and Osilly/Vision-R1-rl: parquet with images inside."""
    features = Features(images=List(Image()), problem=Value("string"), answer=Value("string"))
    rows = []
    for number in range(count):
        image = {"bytes": picture(folder / "raw.png", 200 + number).read_bytes()}
        rows.append({"images": [image], "problem": f"<image>Find x in {number}.", "answer": str(number)})
    path = folder / "train-00000-of-00001.parquet"
    Dataset.from_list(rows, features=features).to_parquet(path)
    return path


def scienceqa(folder: Path, count: int = 6) -> Path:
    """lmms-lab/ScienceQA, as `save_to_disk` keeps it."""
    text = Value("string")
    features = {"image": Image(), "question": text, "choices": List(text), "answer": Value("int8"), "hint": text}
    rows = [
        {
            "image": str(picture(folder / "raw" / f"{n}.png", 300 + n)),
            "question": f"Which is {n}?",
            "choices": ["dog", "cat"],
            "answer": n % 2,
            "hint": "It purrs." if n % 2 else "",
        }
        for n in range(count)
    ]
    Dataset.from_list(rows, features=Features(features)).save_to_disk(folder / "scienceqa")
    return folder / "scienceqa"


def iconqa(folder: Path) -> Path:
    """lmms-lab/ICON-QA: its three types of question, in parquet."""
    text, image = Value("string"), Image()
    columns = dict.fromkeys(("question_id", "question", "choices", "answer", "ques_type", "label", "grade"), text)
    columns |= dict.fromkeys(("query_image", "choice_image_0", "choice_image_1"), image)
    shown = [str(picture(folder / "raw" / f"{n}.png", 400 + n)) for n in range(3)]
    words = "choose_txt"
    rows = [
        {"question_id": "1", "question": "How many?", "ques_type": "fill_in_blank", "answer": "4"},
        {
            "question_id": "2",
            "question": "Which?",
            "ques_type": words,
            "choices": "square,circle",
            "answer": "circle",
        },
        {
            "question_id": "3",
            "question": "More?",
            "ques_type": words,
            "choices": "1,000,2,000",
            "answer": "2,000",
        },
        {
            "question_id": "4",
            "question": "Which picture?",
            "ques_type": "choose_img",
            "choices": "choice_0.png,choice_1.png",
            "answer": "choice_1.png",
            "choice_image_0": shown[1],
            "choice_image_1": shown[2],
        },
    ]
    whole = [dict.fromkeys(columns) | {"query_image": shown[0]} | row for row in rows]
    Dataset.from_list(whole, features=Features(columns)).to_parquet(folder / "iconqa.parquet")
    return folder / "iconqa.parquet"


def conversations(folder: Path, shape: str, count: int = 4) -> Path:
    """TRL's conversational rows: `messages`, `prompt-completion`, the same in plain text, or for RL `prompt-answer`."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        asked = [{"role": "user", "content": f"What is {number} plus 1?"}]
        thought, answer = f"Add one to {number}.", str(number + 1)
        reply = [{"role": "assistant", "content": f"<think>{thought}</think><answer>{answer}</answer>"}]
        system = [{"role": "system", "content": "Think first."}]
        rows.append(
            {
                "messages": {"messages": [*system, *asked, *reply]},
                "thinking": {"messages": [*asked, {"role": "assistant", "thinking": thought, "content": answer}]},
                "prompt-completion": {"prompt": [*system, *asked], "completion": reply},
                "plain": {"prompt": asked[0]["content"], "completion": reply[0]["content"]},
                "prompt-answer": {"prompt": asked, "answer": answer},
            }[shape]
        )
    path = folder / f"{shape}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def drawings(folder: Path) -> dict[str, Path]:
    """One drawing, dark on white, in files of many kinds; all but `cmyk` hold exactly its pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    ink = np.full((56, 56), 255, dtype=np.uint8)
    ink[6:20, 4:40], ink[30:52, 24:34] = 0, 68
    grey = PILImage.fromarray(ink)
    black, alpha = PILImage.new("L", grey.size), PILImage.fromarray(255 - ink)
    palette = PILImage.fromarray(np.select([ink == 0, ink == 68], [1, 2], 0).astype(np.uint8), mode="P")
    palette.putpalette([9, 9, 9, 0, 0, 0, 68, 68, 68])
    turned = PILImage.Exif()
    turned[0x0112] = 6
    made = {
        "rgb": (grey.convert("RGB"), {}),
        "grey": (grey, {}),
        "rgba": (PILImage.merge("RGBA", (black, black, black, alpha)), {}),
        "la": (PILImage.merge("LA", (black, alpha)), {}),
        "palette": (palette, {"transparency": 0}),
        "sixteen": (PILImage.fromarray(ink.astype(np.uint16) * 257), {}),
        "exif": (grey.convert("RGB").transpose(PILImage.Transpose.ROTATE_90), {"exif": turned}),
    }
    for name, (image, settings) in made.items():
        image.save(folder / f"{name}.png", **settings)
    grey.convert("CMYK").save(folder / "cmyk.jpg", quality=100)
    return {path.stem: path for path in sorted(folder.glob("*.*"))}


def jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    """Writes the rows as JSON lines; the path, as recipes and tasks have it."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def _json(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps(rows, indent=1))
    return path


def thoughts(folder: Path, name: str, count: int = 64) -> Path:
    """The canonical rows, with think traces; those of another name ask something else."""
    rows = [{"question": f"{name}: {n}?", "think": f"Add one to {n}.", "answer": str(n + 1)} for n in range(count)]
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stand_ins(recipe: Recipe, small: Callable[[str], Path], folder: Path) -> list[str]:
    """Overrides that put a small model of the recipe's family and small data in the place of what the hub has."""
    families = {"llava": "llava_next", "gemma": "gemma3"}
    family = next((name for part, name in families.items() if part in recipe.model.path), "qwen2_5_vl")
    overrides = [f"model.path={small(family)}"]
    trained = {name for stage in recipe.stages if stage.kind == "sft" for name in (stage.data, stage.eval_data)}
    for name, data in recipe.data.items():
        if data.format == "vision_r1":
            path = mulberry(folder)
        else:
            path = thoughts(folder, name) if name in trained else geometry3k(folder)
        overrides.append(f"data.{name}.path={path}")
        if data.images:
            overrides.append(f"data.{name}.images={folder / 'images'}")
        if data.file:
            overrides.append(f"data.{name}.file=null")
    if recipe.evaluate:
        task = f"name: held\npath: {scienceqa(folder)}\nformat: scienceqa\nmax_new_tokens: 9\n"
        (folder / "held.yaml").write_text(task)
        overrides.append(f"evaluate.tasks=[{folder / 'held.yaml'}]")
    return overrides


def line(id: str, outcome: str, **changes: Any) -> dict[str, Any]:
    """A line of completions.jsonl, greedy unless said otherwise."""
    parse = "missing_tag" if outcome == "malformed" else "ok"
    return {
        **{"id": id, "sample": 0, "image_removed": False, "image": None, "question": f"{id}?", "gold": "4"},
        **{"outcome": outcome, "parse": parse, "lenient": outcome, "think_tokens": 10, "answer_tokens": 2},
        **changes,
    }


# --- images that are none ---------------------------------------------------------------------------------------------


def jpeg(width: int = 64) -> bytes:
    file = io.BytesIO()
    PILImage.effect_noise((width, width), 50).save(file, "JPEG")
    return file.getvalue()


def png(width: int, height: int) -> bytes:
    """A PNG that says it is so large, and whose rows are blank: a few kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compress(bytes((width + 1) * height), 9)
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


BROKEN = {
    "image_empty": b"",
    "image_lfs_pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "image_html": b"<!DOCTYPE html><html><head><title>404 Not Found</title></head></html>",
    "image_truncated": jpeg()[:-100],
    "image_too_large": png(10_000, 10_000),
    "image_aspect": png(1, 300),
    "image_type": b"id,answer\n1,2\n",
}
