"""Checkpoints of a stage: sealed by a manifest, verified before use, and a trainer that goes on from one bit for bit.

transformers 5.17 writes straight into `checkpoint-N` and resumes from the largest N, whatever is in it. Here rank 0
adds `manifest.json` when all ranks have written, and only a folder that agrees with it is resumed from.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object
from accelerate.utils.constants import OPTIMIZER_NAME
from peft import PeftModel
from torch.distributed.fsdp import FSDPModule
from transformers import Trainer, TrainerCallback
from transformers.integrations import is_deepspeed_zero3_enabled

from pipeline.checkpoint import preemption
from pipeline.checkpoint.manifest import disk_room, read_sealed, seal, verify_files
from pipeline.checkpoint.run_folder import remove_checkpoints, saved_checkpoints
from pipeline.launch import tell

MANIFEST = "manifest.json"
# Of SFTTrainer and GRPOTrainer, what counts on and is in no file of transformers': micro-steps, tokens, the loss's sum.
# Delete when `TrainerState` has them (`transformers/trainer.py:1590`, `trl/trainer/grpo_trainer.py:948,1081`).
COUNTERS = ("_step", "_total_train_tokens", "_total_loss_scalar")
# What decides which rows an optimizer step has.
GEOMETRY = "per_device_train_batch_size gradient_accumulation_steps steps_per_generation num_iterations num_generations"


def elements(weight: torch.Tensor) -> int:
    """Of the whole weight: what a rank of ZeRO-3 holds between two uses is empty."""
    return int(getattr(weight, "ds_numel", weight.numel()))


def files_bytes(sharding: str, weights: int, trained: int, moments: int) -> int:
    """What all files of a checkpoint take, in bytes.

    Args:
        sharding: see `pipeline.launch.sharding`. FSDP2 and ZeRO-2 write the weights twice: whole, for the
            hand-off, and to go on from. ZeRO writes float32 weights and AdamW's two moments of its own.
        weights, moments: bytes of each once; ZeRO does not ask for `moments`.
        trained: parameters.
    """
    if sharding.startswith("zero"):
        return weights * (2 if sharding == "zero2" else 1) + 3 * 4 * trained
    return weights * (2 if sharding == "fsdp2" else 1) + moments


def newest(root: Path) -> Path | None:
    """The newest checkpoint in `root` that agrees with its manifest. Damaged ones are renamed, and named on stderr."""
    for folder in reversed(saved_checkpoints(root)):
        try:
            verify_files(folder, read_sealed(folder / MANIFEST))
            return folder
        except ValueError as error:
            tell(f"{folder} cannot be resumed from ({error}); set aside as {_set_aside(folder).name}")
    return None


def _set_aside(folder: Path) -> Path:
    names = [f"{folder.name}.corrupt{suffix}" for suffix in ("", *(f"-{n}" for n in range(2, 1000)))]
    aside = next(path for path in map(folder.with_name, names) if not path.exists())
    return folder.rename(aside)


class ResumableTrainer(Trainer):
    """A `Trainer` that saves sealed checkpoints, ends at one when it is asked to, and goes on from the newest.

    Undisturbed and resumed runs end with the same bits, on the same hardware and libraries. For that, beyond what
    transformers restores: the order of rows is a function of seed and epoch; steps are logged at each save, so that
    no average spans it; and a stage saves only where `is_save_point`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # transformers' own rotation matches the names of damaged checkpoints, and does not look at the new one.
        # Delete when it keeps a good one until the next is whole (`transformers/trainer_utils.py:312,342`).
        self.kept, self.args.save_total_limit = self.args.save_total_limit, None
        self.counters: dict[str, Any] = {}
        if self.args.device.type == "cpu":  # with ranks, accelerate calls it `cpu:0`, which torch.load does not know
            self.args.__dict__["_setup_devices"] = torch.device("cpu")  # Delete when it calls it `cpu` (`state.py:844`)
        self.add_callback(_SavePoints(self))
        if self.is_fsdp_enabled:
            self.model.register_forward_pre_hook(_gather_head)

    def is_save_point(self) -> bool:
        """Whether training can go on exactly from a checkpoint of this step."""
        return True

    def train_on(self) -> None:
        """Train to the last step, from the newest good checkpoint if there is one. Called by every rank.

        Raises:
            SystemExit: with the code of a preemption, after a checkpoint was saved.
        """
        found = [newest(Path(self.args.output_dir)) if self.is_world_process_zero() else None]
        folder = broadcast_object_list(found)[0]
        if folder is not None:
            manifest = read_sealed(folder / MANIFEST)
            self.counters = manifest["counters"]
            tell(f"resuming from {folder}: step {manifest['step']}")
        self.train(resume_from_checkpoint=folder and str(folder))
        step, last = self.state.global_step, self.state.max_steps
        if step < last and preemption.requested():
            preemption.stop(f"stopped at step {step} of {last} and saved; run the same command again to resume")

    # --- saving ---

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        if (folder / MANIFEST).exists():  # an epoch ends where a step was saved
            return
        try:
            self._together(partial(self._write_checkpoint, folder, super()._save_checkpoint, model, trial))
        except Exception:
            if self.is_world_process_zero():  # it was never a checkpoint, and it may be what fills the disk
                remove_checkpoints(folder.parent, folder.__eq__)
            raise
        if self.is_world_process_zero():
            (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle; nothing reads it
            geometry = {name: getattr(self.args, name) for name in GEOMETRY.split() if hasattr(self.args, name)}
            facts = {
                "step": self.state.global_step,
                "processes": self.args.world_size,
                "batch": geometry,
                "counters": {name: getattr(self, name) for name in COUNTERS if hasattr(self, name)},
            }
            seal(folder / MANIFEST, folder, facts)
            if self.kept:  # the new one is good: older ones may go
                older = saved_checkpoints(folder.parent)[: -self.kept]
                remove_checkpoints(folder.parent, older.__contains__)
        self.accelerator.wait_for_everyone()

    def _write_checkpoint(self, folder: Path, save: Callable[..., None], model: Any, trial: Any) -> None:
        with disk_room(folder.parent, self._checkpoint_bytes(), folder.name):
            save(model, trial)

    def _checkpoint_bytes(self) -> int:
        """Of all that a save writes on this disk, sharded or not."""
        adapted = isinstance(self.model, PeftModel)
        saved = [weight for weight in self.model.parameters() if weight.requires_grad or not adapted]
        weights = sum(elements(weight) * int(weight.element_size()) for weight in saved)
        trained = sum(elements(weight) for weight in saved if weight.requires_grad)
        moments = 0
        if self.is_deepspeed_enabled:
            sharding = "zero3" if is_deepspeed_zero3_enabled() else "zero2"
        else:
            sharding = "fsdp2" if self.is_fsdp_enabled else "none"
            states = [value for state in self.optimizer.state.values() for value in state.values()]
            moments = sum(int(value.nbytes) for value in states if torch.is_tensor(value))
        return files_bytes(sharding, weights, trained, moments)

    def _together(self, action: Callable[[], None]) -> None:
        """`action` on every rank; where it fails on one it fails on all, and none waits for one that has gone."""
        mine: Exception | None = None
        try:
            action()
        except Exception as error:
            mine = error
        failed = [error for error in gather_object([repr(mine) if mine else None]) if error]
        if mine is not None:
            raise mine
        if failed:
            raise RuntimeError(f"another rank could not save: {failed[0]}")

    # --- resuming ---

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """All tensors, whatever the names in the files.

        transformers 5.17 loads a file's tensors by name and only warns about others (`trainer.py:3555`): of Qwen2.5-VL,
        LLaVA and Gemma-3, whose files carry the hub's names, next to nothing would be restored. Delete when it converts
        the names (huggingface/transformers#43701; huggingface/transformers#48822, open).
        """
        if model is not None or isinstance(
            self.model, PeftModel
        ):  # sharded, or an adapter: these go by their own names
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        loaded, report = type(self.model).from_pretrained(
            resume_from_checkpoint, dtype=self.model.dtype, output_loading_info=True
        )
        if lacking := sorted(report["missing_keys"]):
            raise RuntimeError(f"{resume_from_checkpoint} lacks {len(lacking)} tensors, the first {lacking[0]}")
        self.model.load_state_dict(loaded.state_dict())

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As saved, without moments of weights that had no gradient yet.

        Of FSDP2's full state, torch 2.13 refuses to load an optimizer that lacks a trained weight's moments (a vision
        tower's, after rows of text). To one that counts as frozen it gives none, and it begins as it would have.
        Delete when torch saves moments for all (pytorch/pytorch#192202), or accelerate loads with `strict=False`.
        """
        waiting = []
        if checkpoint is not None and self.is_fsdp_enabled:
            file = Path(checkpoint) / f"{OPTIMIZER_NAME}.bin"
            moved = torch.load(file, mmap=True, weights_only=True)["state"]
            waiting = [
                weight for name, weight in self.model.named_parameters() if weight.requires_grad and name not in moved
            ]
        for weight in waiting:
            weight.requires_grad_(False)
        super()._load_optimizer_and_scheduler(checkpoint)
        for weight in waiting:
            weight.requires_grad_(True)

    def _run_epoch(self, model: Any, epoch: int, train_dataloader: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # resumed at its end. Delete when transformers ends there
            self.control.should_training_stop = True
            return
        _order_of(epoch, self.args.seed, train_dataloader)
        super()._run_epoch(model=model, epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def get_train_dataloader(self) -> Any:
        loader = super().get_train_dataloader()
        loader.worker_init_fn = partial(_start_worker, loader.worker_init_fn)
        return loader


def _gather_head(model: Any, _: Any) -> None:
    """Let FSDP2 gather the weight of the head, and reduce its gradient, though the head is not called.

    TRL's fused head reads the weight alone. In a VLM whose head is not tied to its embeddings, accelerate 1.15 makes
    the head a group by itself (`fsdp_utils.py:733`: no final norm is found), which only a call would gather; TRL 1.16
    then gathers it in a way that leaves each rank with the gradient of its own rows (`trainer/utils.py:1637`).
    Delete when accelerate finds the norm of a VLM.
    """
    head = model.get_output_embeddings()
    if isinstance(head, FSDPModule):
        head.unshard()


def _order_of(epoch: int, seed: int, loader: Any) -> None:
    """Make the rows' order a function of seed and epoch.

    Samplers with a generator go on from where the last epoch left it, and accelerate 1.15 tells the epoch to none that
    is behind its own shards (`data_loader.py:622`): a run that resumed in its second epoch would see other rows.
    Delete when `set_epoch` alone decides about the order (huggingface/accelerate#2823).
    """
    sampler = loader.batch_sampler
    while hasattr(sampler, "batch_sampler"):
        sampler = sampler.batch_sampler
    sampler = sampler.sampler
    if hasattr(sampler, "set_epoch"):
        sampler.set_epoch(epoch)
    else:
        sampler.generator = torch.Generator().manual_seed(seed + epoch)


def _start_worker(then: Callable[[int], None] | None, number: int) -> None:
    preemption.ignore()
    if then is not None:
        then(number)


class _SavePoints(TrainerCallback):
    """Decides on all ranks alike when to save: as the recipe says, or asked to stop, at the next save point."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self.trainer, self.due = trainer, False

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for name, value in self.trainer.counters.items():
            setattr(self.trainer, name, value)
        self.trainer.accelerator.wait_for_everyone()
        preemption.be_patient()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        asked, last = preemption.requested(), state.global_step >= state.max_steps
        self.due = self.due or control.should_save or (asked and not last)
        control.should_save = self.due and (last or self.trainer.is_save_point())
        if control.should_save:
            self.due, control.should_log = False, True
            control.should_training_stop = control.should_training_stop or asked

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if control.should_save:
            control.should_log = True
