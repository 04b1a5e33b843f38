"""Top-K distillation as a LightningModule; its batches are as in plain_loop.py."""

import pytorch_lightning as lightning
import torch
from raft_kernels import topk_kl_loss, topk_targets


class Distilling(lightning.LightningModule):
    """Trains `student` towards `teacher` on the positions named by the masks."""

    def __init__(self, student, teacher, k=512, lr=1e-4):
        super().__init__()
        self.student, self.teacher = student, teacher.eval().requires_grad_(False)
        self.k, self.lr = k, lr

    def training_step(self, batch, _):
        """Mean top-K KL over the batch's answer tokens."""
        with torch.no_grad():
            seen = self.teacher.get_decoder()(batch["teacher_input_ids"]).last_hidden_state
            head = self.teacher.get_output_embeddings().weight
            targets = topk_targets(seen[batch["teacher_reads"]], head, self.k)
        hidden = self.student.get_decoder()(batch["input_ids"]).last_hidden_state
        head = self.student.get_output_embeddings().weight
        loss = topk_kl_loss(hidden[batch["reads"]], head, targets)
        self.log("kl", loss)
        return loss

    def configure_optimizers(self):
        """AdamW on the student alone."""
        return torch.optim.AdamW(self.student.parameters(), lr=self.lr)
