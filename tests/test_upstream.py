"""Every workaround of an upstream fault: its test fails when upstream mends the fault, and then the workaround goes.

A workaround says `Delete when ...` where it stands. The last test holds those sentences and the tests here together.
"""

import functools
import importlib.util
import inspect
import io
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import datasets
import pytest
import sympy
import torch
import transformers as hf
from accelerate import PartialState
from accelerate.commands import launch as accelerate_launch
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard, skip_first_batches
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin, fsdp_utils
from math_verify import verify
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from torch.utils.data import BatchSampler, Sampler
from transformers.core_model_loading import revert_weight_conversion
from transformers.trainer_utils import rotate_checkpoints
from trl import GRPOConfig, GRPOTrainer, SFTTrainer
from trl.data_utils import prepare_multimodal_messages
from trl.generation.vllm_client import VLLMClient
from trl.generation.vllm_generation import VLLMGeneration
from trl.trainer import utils as trl_utils
from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

from pipeline.recipe import trl_fields

ROOT = Path(__file__).resolve().parents[1]
SHOWN: dict[tuple[str, str], Callable[..., None]] = {}  # by our file and words of its sentence


def workaround(file: str, words: str, code: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The test below it shows the fault that `code` in `file` is for; `words` are in its sentence "Delete when ..."."""

    def shows(test: Callable[..., None]) -> Callable[..., None]:
        assert (file, words) not in SHOWN
        SHOWN[file, words] = test

        @functools.wraps(test)
        def shown(*args: Any, **kwargs: Any) -> None:
            try:
                test(*args, **kwargs)
            except (AssertionError, pytest.fail.Exception) as changed:
                raise AssertionError(f"mended upstream: delete {code} in {file} ({changed})") from changed

        return shown

    return shows


def _source(package: str, file: str) -> str:
    """A file of an installed package that is slow to import, or that an import would start something in."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"needs {package}: make setup installs it")
    return (Path(spec.origin).parent / file).read_text()


Small = Callable[[str], Path]


def _asked(*images: Any) -> list[dict[str, Any]]:
    return prepare_multimodal_messages([{"role": "user", "content": "How many?"}], images=list(images))


def _picture() -> Any:
    return Image.new("RGB", (56, 56), "red")


# --- TRL: rollouts ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grpo(small: Small, tmp_path_factory: pytest.TempPathFactory) -> GRPOTrainer:
    """TRL's own trainer of a small Qwen2.5-VL, which has not started."""
    from datasets import Dataset

    out = tmp_path_factory.mktemp("grpo")
    args = GRPOConfig(
        str(out), per_device_train_batch_size=2, num_generations=2, use_cpu=True, bf16=False, report_to="none"
    )
    rows = Dataset.from_list([{"prompt": [{"role": "user", "content": "How many?"}]}] * 2)
    return GRPOTrainer(model=str(small("qwen2_5_vl")), reward_funcs=lambda **_: [0.0], args=args, train_dataset=rows)


@workaround("pipeline/rollout/trainer.py", "hands over one placeholder an image", "`_engine_prompt_ids`")
def test_trl_hands_the_engine_a_placeholder_for_each_image_feature(
    grpo: GRPOTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = MagicMock()
    engine.generate.return_value = ([], [], [], None)
    monkeypatch.setattr(grpo, "use_vllm", True)
    monkeypatch.setattr(grpo, "vllm_generation", engine, raising=False)
    monkeypatch.setattr(grpo, "_last_loaded_step", grpo.state.global_step, raising=False)
    grpo._generate_single_turn(*grpo._tokenize_prompts([_asked(_picture())]), 2)
    prompt = engine.generate.call_args.kwargs["prompts"][0]
    assert list(prompt).count(grpo.model.config.image_token_id) > 1


@workaround("pipeline/rollout/trainer.py", "keeps its completions in checkpoints", "`is_save_point`")
def test_trl_keeps_no_completions_in_a_checkpoint() -> None:
    saving = inspect.getsource(GRPOTrainer._save_checkpoint) + inspect.getsource(hf.Trainer._save_checkpoint)
    assert "buffered" not in saving


@workaround("pipeline/rollout/trainer.py", "then writes no table", "`RolloutTrainer.log`")
def test_trl_writes_a_table_of_no_completions(grpo: GRPOTrainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpo, "log_completions", True)
    monkeypatch.setattr(hf.Trainer, "log", lambda *_: None)
    folder = Path(grpo.args.output_dir) / "completions"
    folder.mkdir(exist_ok=True)
    grpo.log({})
    assert list(folder.iterdir())


@workaround("pipeline/rollout/trainer.py", "takes a mixture", "`SingleModalitySampler`")
def test_trl_marks_missing_images_as_processors_do_not_take_them(grpo: GRPOTrainer) -> None:
    prompts = [_asked(_picture()), _asked()]
    _, images, _ = grpo._tokenize_prompts(prompts)
    texts = [grpo.processing_class.apply_chat_template(prompt) for prompt in prompts]
    with pytest.raises(TypeError):
        grpo.processing_class(images=images, text=texts, padding=True, return_tensors="pt")


@workaround("pipeline/rollout/engine.py", "hands on a dtype", "`computing_in`")
def test_trl_says_no_dtype_to_the_engine() -> None:
    making = re.search(r"self\.llm = LLM\((.*?)\n {12}\)", inspect.getsource(VLLMGeneration), re.DOTALL)
    assert making is not None
    assert "dtype" not in making[1]
    assert "**" not in making[1]


@workaround("pipeline/rollout/engine.py", "have a timeout", "what `end_hangs` does about servers")
def test_trl_asks_a_server_without_a_timeout() -> None:
    client, asked = object.__new__(VLLMClient), MagicMock()
    client.session = SimpleNamespace(post=asked)
    asked.return_value.status_code = 200
    client._post("http://localhost/generate", json={})
    assert "timeout" not in asked.call_args.kwargs


@workaround("pipeline/recipe/trainer_arguments.py", "bans all, always", "`sampling_settings`")
def test_trl_bans_the_image_token_alone(grpo: GRPOTrainer) -> None:
    assert grpo.generation_config.suppress_tokens == [grpo.model.config.image_token_id]


@workaround("rewards/contract.py", "refuses them", "`enforce_contract`")
@pytest.mark.parametrize(
    ("paid", "trained"),
    [({0.0: "a", 1.0: "b"}, "[0.0, 1.0]"), ([float("inf")] * 2, "[inf, inf]"), ([None] * 2, "[nan, nan]")],
    ids=["keys", "infinities", "nothing"],
)
def test_trl_takes_any_two_things_for_rewards(
    paid: Any, trained: str, grpo: GRPOTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grpo, "reward_funcs", [lambda **_: paid])
    said = [[{"role": "assistant", "content": "3"}]] * 2
    try:
        rewards = grpo._calculate_rewards([{"id": "1"}] * 2, [_asked()] * 2, said, [[1], [2]])
    except (TypeError, ValueError, RuntimeError) as refused:
        pytest.fail(f"refused: {refused}")
    assert str(rewards[:, 0].tolist()) == trained


# --- TRL: weights on their way to the engine --------------------------------------------------------------------------


def _generation(model: Any) -> Any:
    """A `VLLMGeneration` without an engine."""
    generation = object.__new__(VLLMGeneration)
    generation.model, generation.mode, generation.enable_sleep_mode = model, "colocate", False
    generation._dist = SimpleNamespace(is_fsdp=False, gather_params=lambda _: nullcontext())
    generation.accelerator, generation.llm = MagicMock(), MagicMock()
    return generation


@workaround("pipeline/rollout/weight_sync.py", "sends those", "`_by_checkpoint_names`")
def test_trl_sends_names_that_no_checkpoint_has(small: Small) -> None:
    model = hf.AutoModelForImageTextToText.from_pretrained(small("llava_next"))
    sent = {name for name, _ in _generation(model)._iter_named_params()}
    assert not sent <= revert_weight_conversion(model, model.state_dict()).keys()


@workaround("pipeline/rollout/weight_sync.py", "leaves the base alone", "`_merged`")
def test_trl_rounds_the_base_when_it_sends_an_adapter(small: Small) -> None:
    model = hf.AutoModelForCausalLM.from_pretrained(small("qwen3"), dtype=torch.bfloat16)
    adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    weight = adapted.get_base_model().model.layers[0].self_attn.q_proj.base_layer.weight
    before = weight.detach().clone()
    for _ in _generation(adapted)._iter_named_params():
        pass
    assert not torch.equal(weight, before)


@workaround("pipeline/rollout/weight_sync.py", "loads into such layers", "`_repack_tied_head` and its caller's branch")
def test_vllm_drops_the_weights_that_it_has_packed_on_a_cpu() -> None:
    assert "gemm(layer, remove_weight=True)" in _source("vllm", "model_executor/layers/linear.py")


@workaround("pipeline/rollout/weight_sync.py", "resets both", "the resets of `_push`")
def test_trl_leaves_outputs_of_the_old_vision_tower_in_the_engine(small: Small) -> None:
    generation = _generation(hf.AutoModelForCausalLM.from_pretrained(small("qwen3")))
    generation.sync_weights()
    called = {name for name, *_ in generation.llm.mock_calls}
    assert "reset_prefix_cache" in called
    assert not {name for name in called if "encoder" in name}


# --- TRL: settings and stages -----------------------------------------------------------------------------------------


@workaround("pipeline/launch.py", "the system chooses", "MASTER_PORT in `overrule`")
def test_trl_gives_two_engines_that_start_together_one_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trl_utils, "_is_port_free", lambda _: True)
    assert trl_utils._find_free_port() == trl_utils._find_free_port()


@workaround("pipeline/recipe/trl_fields.py", "types the words", "`_WORDS`")
@pytest.mark.parametrize("name", sorted(trl_fields._WORDS))
def test_trl_takes_any_word_and_then_compares_it(name: str) -> None:
    assert "Literal" not in str(GRPOConfig.__dataclass_fields__[name].type)


@workaround("pipeline/recipe/trl_fields.py", "says `int`", "`_NEVER_NULL`")
@pytest.mark.parametrize("name", sorted(trl_fields._NEVER_NULL))
def test_trl_says_that_a_count_may_be_none(name: str) -> None:
    assert "None" in str(GRPOConfig.__dataclass_fields__[name].type)


@workaround("pipeline/sft.py", "loss_is_scaled_for_ga", "`model_accepts_loss_kwargs`")
def test_trl_leaves_it_to_qwen_vl_what_accumulation_is_divided_by() -> None:
    assert GRPOTrainer.loss_is_scaled_for_ga is True
    assert SFTTrainer.loss_is_scaled_for_ga is None
    assert hf.Qwen2_5_VLForConditionalGeneration.accepts_loss_kwargs is False


@workaround("eval/chat.py", "the two agree", "the beginning-of-sequence token that `ChatFormat` writes in")
def test_trl_tokenizes_a_prompt_with_its_first_token_for_grpo_alone(small: Small) -> None:
    processor = hf.AutoProcessor.from_pretrained(small("llava_next"))
    prompt, completion = [{"role": "user", "content": "How many?"}], [{"role": "assistant", "content": "3"}]
    row = {"prompt": prompt, "completion": completion, "images": [_picture()]}
    sft = DataCollatorForVisionLanguageModeling(processor)([row])["input_ids"][0].tolist()
    grpo = processor.apply_chat_template(_asked(_picture()), tokenize=True, return_dict=True)["input_ids"][0]
    bos = processor.tokenizer.bos_token_id
    assert (bos in sft, bos in list(grpo)) == (False, True)


# --- transformers -----------------------------------------------------------------------------------------------------


class _Point(hf.PreTrainedModel):
    """One weight, whose loss is 1 as long as nothing is learned."""

    config_class = hf.PretrainedConfig

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.ones(1))
        self.post_init()

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": (self.weight * x).mean()}


