"""Public data sets' layouts, each with the lines of a recipe or a task that read it, and what its first row is.

`tests/cases/layouts/` has six rows of each, in the exact columns of its card; nothing in them is the data set's.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAYOUTS = Path(__file__).resolve().parents[1] / "cases" / "layouts"


@dataclass(frozen=True)
class Layout:
    """How a data set is named, read, and what must come out of its first row."""

    data_set: str  # on the hub
    folder: str
    lines: dict[str, Any]  # of a recipe's data entry, or of a task, beside its path
    question: str
    answer: str
    choices: list[str] | None = None
    images: int = 0  # of the first row
    think: str | None = None  # where it can be trained on

    @property
    def path(self) -> str:
        return str(LAYOUTS / self.folder)


GAS = ["oxygen", "carbon dioxide", "helium", "argon"]
STYLES = ["Baroque", "Gothic", "Modern", "Rococo"]
PARTS = ["root", "leaf", "stem", "seed"]
STATES = ["water", "rock", "air"]
SIDE, COUNT = "Find the length of side 0 in the figure.", "How many items are in the image (0)?"
LOOKED = "I look.\n\nA 0.\n\nIt is 0."
TAGS = {"think": ["SUMMARY", "CAPTION", "REASONING"], "answer": "CONCLUSION"}
VERL = f"{SIDE} You FIRST think about the reasoning process as an internal monologue and then provide the final answer."
FOUND = "Okay, so I have to find value 0. Adding gives 7."
R1_8K = "As shown in the figure, find side 0. Choices: A. 3 B. 5 C. 7 D. 9"

ALL = [
    Layout("hiyouga/geometry3k", "geometry3k", {}, SIDE, "7", images=1),
    Layout("Osilly/Vision-R1-rl", "vision_r1_rl", {"file": "rl_10k.json"}, SIDE, "7", images=1),
    Layout("FanqingM/MMK12", "mmk12", {}, SIDE, r"$\sqrt{3}$", images=1),
    Layout("HuggingFaceH4/MATH-500", "math500", {"split": "test"}, "Compute value 0.", "7"),
    Layout(
        "openai/gsm8k",
        "gsm8k",
        {"format": "gsm8k"},
        "A farm has 2 pens of 12 hens. How many hens are there?",
        "24",
        think="Each pen has 12 hens, so 2*12=24 hens.",
    ),
    Layout(
        "lmms-lab/multimodal-open-r1-8k-verified",
        "open_r1_8k",
        {"columns": {"response": "solution"}},
        R1_8K,
        "B",
        images=1,
        think="The two triangles are alike, so side 0 is 5.",
    ),
    Layout("open-r1/OpenR1-Math-220k", "openr1_220k", {"format": "messages"}, "Compute value 0.", "7", think=FOUND),
    Layout(
        "AI4Math/MathVista",
        "mathvista",
        {"split": "testmini", "columns": {"images": "decoded_image"}, "answer_is": "text"},
        "How tall is bar 0?",
        "1.2",
        images=1,
    ),
    Layout(
        "lmms-lab/ScienceQA",
        "scienceqa",
        {"format": "scienceqa", "columns": {"think": "solution"}},
        "Which of these 0 is a solid?\nA. water\nB. rock\nC. air",
        "B",
        STATES,
        think="A rock is a solid.",
    ),
    Layout(
        "leonardPKU/clevr_cogen_a_train",
        "clevr",
        {"columns": {"answer": "solution"}},
        "How many different items are there in the image? (0)",
        "3",
        images=1,
    ),
    Layout(
        "ms-swift's GRPO lines",
        "swift",
        {"format": "messages", "columns": {"answer": "solution"}},
        COUNT,
        "0",
        images=1,
    ),
    Layout(
        "verl's parquet, DAPO-17k",
        "verl",
        {"format": "messages", "columns": {"answer": "reward_model.ground_truth"}},
        VERL,
        "7",
        images=1,
    ),
    Layout(
        "MMMU/MMMU",
        "mmmu",
        {"split": "validation", "columns": {"choices": "options"}},
        "What is shown here (0)?\nA. Baroque\nB. Gothic\nC. Modern\nD. Rococo",
        "B",
        STYLES,
        images=1,
    ),
    Layout(
        "allenai/ai2_arc, CommonsenseQA, OpenBookQA",
        "arc",
        {"columns": {"answer": "answerKey"}},
        "Which gas do plants take in (0)?\nA. oxygen\nB. carbon dioxide\nC. helium\nD. argon",
        "B",
        GAS,
    ),
    Layout(
        "lmms-lab/ai2d",
        "ai2d",
        {"split": "test", "columns": {"choices": "options"}, "answer_is": "index"},
        "Which part makes food (0)?\nA. root\nB. leaf\nC. stem\nD. seed",
        "B",
        PARTS,
        images=1,
    ),
    Layout(
        "VLM-R1's and ShareGPT's lines",
        "vlm_r1",
        {"format": "messages"},
        "What number of metallic things are there (0)?",
        "0",
        images=1,
    ),
    Layout(
        "Xkev/LLaVA-CoT-100k",
        "llavacot",
        {"format": "messages", "tags": TAGS},
        "What is shown (0)?",
        "0",
        images=1,
        think=LOOKED,
    ),
    Layout(
        "Fancy-MLLM/R1-Onevision",
        "onevision",
        {"format": "messages"},
        "What is the value of mark 0?",
        "0",
        images=1,
        think="The picture shows 0. Fine.",
    ),
]
