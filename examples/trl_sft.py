"""TRL's SFTTrainer with top-K distillation added to its loss; rows as in plain_loop.py.

They also hold what TRL itself reads: `labels` and `attention_mask`.
Set `remove_unused_columns=False` and `dataset_kwargs={"skip_prepare_dataset": True}`, and pass
`data_collator=transformers.default_data_collator` (rows of one length) or one of your own that pads: TRL's
default collator drops the teacher's columns.
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
        """Both losses from one forward pass: a hook keeps the last hidden states on their way."""
        ids, teacher_reads, reads = (inputs.pop(name) for name in TEACHER)
        with torch.no_grad():
            seen = self.teacher.get_decoder()(ids).last_hidden_state[teacher_reads]
            targets = topk_targets(seen, self.teacher.get_output_embeddings().weight, self.k)
        student, states = self.accelerator.unwrap_model(model), []
        with student.get_decoder().register_forward_hook(
                lambda module, args, out: states.append(out.last_hidden_state)):
            result = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        # the first pass is the trained one: others only measure, without gradients
        hidden, head = states[0][reads], student.get_output_embeddings().weight
        if num_items_in_batch is None:
            kl = topk_kl_loss(hidden, head, targets)
        else:  # counted over all batches of a step, as in TRL's own loss
            kl = topk_kl_loss(hidden, head, targets, reduction="sum") / num_items_in_batch
            if self.args.average_tokens_across_devices:  # of all processes, whose gradients are averaged
                kl = kl * (self.accelerator.num_processes // self.get_tp_size())
        if return_outputs:
            return result[0] + self.kl_weight * kl, result[1]
        return result + self.kl_weight * kl
