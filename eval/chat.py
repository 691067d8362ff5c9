"""How a checkpoint writes: its processor and chat template, and where a response of its begins and ends.

Training, rollouts and evaluation all render prompts and read responses here, so they cannot disagree.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoProcessor, GenerationConfig, PretrainedConfig, ProcessorMixin
from trl.data_utils import apply_chat_template, prepare_multimodal_messages

from eval.data.images import image_size
from eval.data.rows import prompt
from rewards.response import TAGS, Response, answer_start, parse, render

SLACK = 256  # tokens an image may take beside its own: separators, rows and columns of tiles
_STRETCHED = {"yarn", "linear", "dynamic"}  # ways to give a model more positions than it was made with


class ChatFormat:
    """The processor of `checkpoint` (a folder or a hub id) and what follows from its template. Loads no weights.

    A template that leaves the beginning-of-sequence token to the tokenizer (LLaVA-NeXT's) gets it written in: TRL
    tokenizes SFT prompts without it and GRPO prompts with it, so the two stages would see different prompts.
    Delete when the two agree (`trl/trainer/sft_trainer.py:447`, `transformers/processing_utils.py:2201`).

    Raises:
        ValueError: there is no such checkpoint, or it has no chat template.
    """

    def __init__(self, checkpoint: str, revision: str | None = None) -> None:
        try:
            self.config = AutoConfig.from_pretrained(checkpoint, revision=revision)
        except OSError as error:
            what = (
                "its config.json cannot be read"
                if Path(checkpoint).is_dir()
                else "no such folder, and not found on the hub"
            )
            raise ValueError(f"model {checkpoint!r}: {what}: {error}") from error
        self.processor: Any = AutoProcessor.from_pretrained(checkpoint, revision=revision)
        self.is_vlm = isinstance(self.processor, ProcessorMixin)
        self.tokenizer: Any = self.processor.tokenizer if self.is_vlm else self.processor
        # The Rust tokenizer, called directly: the wrapper's scan of every token costs as much as encoding.
        self.backend: Any = getattr(self.tokenizer, "backend_tokenizer", None)
        if not self.processor.chat_template:
            raise ValueError(f"model {checkpoint!r} has no chat template; save one with its processor")
        bos = self.tokenizer.bos_token
        adds_bos = bos is not None and self.tokenizer("a")["input_ids"][0] == self.tokenizer.bos_token_id
        if adds_bos and not self.prompt_text("?").startswith(bos):
            self.processor.chat_template = "{{ bos_token }}" + self.processor.chat_template
        self.opening = TAGS[0] if self.prompt_text("?").rstrip().endswith(TAGS[0]) else ""
        special = [str(token) for token in self.tokenizer.added_tokens_decoder.values() if token.special]
        self.controls = re.compile("|".join(re.escape(token) for token in special if token not in TAGS) or "(?!)")
        self.ends = (_end_tokens(checkpoint, revision, self.config) | {self.tokenizer.eos_token_id}) - {None}
        self.checkpoint, self.revision = checkpoint, revision

    def conversation(self, question: str, images: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The prompt in the shape that the processor's template takes."""
        return self._parts(prompt(question), images)

    def prompt_text(self, question: str, images: Sequence[Any] = ()) -> str:
        """The prompt as rendered before a response is generated, with one placeholder an image."""
        conversation = self.conversation(question, images)
        return str(self.processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False))

    def prompt_tokens(self, text: str, images: Sequence[Any] = (), limit: int | None = None) -> int:
        """Tokens of a rendered prompt, undecoded images included: exact where it might exceed `limit`, else near."""
        length = len(self.ids(text))
        if not images:
            return length
        if hasattr(self.processor, "_get_num_multimodal_tokens"):  # Delete when SmolVLM's has it, as the others do
            sizes = [image_size(image) for image in images]
            length += int(sum(self.processor._get_num_multimodal_tokens(image_sizes=sizes)["num_image_tokens"]))
            if limit is None or length + SLACK * len(images) <= limit:
                return length
        from eval.data.picture import Picture

        decoded = [Picture().decode_example(image) for image in images]
        ids = self.processor(text=[text], images=[decoded], add_special_tokens=False)["input_ids"]
        return len(ids[0])

    @property
    def context(self) -> int | None:
        """Tokens of a prompt and its response together, at most; None where the configuration names no limit."""
        config = self.config.get_text_config()
        positions: int | None = getattr(config, "max_position_embeddings", None)
        rope = getattr(config, "rope_parameters", None) or {}
        if positions and rope.get("rope_type") in _STRETCHED:  # as vLLM reads it
            positions = int(rope.get("original_max_position_embeddings", positions) * rope.get("factor", 1.0))
        return positions

    def training_texts(self, question: str, think: str, answer: str, images: Sequence[Any] = ()) -> tuple[str, str]:
        """The prompt and the response as TRL renders them for SFT, the tokens that end the turn included."""
        response = [{"role": "assistant", "content": render(think, answer)}]
        example = {"prompt": self.conversation(question, images), "completion": self._parts(response)}
        texts = apply_chat_template(example, self.processor)
        return texts["prompt"], texts["completion"]

    def control_token(self, text: str) -> str | None:
        """The first string in `text` that the tokenizer would turn into a control token, such as `<|im_end|>`."""
        match = self.controls.search(text)
        return match.group() if match else None

    def ids(self, text: str) -> list[int]:
        """The tokens of rendered `text`."""
        if self.backend is None:
            ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
            return ids
        self.backend.no_truncation()  # the last call of the tokenizer may have left it on
        self.backend.no_padding()
        return list(self.backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def response(self, ids: Sequence[int]) -> str:
        """The text of generated `ids` up to their end-of-turn token, with the `<think>` that the template opened."""
        return self.opening + self._raw_text(ids[: self.length(ids)])

    def length(self, ids: Sequence[int]) -> int:
        """Tokens before the first end-of-turn token; all of them when there is none."""
        return next((index for index, token in enumerate(ids) if token in self.ends), len(ids))

    def answer_start(self, ids: Sequence[int]) -> int:
        """Where the answer segment of a response begins (`rewards.response.answer_start`)."""
        return answer_start(ids, self._raw_text, opened=bool(self.opening))

    def reads_back(self, ids: Sequence[int], think: str, answer: str) -> bool:
        """Whether `ids`, read as a response, are still this think trace and answer."""
        return parse(self.response(ids)) == Response(think.strip(), answer.strip())

    def processor_digest(self) -> str:
        """Names the processor, with its template and all of its vocabulary."""
        parts = [repr(self.processor), self.processor.chat_template, sorted(self.tokenizer.get_vocab().items())]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def check_template(self) -> None:
        """That a plain response survives the template, ends, and follows the prompt that rollouts start from.

        Some templates drop or rename thinking in an assistant's turn (DeepSeek-R1's), some end no turn (GLM-4's).

        Raises:
            ValueError: it does not; training on this template would teach something else than the rows.
        """
        rendered_prompt, completion = self.training_texts("What is 1 plus 1?", "One and one.", "2")
        ids, problem = self.ids(completion), None
        if not self.reads_back(ids, "One and one.", "2"):
            problem = f"it turns {render('One and one.', '2')!r} into {completion!r}"
        elif self.length(ids) == len(ids):
            ends = [self.tokenizer.decode([token]) for token in sorted(self.ends)]
            problem = f"{completion!r} has none of the tokens that end a turn: {ends}"
        elif rendered_prompt != self.prompt_text("What is 1 plus 1?"):
            problem = "a prompt is rendered differently with and without its response"
        if problem:
            raise ValueError(f"model {self.checkpoint!r}: its chat template does not fit: {problem}")

    def _raw_text(self, ids: Sequence[int]) -> str:
        """Token ids as the text that the grammar reads: special tokens kept, no blank removed."""
        if self.backend is None:
            return str(self.tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
        return str(self.backend.decode(list(ids), skip_special_tokens=False))

    def _parts(self, messages: list[dict[str, str]], images: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Messages for a processor have their content in parts; for a tokenizer they are plain."""
        parts: list[dict[str, Any]] = prepare_multimodal_messages(messages, list(images)) if self.is_vlm else messages
        return parts


def _end_tokens(checkpoint: str, revision: str | None, config: PretrainedConfig) -> set[int]:
    """The tokens at which the checkpoint stops generating."""
    try:
        ends = GenerationConfig.from_pretrained(checkpoint, revision=revision).eos_token_id
    except (
        OSError,
        TypeError,
        AttributeError,
    ) as error:  # it has none; `generate` then takes the model's configuration
        if (Path(checkpoint) / "generation_config.json").is_file():
            raise ValueError(f"model {checkpoint!r}: its generation_config.json cannot be read: {error}") from error
        ends = getattr(config.get_text_config(), "eos_token_id", None)
    listed = ends if isinstance(ends, list) else [] if ends is None else [ends]
    if not all(isinstance(end, int) for end in listed):
        raise ValueError(f"model {checkpoint!r}: its eos_token_id is {ends!r}, and no number of a token")
    return set(listed)
