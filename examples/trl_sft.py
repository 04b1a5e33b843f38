"""TRL's SFTTrainer with top-K distillation added to its loss; rows as in plain_loop.py.

They also hold what TRL itself reads: `labels` and `attention_mask`.
Set `remove_unused_columns=False` and `dataset_kwargs={"skip_prepare_dataset": True}`.
"""

import torch
from raft_kernels import topk_kl_loss, topk_targets
from trl import SFTTrainer

TEACHER = ("teacher_input_ids", "teacher_reads", "reads")


class DistillingSFTTrainer(SFTTrainer):
    """TRL's own SFT loss + kl_weight * the top-K KL to `teacher`."""

    def __init__(self, *args, teacher, kl_weight=1.0, k=512, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher, self.kl_weight, self.k = teacher.eval().requires_grad_(False), kl_weight, k

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Both losses from one forward pass: the last hidden states come with TRL's outputs."""
        ids, teacher_reads, reads = (inputs.pop(name) for name in TEACHER)
        with torch.no_grad():
            seen = self.teacher.base_model(ids).last_hidden_state[teacher_reads]
            targets = topk_targets(seen, self.teacher.get_output_embeddings().weight, self.k)
        inputs["output_hidden_states"] = True
        sft, out = super().compute_loss(model, inputs, True, num_items_in_batch)
        hidden, head = out.hidden_states[-1][reads], model.get_output_embeddings().weight
        if num_items_in_batch is None:
            kl = topk_kl_loss(hidden, head, targets)
        else:  # counted over all batches of a step, as in TRL's own loss
            kl = topk_kl_loss(hidden, head, targets, reduction="sum") / num_items_in_batch
        loss = sft + self.kl_weight * kl
        return (loss, out) if return_outputs else loss
