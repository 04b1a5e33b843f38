"""raft-fast as a contender: the program's own loop with a stopwatch; and what every contender of the step
benchmark gets: the same model, rows and lengths."""

import random
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raft_fast.data.dataset import Row, read_table
from raft_fast.distillation import Callback, Teacher, TrainingState, plan
from raft_fast.distillation.loop import train
from raft_fast.models.attention import pack_attention
from raft_fast.models.chat import Chat
from raft_fast.models.fetch import fetch_model
from raft_fast.models.load import frozen_dtype, load_chat
from raft_fast.recipes import terms_of
from raft_fast.run.fetch import quickstart_rows
from raft_fast.run.options import ModelOptions, TrainOptions

TEMPERATURE = 1.5
STILL = 1e-30  # a learning rate so small that no weight moves: all sample the same trajectories in every step
LLAMA_3B = {"vocab_size": 128256, "hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
            "num_attention_heads": 24, "num_key_value_heads": 8, "head_dim": 128, "rope_theta": 500000.0}
TINY = {"vocab_size": 300, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
RANDOM: dict[str, dict[str, Any]] = {"random-llama-3b": LLAMA_3B, "random-llama-tiny": TINY}
TEMPLATE = ("{% for m in messages %}<turn>{{ m['role'] }}\n{{ m['content'] }}<eos>\n{% endfor %}"
            "{% if add_generation_prompt %}<turn>assistant\n{% endif %}")


@dataclass(frozen=True)
class Job:
    """So many steps of so many rows."""

    model: str
    device: str
    rows: int
    steps: int
    max_completion_length: int
    top_k: int
    gradient_checkpointing: bool = False
    seed: int = 0
    precision: str = "auto"

    @property
    def frozen_dtype(self) -> torch.dtype:
        """Of what is only read, and of products: the same for every contender."""
        return frozen_dtype(ModelOptions(device=self.device, precision=self.precision))  # type: ignore[arg-type]

    def options(self, sft: bool) -> TrainOptions:
        """As the program trains it; nothing is saved."""
        return TrainOptions(
            sft=sft, learning_rate=STILL, num_train_epochs=1, per_device_train_batch_size=self.rows,
            max_completion_length=self.max_completion_length, distillation_temperature=TEMPERATURE,
            teacher_top_k=self.top_k, gradient_checkpointing=self.gradient_checkpointing, save_steps=0)

    def plan(self) -> list[list[Row]]:
        """The rows of every step, and of one more that is never made."""
        return plan(self.table(), self.options(sft=True), self.seed, self.rows)

    def table(self) -> list[Row]:
        known = read_table(str(quickstart_rows()), 0.1).rows
        return random.Random(self.seed).sample(known, self.rows * (self.steps + 1))


def load(job: Job, dtype: torch.dtype, packed: bool) -> Any:
    """The model on its device; every call gives the same weights."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    if job.model in RANDOM:
        torch.manual_seed(job.seed)
        config = LlamaConfig(**RANDOM[job.model], max_position_embeddings=8192, tie_word_embeddings=True,
                             pad_token_id=0, bos_token_id=1, eos_token_id=2)
        with torch.device(job.device):
            model: Any = LlamaForCausalLM(config)
        model.to(dtype).set_attn_implementation("sdpa")
    else:
        model = AutoModelForCausalLM.from_pretrained(
            fetch_model(job.model), dtype=dtype, use_safetensors=True, attn_implementation="sdpa")
        model.to(job.device)
    if packed:
        pack_attention(model)
    model.bf16_products = job.frozen_dtype == torch.bfloat16
    return model.eval()


def chat_of(job: Job, model: Any) -> Chat:
    """The model's own tokenizer; one token a byte where the weights are random."""
    if job.model not in RANDOM:
        return load_chat(fetch_model(job.model), model)
    return Chat(_byte_tokenizer(model.config.vocab_size), model.generation_config, job.model)


def _byte_tokenizer(size: int) -> Any:
    """One token a byte, and a token for every other id: ids without one are never taught."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = ["<pad>", "<bos>", "<eos>", "<turn>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    letters += [f"<{at}>" for at in range(len(letters), size)]
    backend = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(letters)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        additional_special_tokens=["<turn>"], chat_template=TEMPLATE)


class Enough(Exception):  # noqa: N818
    """All steps are measured: leaves the loop before it writes its checkpoint."""


class Stopwatch(Callback):
    """Seconds of whole steps beside the loop's own seconds of their parts."""

    def __init__(self, steps: int) -> None:
        self.wanted, self.steps = steps, []  # type: ignore[var-annotated]

    def on_begin(self, state: TrainingState) -> None:
        self.last = time.perf_counter()

    def on_step(self, state: TrainingState) -> None:
        now, metrics = time.perf_counter(), state.metrics
        self.steps.append({
            "seconds": now - self.last, "student_tokens": metrics["tokens"],
            "compared": metrics["rollout_logprob_gap"] is not None,
            **{key: metrics[key] for key in ("rollout_seconds", "teacher_seconds", "train_seconds",
                                             "rollout_tokens", "teacher_tokens")}})
        if len(self.steps) == self.wanted:
            raise Enough
        self.last = now


def run(job: Job, sft: bool) -> list[dict[str, Any]]:
    """Every step's seconds and tokens; `sft` False leaves the KL loss alone, as TRL has it."""
    student = load(job, torch.float32, packed=True)
    chat, watch = chat_of(job, student), Stopwatch(job.steps)
    with tempfile.TemporaryDirectory() as folder, suppress(Enough):
        train(student, make_teacher(job, chat), chat, job.table(), terms_of("raft", job.options(sft)),
              job.options(sft), job.seed, Path(folder), [watch])
    return watch.steps


def make_teacher(job: Job, chat: Chat) -> Teacher:
    model = load(job, job.frozen_dtype, packed=True)
    return Teacher(model, chat, job.top_k, TEMPERATURE)
