"""Top-K distillation in a transformers Trainer; its rows are as in plain_loop.py.

Set `remove_unused_columns=False`, so that the Trainer hands over the teacher's view as well. Rows
hold `labels` (-100 but for the answer): the Trainer counts them over accumulated batches.
"""

import torch
from raft_kernels import topk_kl_loss, topk_targets
from transformers import Trainer


class DistillingTrainer(Trainer):
    """Trains the student towards `teacher` on the positions named by the masks."""

    def __init__(self, *args, teacher, k=512, **kwargs):
        super().__init__(*args, **kwargs)
        self.teacher, self.k = teacher.eval().requires_grad_(False), k

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Mean top-K KL over the answer tokens of all batches that are accumulated into a step."""
        with torch.no_grad():
            seen = self.teacher.get_decoder()(inputs["teacher_input_ids"]).last_hidden_state
            head = self.teacher.get_output_embeddings().weight
            targets = topk_targets(seen[inputs["teacher_reads"]], head, self.k)
        hidden = model.get_decoder()(inputs["input_ids"]).last_hidden_state
        head = model.get_output_embeddings().weight
        if num_items_in_batch is None:
            loss = topk_kl_loss(hidden[inputs["reads"]], head, targets)
        else:  # the Trainer then does not divide by the number of batches
            loss = topk_kl_loss(hidden[inputs["reads"]], head, targets, reduction="sum")
            loss = loss / num_items_in_batch
            if self.args.average_tokens_across_devices:  # of all processes, whose gradients are averaged
                loss = loss * (self.accelerator.num_processes // self.get_tp_size())
        return (loss, {"hidden": hidden}) if return_outputs else loss
