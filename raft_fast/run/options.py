"""Every option of the program, grouped by stage; flat on the command line and in YAML.

Names are those of transformers and TRL where the same thing exists. An option is one field (`option`):
Help, ranges, what a run pins, what is ignored without another option and docs/OPTIONS.md follow from it."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from raft_fast.run.option import Group, Groups, check, option, refuse_in_body

SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
MINILM = "sentence-transformers/all-MiniLM-L6-v2"
MEMORY = "<memory>"  # --data and --heldout_data of a run whose rows were passed to RAFTTrainer
Action = Literal["flag", "drop", "off"]
free = partial(option, pins="nothing")  # may change at any time: speed, devices, reporting
distilled = partial(option, needs="distillation")


@dataclass
class DataOptions(Group, pins="rows"):
    """Rows"""

    data: str | None = option(None, "A file or a `datasets` name, with question/answer, prompt/completion or "
                              "messages (docs/DATA.md).")
    max_rows: int = option(0, "Rows to use at most, spread over the categories; 0: all.", least=0)
    max_bad_rows: float = free(0.1, "Share of rows that may be bad; they are set aside.", least=0, most=1)
    seed: int = option(0, "Seed of all draws.", least=-2**63, below=2**63, must="a whole number of 64 bits")
    output_dir: str | None = free(None, "Default: named by recipe, configuration, data or run.")


@dataclass
class ModelOptions(Group, pins="refinement"):
    """Model"""

    model: str = option(SMOLLM2, "The instruct model, a folder or hub name; for evaluate RUN/model.")
    encoder: str = option(MINILM, "Sentence encoder: a folder or a sentence-transformers name.")
    revision: str | None = option(None, "Revision of the model on the hub.")
    device: str = free("auto", "auto (a GPU where there is one), cpu, cuda, cuda:1, ...")
    precision: Literal["auto", "float32", "bf16"] = option(
        "auto", "Of products; auto: bf16 on a GPU and on a CPU with units for it. Weights train in float32.")
    attn_implementation: str = free("auto", "auto, sdpa, flash_attention_2 (both packed) or eager (padded).")


@dataclass
class EngineOptions(Group):
    """Engines: servers and in-process generation of stage 1"""

    requests_in_flight: int = option(64, "Concurrent requests to each server.", least=1)
    request_timeout: float = option(600, "Seconds that one attempt may take.", above=0)
    max_retries: int = option(8, "Retries after a transient failure, with growing pauses.", least=0)
    extra_body: dict[str, Any] = option({}, "Further keys of every request; null removes one. In-process "
                                        'engines take {"chat_template_kwargs": {...}}.', pins="refinement")

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_in_body("--extra_body", self.extra_body)

    @property
    def chat_template_kwargs(self) -> dict[str, Any]:
        """Arguments in `extra_body` of a chat template that is rendered in this process."""
        return self.extra_body.get("chat_template_kwargs") or {}


@dataclass
class ScreenOptions(Group, pins="rows"):
    """Duplicates and overlap"""

    duplicates: Action = option("flag", "Questions that nearly repeat an earlier one.")
    overlap: Action = option("flag", "Rows that repeat a held-out row or an evaluation prompt.")
    duplicate_similarity: float = option(0.97, "Least cosine similarity of duplicates.", above=0, most=1)
    overlap_share: float = option(0.5, "Share of equal 13-word sequences of an overlap.", above=0, most=1)


@dataclass
class RefineOptions(Group, pins="refinement"):
    """Stage 1: refinement (Eqs. 1-4)"""

    rewriter: str = option("self", "Engine that rewrites: self (the model), a folder or hub name, or "
                           "MODEL@URL of an OpenAI-compatible server (URL alone: its first model; "
                           "URL#NAME: the variable with its key, else OPENAI_API_KEY).", engines=True)
    fuser: str = option("self", "Engine that merges gold and rewrite: as --rewriter.", engines=True)
    judge: str = option("self", "Engines that score fusions, separated by commas.", listed=True, engines=True)
    prompts: str | None = option(None, "A folder with your own rewrite.txt, fuse.txt or judge.txt.")
    tau: float = option(0.8, "Least cosine similarity of rewrite and gold answer (Eq. 3).", least=-1, most=1)
    fused_tau: float = option(0.0, "As --tau, for fused answers. 0: judges alone decide.", least=-1, most=1)
    fused_least: float = option(0.0, "Least mean score of a fusion; 0: any.", least=0, most=1)
    skip_checks: str = option("", "Checks to leave out, also your own: cut_off, copy, length, refusal, "
                              "loops, leak, marks, language, numbers, negation, bounds, duty, retrieval.",
                              listed=True)
    check_patterns: str | None = option(None, "A TOML file of patterns to agree in, or legal_references.")
    checks: str = option("", "Your own checks as module:function of question, gold answer and answer; it "
                         "returns what is wrong, or None.", listed=True)
    fusion_rounds: int = option(3, "Fusions drawn and judged for a row at most; 0: no fusion.", least=0)
    judge_stop: float = option(0.8, "No further round once the mean score reaches this.", least=-1, most=1)
    quorum: int = option(0, "Judges that must score a fusion. 0: more than half of them.", least=0)
    rewrite_max_new_tokens: int = option(256, "Longest rewrite or fusion; cut ones are not used.", least=1)
    rewrite_temperature: float = option(0.7, "Sampling temperature of both; 0: greedy.", least=0)
    supervision_gap: bool = option(True, "Record how likely a rewriter in this process finds each answer.")
    refine_batch_size: int = free(32, "Conversations generated at once here.", least=1)


@dataclass
class RefineRunOptions(Group):
    """How stage 1 is run"""

    retry_failed: bool = option(False, "Repeat requests that failed in a finished run.")
    overwrite: bool = option(False, "Replace finished answers made from other rows or options.")
    shard: str | None = option(None, "i/n: refine every n-th row from the i-th on; --merge joins all.")
    dry_run: bool = option(False, "Count rows, requests and tokens, show prompts; ask and write nothing.")
    merge: bool = option(False, "Join the shards in OUTPUT_DIR.")
    explain: str | None = option(None, "A row_id: print the decisions about this row in --output_dir.")

    def __post_init__(self) -> None:
        super().__post_init__()
        match = re.fullmatch(r"(\d+)/(\d+)", self.shard or "1/1")
        check(match is not None and 1 <= int(match[1]) <= int(match[2]), "--shard", self.shard,
              "i/n with i from 1 to n, as in 2/8")
        check(not (self.merge and self.dry_run), "--dry_run", True, "false with --merge, which asks nothing")


@dataclass
class TrainOptions(Group, pins="training"):
    """Stage 2: training (Eqs. 5-12)"""

    recipe: str = option("raft", "The method: raft, sft, self_distilled_data, sdft, on_policy, or your own "
                         "as module:Class. It sets defaults of other options.", pins="refinement")
    heldout: float = option(0.1, "Share of rows held out, of every category.", pins="rows", above=0, below=1)
    heldout_data: str | None = option(None, "A file of rows to hold out instead.", pins="rows")
    data_source: Literal["fused", "rewrite", "gold"] = option("fused", "Which answer is trained on.",
                                                              pins="rows")
    sft: bool = option(True, "Train on the answers by cross-entropy.")
    distillation: bool = option(True, "Distil the frozen teacher on the student's own trajectories.")
    teacher: str = distilled("self", "Frozen teacher: self (before training), or one with the same "
                             "tokenizer.")
    teacher_sees_answer: bool = distilled(True, "Show the teacher the training answer (Eq. 7).")
    learning_rate: float = option(5e-6, "Peak learning rate of AdamW.", above=0)
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = option("constant", "After warm-up.")
    warmup_steps: int = option(0, "Steps of linear warm-up.", least=0)
    weight_decay: float = option(0.01, "AdamW's weight decay.", least=0)
    max_grad_norm: float = option(1.0, "Clip the gradient's norm to this.", above=0)
    num_train_epochs: int = option(3, "Passes over the rows.", least=1)
    max_steps: int = option(-1, "Optimizer steps; -1: as many as --num_train_epochs have.", least=-1)
    per_device_train_batch_size: int = free(16, "Rows of a micro-batch on a device.", least=1)
    max_tokens_per_micro_batch: int = free(0, "Student tokens of a micro-batch; 0: no limit.", least=0)
    gradient_accumulation_steps: int = free(1, "Micro-batches of a step.", least=1)
    parallelism: Literal["ddp", "fsdp2"] = free("ddp", "ddp copies the student, fsdp2 shards its weights.")
    gradient_checkpointing: bool = free(False, "Recompute activations: less memory, a third more time.")
    steps_per_generation: int = distilled(1, "Optimizer steps a round of rollouts.", least=1)
    num_generations: int = distilled(1, "Trajectories of a row in a step.", least=1)
    max_completion_length: int = distilled(256, "Longest trajectory, in tokens.", least=1)
    max_length: int = option(2048, "Longest training sequence; longer rows are set aside.", least=1)
    rollout_temperature: float = distilled(1.0, "Sampling temperature.", above=0)
    num_loss_tokens_to_skip: int = distilled(0, "First tokens of a trajectory without loss.", least=0)
    distillation_temperature: float = distilled(1.5, "Softens both distributions (T of Eqs. 8-10).", above=0)
    teacher_top_k: int = distilled(512, "Likeliest teacher tokens compared (K of Eq. 9).", least=2)
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = distilled(
        "forward_kl", "KL(teacher || student) as in Eq. 10, KL(student || teacher), or the generalised JSD "
        "of --jsd_beta.")
    jsd_beta: float = option(0.5, "0: forward KL, 1: reverse.", least=0, most=1, needs="divergence=jsd")
    balance: Literal["ema", "gradient", "fixed"] = distilled(
        "ema", "lambda from averages of both losses (Eqs. 11-12), of their gradient norms, or fixed.")
    ema_beta: float = option(0.9, "Decay (beta of Eq. 11).", least=0, below=1, needs="balance=ema|gradient")
    fixed_lambda: float = option(1.0, "lambda where --balance is fixed.", least=0, needs="balance=fixed")
    lambda_max: float = option(100.0, "Bound of a computed lambda.", above=0, needs="balance=ema|gradient")
    save_steps: int = free(100, "Steps between checkpoints; 0: only one at the end.", least=0)
    save_total_limit: int = free(2, "Newest checkpoints kept.", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.heldout_data in (None, MEMORY) or Path(self.heldout_data).is_file(), "--heldout_data",
              self.heldout_data, "a file, such as RUN/heldout.parquet")
        check(self.sft or self.distillation, "--sft false --distillation", "false",
              "true for one of the two: with both off there is nothing to train")
        check(self.num_loss_tokens_to_skip < self.max_completion_length, "--num_loss_tokens_to_skip",
              self.num_loss_tokens_to_skip, f"below --max_completion_length {self.max_completion_length}")
        check(self.max_steps != 0, "--max_steps", 0, "-1 or at least 1")


@dataclass
class AdapterOptions(Group, pins="training"):
    """LoRA (peft)"""

    use_peft: bool = option(False, "Train a LoRA adapter, with a learning rate about ten times higher; the "
                            "teacher is the same model without it.")
    lora_r: int = option(16, "Rank of the adapter's matrices.", least=1, needs="use_peft")
    lora_alpha: int = option(32, "Scales the output by lora_alpha / lora_r.", least=1, needs="use_peft")
    lora_dropout: float = option(0.0, "Dropout in training.", least=0, below=1, needs="use_peft")
    lora_target_modules: str = option("all-linear", "all-linear (but the head), names, or a regular "
                                      "expression for whole names.", listed=True, needs="use_peft")


@dataclass
class WatchOptions(Group):
    """Watching"""

    eval_steps: int = option(0, "Steps between evaluations; 0: none.", pins="training", least=0)
    eval_general_prompts: int = option(16, "IFBench prompts of general drift.", pins="training", least=0,
                                       needs="eval_steps")
    load_best_model_at_end: bool = option(False, "End with the weights of the lowest eval_domain_nll, chosen "
                                          "on the held-out rows: their final scores are slightly too good.",
                                          pins="training")
    log_completions: bool = distilled(False, "Write samples to completions.jsonl.")
    log_completions_steps: int = option(10, "Steps between them.", least=1, needs="log_completions")
    report_to: str = option("none", "Trackers of transformers: tensorboard, wandb, trackio, ...", listed=True)
    push_to_hub: bool = option(False, "Upload RUN/model with HF_TOKEN.",
                               must="true or false (see --hub_model_id)")
    hub_model_id: str | None = option(None, "USER/NAME. Default: name of --output_dir.", needs="push_to_hub")
    hub_private_repo: bool = option(True, "Make a new repository private.", needs="push_to_hub")

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.eval_steps > 0 or not self.load_best_model_at_end, "--load_best_model_at_end", True,
              "false where --eval_steps is 0")


@dataclass
class EvaluateOptions(Group, pins="evaluation"):
    """Evaluation"""

    eval_rows: int = option(0, "Held-out rows to evaluate on at most; 0: all.", pins="training", least=0)
    eval_max_new_tokens: int = option(256, "Longest answer to a held-out question.", least=1)
    general_prompts: int = option(0, "IFBench prompts at most; 0: all, -1: none, and no drift.", least=-1)
    general_max_new_tokens: int = option(512, "Longest answer to an IFBench prompt.", least=1)
    drift_prompts: int = option(64, "IFBench prompts to compare both models on by token; 0: none.", least=0)
    drift_max_new_tokens: int = option(64, "Longest of the base's own answers that are compared.", least=1)
    paraphrases: str | None = option(None, "Reworded training questions, from raft_fast.paraphrase.")
    eval_batch_size: int = free(32, "Conversations generated at once.", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.paraphrases is None or Path(self.paraphrases).is_file(), "--paraphrases", self.paraphrases,
              "a file with rows (python -m raft_fast.paraphrase makes it)")


@dataclass
class ParaphraseOptions(Group):
    """Paraphrases"""

    paraphraser: str = option("self", "Engine that paraphrases the questions: as --rewriter.", engines=True)
    prompts: str | None = option(None, "A folder with your own paraphrase.txt.")
    paraphrase_tau: float = option(0.8, "Least cosine similarity to the question.", least=-1, most=1)


@dataclass
class CompareOptions(Group, pins="evaluation"):
    """Comparison: the model before training"""

    base: str | None = option(None, "The model before training. Default: as the run's config.yaml says.")


ALL_GROUPS: list[type[Group]] = [
    DataOptions, ModelOptions, EngineOptions, ScreenOptions, RefineOptions, RefineRunOptions, TrainOptions,
    AdapterOptions, WatchOptions, EvaluateOptions, CompareOptions, ParaphraseOptions]


@dataclass(frozen=True)
class Options(Groups):
    """The options of a run, by stage."""

    data: DataOptions
    model: ModelOptions
    engines: EngineOptions
    screen: ScreenOptions
    refine: RefineOptions
    train: TrainOptions
    adapter: AdapterOptions
    watch: WatchOptions
    evaluate: EvaluateOptions


@dataclass(frozen=True)
class Stage1Options(Groups):
    """The options of stage 1 alone."""

    data: DataOptions
    model: ModelOptions
    engines: EngineOptions
    screen: ScreenOptions
    refine: RefineOptions
    how: RefineRunOptions


@dataclass(frozen=True)
class ComparisonOptions(Groups):
    """The options of an evaluation outside of a run."""

    data: DataOptions
    model: ModelOptions
    engines: EngineOptions
    evaluate: EvaluateOptions
    compare: CompareOptions