def _trained(out: Path, max_steps: int, resume: str | None = None) -> tuple[int, float]:
    """The last step of transformers' own trainer, and the mean loss that it reports."""
    args = hf.TrainingArguments(
        str(out),
        per_device_train_batch_size=1,
        max_steps=max_steps,
        save_steps=3,
        learning_rate=0.0,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = hf.Trainer(_Point(hf.PretrainedConfig()), args, train_dataset=[{"x": torch.ones(1)}] * 5)
    result = trainer.train(resume_from_checkpoint=resume and str(out / resume))
    return trainer.state.global_step, result.training_loss


@workaround("pipeline/checkpoint/trainer.py", "`TrainerState` has them", "`COUNTERS`")
def test_transformers_forgets_the_losses_before_a_checkpoint(tmp_path: Path) -> None:
    assert _trained(tmp_path, 3) == (3, pytest.approx(1.0))
    assert _trained(tmp_path, 6, "checkpoint-3") == (6, pytest.approx(0.5))
    assert "_total_train_tokens" not in inspect.getsource(GRPOTrainer._save_checkpoint)


@workaround("pipeline/checkpoint/trainer.py", "transformers ends there", "the first lines of `_run_epoch`")
def test_transformers_takes_a_step_after_the_last(tmp_path: Path) -> None:
    _trained(tmp_path, 3)
    assert _trained(tmp_path, 3, "checkpoint-3")[0] == 4


@workaround("pipeline/checkpoint/trainer.py", "keeps a good one", "`kept`")
def test_transformers_removes_a_good_checkpoint_for_a_damaged_one(tmp_path: Path) -> None:
    for name in ("checkpoint-1", "checkpoint-2.corrupt"):
        (tmp_path / name).mkdir()
    rotate_checkpoints(str(tmp_path), save_total_limit=1)
    assert [folder.name for folder in tmp_path.iterdir()] == ["checkpoint-2.corrupt"]


@workaround("pipeline/checkpoint/trainer.py", "it converts", "`_load_from_checkpoint`")
def test_transformers_restores_no_weight_that_has_another_name_in_its_file(small: Small) -> None:
    model = hf.AutoModelForImageTextToText.from_pretrained(small("qwen2_5_vl"))
    embeddings = model.get_input_embeddings().weight
    torch.nn.init.zeros_(embeddings)
    trainer = SimpleNamespace(is_fsdp_enabled=False, model=model, _issue_warnings_after_load=lambda _: None)
    hf.Trainer._load_from_checkpoint(trainer, str(small("qwen2_5_vl")))
    assert not embeddings.any()


@workaround("pipeline/launch.py", "`bf16: false` wins", "ACCELERATE_MIXED_PRECISION in `overrule`")
def test_transformers_takes_the_launchers_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert hf.TrainingArguments(str(tmp_path), bf16=False, use_cpu=True).mixed_precision == "bf16"


@workaround("pipeline/check/check.py", "call the tower for every row", "`_check_pictures`")
def test_transformers_does_not_call_the_vision_tower_for_a_row_of_text(small: Small) -> None:
    model = hf.AutoModelForImageTextToText.from_pretrained(small("qwen2_5_vl"))
    called: list[Any] = []
    model.model.visual.register_forward_pre_hook(lambda *call: called.append(call))
    model(input_ids=torch.tensor([[1, 2, 3]]))
    assert not called


@workaround("eval/chat.py", "SmolVLM's has it", "`hasattr` in `ChatFormat.prompt_tokens`")
def test_transformers_counts_no_image_tokens_of_smolvlm() -> None:
    assert hasattr(hf.Qwen2_5_VLProcessor, "_get_num_multimodal_tokens")
    assert not hasattr(hf.SmolVLMProcessor, "_get_num_multimodal_tokens")


# --- accelerate and torch ---------------------------------------------------------------------------------------------


@workaround("pipeline/launch.py", "skips classes that do not occur", "`layers_to_shard`")
def test_accelerate_does_not_shard_a_model_that_lacks_a_class_of_its_list(small: Small) -> None:
    from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

    with torch.device("meta"):
        model = hf.LlavaNextForConditionalGeneration(hf.AutoConfig.from_pretrained(small("llava_next")))
    plugin = SimpleNamespace(auto_wrap_policy=transformer_auto_wrap_policy, transformer_cls_names_to_wrap=None)
    with pytest.raises(ValueError, match="Could not find the transformer layer class"):
        FullyShardedDataParallelPlugin.set_auto_wrap_policy(plugin, model)


@workaround("pipeline/checkpoint/trainer.py", "finds the norm of a VLM", "`_gather_head`")
def test_accelerate_finds_no_final_norm_in_a_vlm(small: Small) -> None:
    with torch.device("meta"):
        model = hf.Qwen2_5_VLForConditionalGeneration(hf.AutoConfig.from_pretrained(small("qwen2_5_vl")))
    assert fsdp_utils._find_final_norm(model) is None
    assert fsdp_utils._find_final_norm(model.model) is None


@workaround("pipeline/checkpoint/trainer.py", "it calls it `cpu`", "the device in `ResumableTrainer.__init__`")
def test_accelerate_gives_ranks_a_device_that_torch_does_not_load_to() -> None:
    state = SimpleNamespace(device=None, distributed_type=DistributedType.MULTI_CPU, local_process_index=0)
    PartialState.set_device(state)
    file = io.BytesIO()
    torch.save(torch.ones(1), file)
    file.seek(0)
    with pytest.raises(RuntimeError, match="don't know how to restore"):
        torch.load(file, map_location=state.device)


class _Told(Sampler[int]):
    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        return iter(range(8))

    def __len__(self) -> int:
        return 8


@workaround("pipeline/checkpoint/trainer.py", "`set_epoch` alone decides", "`_order_of`")
def test_accelerate_does_not_tell_the_epoch_to_a_sampler_of_a_resumed_rank() -> None:
    sampler = _Told()
    shard = BatchSamplerShard(BatchSampler(sampler, 1, False), num_processes=2, process_index=0)
    loader = DataLoaderShard(range(8), batch_sampler=shard)
    loader.set_epoch(1)
    assert sampler.epoch == 1
    skip_first_batches(loader, 1).set_epoch(2)
    assert sampler.epoch == 1


@workaround("pipeline/checkpoint/trainer.py", "saves moments for all", "`_load_optimizer_and_scheduler`")
def test_torch_saves_no_moments_of_an_unused_weight_and_does_not_load_without() -> None:
    def made() -> tuple[Any, Any]:
        model = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
        return model, torch.optim.AdamW(model.parameters())

    model, optimizer = made()
    model[0].weight.sum().backward()
    optimizer.step()
    state = get_optimizer_state_dict(model, optimizer)
    with pytest.raises(RuntimeError, match="Missing optimizer state"):
        set_optimizer_state_dict(*made(), state)
    assert "strict" not in inspect.getsource(fsdp_utils._prepare_sd_options)


@workaround("eval/respond.py", "sees ranks on a CPU", "`cpu=` in `process_state`")
def test_accelerate_sees_no_ranks_on_a_cpu_that_it_was_not_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert PartialState._prepare_backend(None, cpu=False) == (None, DistributedType.NO)
    assert PartialState._prepare_backend(None, cpu=True)[1] == DistributedType.MULTI_CPU


@workaround("pipeline/checkpoint/preemption.py", "hands signals on", "`LAUNCHER_GONE`")
def test_accelerate_hands_no_signal_to_its_only_process() -> None:
    assert "signal" not in inspect.getsource(accelerate_launch.simple_launcher)


# --- vLLM, math-verify ------------------------------------------------------------------------------------------------


@workaround("eval/decode.py", "`LLM` has an end", "`engine_core.shutdown` in `VllmDecoder.close`")
def test_vllms_engine_has_no_end_of_its_own() -> None:
    files = ["entrypoints/llm.py", "entrypoints/offline_utils.py"]
    defined = {name for file in files for name in re.findall(r"def (\w+)\(", _source("vllm", file))}
    assert "generate" in defined or "chat" in defined
    assert not defined & {"shutdown", "close", "__exit__"}


@workaround("pipeline/recipe/consistency.py", "it says so", "`_lacks_numa`")
def test_vllm_goes_on_without_the_kernels_that_it_could_not_load() -> None:
    loading = _source("vllm", "platforms/cpu.py").partition("def import_kernels")[2].partition("\n    @classmethod")[0]
    assert "except ImportError" in loading
    assert "raise" not in loading


@workaround("rewards/grading/equality.py", "it does not (huggingface/Math-Verify#21)", "`_same_constant`")
def test_math_verify_rounds_a_decimal_to_six_places() -> None:
    assert verify(sympy.Float("1e-7"), sympy.Float("2e-7"), timeout_seconds=None)


@workaround("eval/data/rows.py", "a list is cast so too", "the copy of the table in `undecoded`")
def test_datasets_writes_a_table_again_to_cast_a_list_of_images(tmp_path: Path) -> None:
    shown = {"images": [{"bytes": b"x", "path": None}]}
    made = datasets.Dataset.from_list([shown], features=datasets.Features({"images": datasets.List(datasets.Image())}))
    made.save_to_disk(tmp_path / "saved")
    saved = datasets.load_from_disk(tmp_path / "saved")
    cast = saved.cast_column("images", datasets.List(datasets.Image(decode=False)))
    assert {file["filename"] for file in cast.cache_files}.isdisjoint(file["filename"] for file in saved.cache_files)


# --- all of them ------------------------------------------------------------------------------------------------------


def _sentences() -> Iterator[tuple[str, str]]:
    """Our files that say `Delete when`, and what follows it on one line, up to the next one at most."""
    for path in sorted(file for folder in ("pipeline", "eval", "rewards") for file in (ROOT / folder).rglob("*.py")):
        _, *said = re.sub(r"\n\s*#?\s*", " ", path.read_text(encoding="utf-8")).split("Delete when ")
        yield from ((str(path.relative_to(ROOT)), each[:120]) for each in said)


def test_every_workaround_has_one_test_and_every_test_its_workaround() -> None:
    sentences = list(_sentences())
    tests = {said: [entry for entry in SHOWN if entry[0] == said[0] and entry[1] in said[1]] for said in sentences}
    assert [said for said, entries in tests.items() if len(entries) != 1] == [], "workarounds without a test of theirs"
    assert {*SHOWN} == {entry for entries in tests.values() for entry in entries}, "tests of workarounds that are gone"
    assert len(sentences) == len(SHOWN)
