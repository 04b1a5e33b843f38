"""Stage 2 (Eqs. 5-12): training, LoRA, and watching a run."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from raft_fast.run.options.data import MEMORY
from raft_fast.run.options.option import Group, Part, check, option
from raft_fast.run.options.secrets import refuse_in_urls


@dataclass
class TrainOptions(Group):
    """Stage 2: training (Eqs. 5-12)"""

    pins: ClassVar[Part] = "training"

    recipe: str = option("raft", pins="refinement")
    """The method: raft, sft, self_distilled_data, sdft or on_policy, or your own as module:Class (see
    raft_fast/recipes). It sets defaults of other options; what you set yourself wins."""
    heldout: float = option(0.1, pins="rows", above=0, below=1, why=(
        "; to train on all rows name rows to hold out with --heldout_data FILE"))
    """Share of the rows held out for evaluation, taken from every category before anything else."""
    heldout_data: str | None = option(None, pins="rows")
    """Rows to hold out instead of a share of --data: a file as --data, such as RUN/heldout.parquet of a run
    whose refined answers are trained on. Rows of --data that are among them are set aside."""
    data_source: Literal["fused", "rewrite", "gold"] = option("fused", pins="rows")
    """Answer to train on: the refined one, the filtered rewrite, or the gold answer."""
    sft: bool = True
    """Train on the answers by cross-entropy."""
    distillation: bool = True
    """Distil the frozen teacher on the student's own trajectories."""
    teacher: str = option("self", needs="distillation")
    """Frozen teacher: self (the model before training), or a folder or hub name of a model with the
    same tokenizer."""
    teacher_quantization: Literal["none", "int8", "nf4"] = option("none", needs="distillation")
    """Quantization of a separate teacher: int8 (torchao) on any device, nf4 (bitsandbytes) on a GPU. The
    teacher self is the model before training, which is in memory anyway."""
    teacher_sees_answer: bool = option(True, needs="distillation")
    """Show the teacher the training answer (Eq. 7); off, it sees what the student sees."""
    learning_rate: float = option(5e-6, above=0)
    """Peak learning rate of AdamW."""
    lr_scheduler_type: Literal["constant", "linear", "cosine"] = "constant"
    """Schedule of the learning rate after warm-up."""
    warmup_steps: int = option(0, least=0)
    """Steps of linear warm-up."""
    weight_decay: float = option(0.01, least=0)
    """AdamW's weight decay."""
    max_grad_norm: float = option(1.0, above=0)
    """Clip the gradient's norm to this."""
    num_train_epochs: int = option(3, least=1)
    """Passes over the rows."""
    max_steps: int = option(-1, least=-1)
    """Optimizer steps, overriding --num_train_epochs: the rows are repeated as often as it takes. -1: as
    many as the epochs have."""
    per_device_train_batch_size: int = option(16, pins="nothing", least=1)
    """Rows of a micro-batch on each device; each gives an SFT sequence and its trajectories."""
    max_tokens_per_micro_batch: int = option(0, pins="nothing", least=0)
    """Student tokens, prompts included, that a micro-batch holds at most; longer ones are cut into more
    micro-batches. One micro-batch is one packed pass, so this bounds its memory whatever the rows'
    lengths. 0: no limit."""
    gradient_accumulation_steps: int = option(1, pins="nothing", least=1)
    """Micro-batches of an optimizer step."""
    parallelism: Literal["ddp", "fsdp2"] = option("ddp", pins="nothing")
    """Several processes (torchrun): ddp keeps the whole student on each, fsdp2 shards its weights."""
    gradient_checkpointing: bool = option(False, pins="nothing")
    """Recompute activations in the backward pass: less memory, about a third more time."""
    steps_per_generation: int = option(1, least=1, needs="distillation")
    """Optimizer steps fed by one round of rollouts; 1 is strictly on-policy."""
    num_generations: int = option(1, least=1, needs="distillation")
    """Trajectories the student samples for every row of a step."""
    max_completion_length: int = option(256, least=1, needs="distillation")
    """Longest trajectory the student samples, in tokens."""
    max_length: int = option(2048, least=1)
    """Longest training sequence, prompt included; longer rows are set aside with their row_id."""
    rollout_temperature: float = option(1.0, above=0, needs="distillation")
    """Sampling temperature of trajectories (the paper samples from the student itself: 1)."""
    rollout_engine: Literal["transformers", "continuous", "vllm", "vllm_server"] = option(
        "transformers", needs="distillation")
    """Engine that samples trajectories: transformers (generate, batched by length; draws repeat with the
    seed); continuous (transformers' continuous batching, for a GPU); vllm (in this process, sharing its GPU);
    vllm_server (a `vllm serve` on its own GPUs). The last three are faster; their draws do not repeat."""
    vllm_server_base_url: str = option("http://localhost:8000", pins="nothing",
                                       needs="rollout_engine=vllm_server")
    """URL of the server of --rollout_engine vllm_server; docs/RUNS.md shows how to start it."""
    vllm_gpu_memory_utilization: float = option(0.3, pins="nothing", above=0, below=1,
                                                needs="rollout_engine=vllm")
    """Share of the GPU's memory that --rollout_engine vllm takes for weights and cache."""
    num_loss_tokens_to_skip: int = option(0, least=0, needs="distillation")
    """First tokens of every trajectory left out of the distillation loss: what a thinking model always
    begins with. Teacher and student still read them."""
    distillation_temperature: float = option(1.5, above=0, needs="distillation")
    """Both distributions are softened by this before they are compared (T of Eqs. 8-10)."""
    teacher_top_k: int = option(512, least=2, why=" (renormalised KL at K = 1 is always zero)",
                                needs="distillation")
    """How many of the teacher's most likely tokens are compared (K of Eq. 9)."""
    divergence: Literal["forward_kl", "reverse_kl", "jsd"] = option("forward_kl", needs="distillation")
    """Minimised between teacher q and student p: KL(q || p) as in Eq. 10, KL(p || q), or the generalised
    Jensen-Shannon divergence of --jsd_beta."""
    jsd_beta: float = option(0.5, least=0, most=1, needs="divergence=jsd")
    """Weight of the teacher's side in --divergence jsd: 0 is the forward KL, 1 the reverse, as in GKD."""
    balance: Literal["ema", "gradient", "fixed"] = option("ema", needs="distillation")
    """lambda: moving averages of the two losses (Eqs. 11-12), of their gradient norms at the hidden
    states, or fixed."""
    ema_beta: float = option(0.9, least=0, below=1, needs="balance=ema|gradient")
    """Decay of the moving averages (beta of Eq. 11)."""
    fixed_lambda: float = option(1.0, least=0, needs="balance=fixed")
    """lambda where --balance is fixed."""
    lambda_max: float = option(100.0, above=0)
    """Upper bound of lambda."""
    save_steps: int = option(100, pins="nothing", least=0)
    """Steps between checkpoints; one is always written at the end. 0: only then."""
    save_total_limit: int = option(2, pins="nothing", least=1)
    """Newest checkpoints kept."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.heldout_data in (None, MEMORY) or Path(self.heldout_data).is_file(), "--heldout_data",
              self.heldout_data, "a file, such as RUN/heldout.parquet")
        check(self.sft or self.distillation, "--sft false --distillation", "false",
              "true for one of the two: with both off there is nothing to train")
        check(self.num_loss_tokens_to_skip < self.max_completion_length, "--num_loss_tokens_to_skip",
              self.num_loss_tokens_to_skip, f"below --max_completion_length {self.max_completion_length}")
        url = self.vllm_server_base_url
        refuse_in_urls("--vllm_server_base_url", url if "://" in url else f"http://{url}",
                       "put user and password into ~/.netrc")
        check(self.fixed_lambda <= self.lambda_max, "--fixed_lambda", self.fixed_lambda,
              f"at most --lambda_max {self.lambda_max}")
        check(self.teacher_quantization == "none" or self.teacher != "self", "--teacher_quantization",
              self.teacher_quantization, "none where --teacher is self (that model is kept for the "
              "evaluation anyway)")
        check(self.max_steps != 0, "--max_steps", 0, "-1 or at least 1")


@dataclass
class AdapterOptions(Group):
    """LoRA (peft)"""

    pins: ClassVar[Part] = "training"

    use_peft: bool = False
    """Train a LoRA adapter instead of all weights. The teacher is then the same model with the adapter
    off: one copy of the weights. A learning rate about ten times higher is usual."""
    lora_r: int = option(16, least=1, needs="use_peft")
    """Rank of the adapter's matrices."""
    lora_alpha: int = option(32, least=1, needs="use_peft")
    """The adapter's output is scaled by lora_alpha / lora_r."""
    lora_dropout: float = option(0.0, least=0, below=1, needs="use_peft")
    """Dropout before the adapter while it is trained; never while the model teaches or generates."""
    lora_target_modules: str = option("all-linear", listed=True, needs="use_peft")
    """Layers that get an adapter: all-linear (all but the head), names separated by commas, as in
    q_proj,v_proj, or a regular expression for whole names, as in peft."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(bool(self.lora_target_modules.strip(", ")), "--lora_target_modules",
              repr(self.lora_target_modules), "all-linear or names separated by commas")


@dataclass
class WatchOptions(Group):
    """Watching"""

    eval_steps: int = option(0, pins="training", least=0)
    """Steps between evaluations during training, with one before the first step and one after the last. 0:
    none."""
    eval_general_prompts: int = option(16, pins="training", least=0, needs="eval_steps")
    """IFBench prompts whose answers by the original model the student is compared with (general drift);
    0 none."""
    eval_general_max_new_tokens: int = option(64, pins="training", least=1, needs="eval_steps")
    """Longest of those answers, in tokens."""
    load_best_model_at_end: bool = option(False, pins="training")
    """Keep the weights with the lowest eval_domain_nll, the negative log-likelihood of the held-out gold
    answers, and end with them. They are chosen on those rows, so their final scores are slightly too good."""
    collapse_threshold: float = option(1.0, pins="training", above=0, needs="eval_steps")
    """Training ends early once an evaluation finds the student this many nats a token further from the
    original's own answers than the original is (a healthy run stays below 0.2), or a likelihood that is
    not finite."""
    log_completions: bool = option(False, needs="distillation")
    """Write sampled completions to completions.jsonl."""
    log_completions_steps: int = option(10, least=1, needs="log_completions")
    """Steps between them."""
    report_to: str = option("none", listed=True)
    """Trackers beside metrics.jsonl, separated by commas: tensorboard, wandb, trackio, or any other that
    accelerate knows. Their packages must be installed."""
    push_to_hub: bool = option(
        False, must="true or false, with the repository as in --push_to_hub true --hub_model_id TOLD")
    """Upload RUN/model to the hub at the end, with the token of HF_TOKEN or hf auth login."""
    hub_model_id: str | None = option(None, needs="push_to_hub")
    """The repository: user/name, or name. Default: the name of --output_dir."""
    hub_private_repo: bool = option(True, needs="push_to_hub")
    """Make the repository private; an existing one keeps its visibility."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.eval_steps > 0 or not self.load_best_model_at_end, "--load_best_model_at_end", True,
              "false where --eval_steps is 0: nothing is evaluated")
