"""Stage kind `sft`: TRL's SFTTrainer with a weight for each token, from rows to a saved model."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from trl import SFTTrainer

from eval.chat import ChatFormat
from pipeline.checkpoint.trainer import ResumableTrainer
from pipeline.data.prepare import held_out, sft_rows
from pipeline.handoff import StageResult, adapter_settings, save_model
from pipeline.loss import ANSWER, THINK, denominator, think_weight, token_weights
from pipeline.progress import show_progress
from pipeline.recipe.problem import as_recipe_error
from pipeline.recipe.schema import Loss, Recipe, SegmentLoss, SftStage
from pipeline.recipe.trainer_arguments import sft_arguments


def run(recipe: Recipe, stage: SftStage, model_in: str, out: Path, title: str) -> StageResult:
    """Train `model_in` (a folder or a hub id) on the stage's rows; save a full checkpoint to `out/model`.

    `title` heads the progress bar.
    """
    with as_recipe_error(recipe.name, f"{stage.name}_inputs"):
        args, chat = sft_arguments(recipe, stage, model_in, out), ChatFormat(model_in, recipe.revision_of(model_in))
        with args.main_process_first(desc="rows"):  # the others take them from its cache
            rows = sft_rows(recipe.data[stage.data], chat, args.max_length, held_out(recipe, stage))
            eval_rows = sft_rows(recipe.data[stage.eval_data], chat, args.max_length) if stage.eval_data else None
    trainer = SegmentTrainer(
        model=model_in,
        args=args,
        train_dataset=rows,
        eval_dataset=eval_rows,
        chat=chat,
        **adapter_settings(stage.lora, recipe.model.dtype),
        loss=stage.loss,
    )
    show_progress(trainer, title, out / "metrics.jsonl")
    trainer.train_on()
    return save_model(trainer, out, recipe.model.dtype, rollouts=None)


_BROKEN_CONTRACT = (
    "SFTTrainer.compute_loss of this TRL release does not work the way the segment loss needs (CONTRIBUTING.md lists "
    "what that is; TRL 1.16 does)"
)


class SegmentTrainer(ResumableTrainer, SFTTrainer):
    """`SFTTrainer` whose loss is `sum(weight * cross-entropy) / items` over the whole optimizer step.

    It stands on four things of TRL 1.16 and transformers 5.17, each held by a test: `SFTTrainer.compute_loss` calls
    `model(..., fused_lm_head=True)` and reduces only `log_probs`; it divides by the `num_items_in_batch` it is given
    and multiplies by the number of processes (DDP averages gradients); `Trainer` takes that number from
    `_get_num_items_in_batch`; and leaves gradient accumulation to the loss when `model_accepts_loss_kwargs`.
    """

    data_collator: Any

    def __init__(self, *args: Any, chat: ChatFormat, loss: Loss, **kwargs: Any) -> None:
        super().__init__(*args, processing_class=chat.processor, **kwargs)
        self.loss = loss
        self.data_collator = SegmentCollator(self.data_collator, chat)
        # Qwen-VL says False (huggingface/transformers#40333): the step's mean would be a mean of micro-batch means.
        # Delete when SFTTrainer says `loss_is_scaled_for_ga`, as GRPOTrainer does (`trl/trainer/base_trainer.py:66`).
        self.model_accepts_loss_kwargs = True
        self._sums: dict[str, dict[str, torch.Tensor]] = {"": {}, "eval_": {}}  # since the last log, on this rank

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, torch.Tensor]], device: torch.device) -> Any:
        if not batch_samples:
            return None
        local = (
            torch.stack([denominator(batch["segments"][:, 1:], self.loss) for batch in batch_samples]).sum().to(device)
        )
        return self.accelerator.gather(local).sum()

    def compute_loss(
        self,
        model: Callable[..., Any],
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        segments_BT = inputs.pop("segments")[:, 1:]  # the token that each position predicts
        weights_BT = token_weights(segments_BT, self.loss, self._progress())
        calls = 0

        def weighted(**kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            outputs = model(**kwargs)
            if not kwargs.get("fused_lm_head") or outputs.log_probs.shape != segments_BT.shape:
                raise RuntimeError(f"{_BROKEN_CONTRACT}: it took no per-token log-probabilities from the fused head")
            self._observe(-outputs.log_probs.detach(), segments_BT, weights_BT)
            outputs.log_probs = outputs.log_probs * weights_BT
            return outputs

        if num_items_in_batch is None:  # evaluation: this rank's mean, of which Trainer takes the mean
            num_items_in_batch = denominator(segments_BT, self.loss) * self.accelerator.num_processes
        loss = super().compute_loss(weighted, inputs, return_outputs, num_items_in_batch)
        if calls != 1:
            raise RuntimeError(f"{_BROKEN_CONTRACT}: it called the model it was given {calls} times, not once")
        return loss

    def _progress(self) -> float:
        """Training progress; evaluation uses the end of the schedule, so that its losses compare over time."""
        return self.state.global_step / self.state.max_steps if self.model.training else 1.0

    def _think_weight(self) -> float:
        return think_weight(self.loss.think_weight, self._progress()) if isinstance(self.loss, SegmentLoss) else 0.0

    def _observe(self, nll_BT: torch.Tensor, segments_BT: torch.Tensor, weights_BT: torch.Tensor) -> None:
        sequences = (segments_BT != 0).any(dim=1).sum()
        think_BT, answer_BT = segments_BT == THINK, segments_BT == ANSWER
        sums = {
            "sequences": sequences,
            "think_weight": sequences * self._think_weight(),
            "think_nll": _row_means(nll_BT, think_BT).sum(),
            "answer_nll": _row_means(nll_BT, answer_BT).sum(),
            "think_tokens": think_BT.sum(),
            "answer_tokens": answer_BT.sum(),
            "loss": (nll_BT * weights_BT).sum(),
            "answer_loss": (nll_BT * weights_BT * answer_BT).sum(),
        }
        before = self._sums[self._prefix()]
        self._sums[self._prefix()] = {name: before.get(name, 0) + value.float() for name, value in sums.items()}

    def _prefix(self) -> str:
        return "" if self.model.training else "eval_"

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        prefix = self._prefix()
        if local := self._sums[prefix]:  # on every rank or on none
            sums = self.accelerator.reduce(torch.stack(list(local.values())), reduction="sum")
            totals = dict(zip(local, sums.tolist(), strict=True))
            self._sums[prefix] = {}
            means = ("think_nll", "answer_nll", "think_tokens", "answer_tokens")
            for name in (*means, "think_weight") if isinstance(self.loss, SegmentLoss) else means:
                logs[prefix + name] = totals[name] / totals["sequences"]
            logs[prefix + "answer_loss_share"] = totals["answer_loss"] / max(totals["loss"], 1e-12)
        super().log(logs, start_time)


def _row_means(values_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
    return (values_BT * mask_BT).sum(dim=1) / mask_BT.sum(dim=1).clamp(min=1)


class SegmentCollator:
    """Adds `segments`, int64 of shape (B, T), to what TRL's own collator returns.

    It reads the final `input_ids` and `labels`, after templates, image tokens, padding and truncation, so it cannot
    disagree with what is trained. Each contiguous run of trained tokens is one response.
    """

    def __init__(self, collator: Callable[[list[Any]], dict[str, Any]], chat: ChatFormat) -> None:
        self.collator, self.chat = collator, chat

    def __call__(self, examples: list[Mapping[str, Any]]) -> dict[str, Any]:
        batch = self.collator(examples)
        return {**batch, "segments": self.segments(batch["labels"])}

    def segments(self, labels_BT: torch.Tensor) -> torch.Tensor:
        """The segment id of each token: THINK or ANSWER where `labels_BT` is trained, 0 where it is -100."""
        segments_BT = torch.zeros_like(labels_BT)
        for labels_T, segments_T in zip(labels_BT, segments_BT, strict=True):
            for begin, end in _runs(labels_T != -100):
                split = begin + self.chat.answer_start(labels_T[begin:end].tolist())
                segments_T[begin:split], segments_T[split:end] = THINK, ANSWER
        return segments_BT


def _runs(mask_T: torch.Tensor) -> list[tuple[int, int]]:
    """The half-open intervals in which `mask_T` is true."""
    edges = torch.diff(mask_T.int(), prepend=torch.zeros(1), append=torch.zeros(1))
    begins, ends = (edges == 1).nonzero().flatten(), (edges == -1).nonzero().flatten()
    return list(zip(begins.tolist(), ends.tolist(), strict=True))
