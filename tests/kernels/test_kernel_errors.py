"""Bad input gets a ValueError that names the argument, what it was and what it must be."""

import math

import pytest
import torch
from raft_kernels import TopKKLLoss, TopKTargets, topk_kl_loss, topk_kl_loss_from_logits, topk_targets

HIDDEN, WEIGHT = torch.randn(4, 8), torch.randn(20, 8)
TARGETS = topk_targets(HIDDEN, WEIGHT, 5)
IDS, LOGPROBS = TARGETS.ids, TARGETS.logprobs


def at_row(row, value):
    """-inf is a whole row's, others one id's."""
    changed = LOGPROBS.clone()
    changed[row, slice(None) if value == -math.inf else 1] = value
    return changed


SELECT = [
    ({"k": 1}, "k was 1; it must be between 2"),
    ({"k": 19, "vocab_size": 18}, "k was 19; it must be between 2 .* 18"),
    ({"temperature": 0}, "temperature was 0; it must be a finite number > 0"),
    ({"temperature": math.nan}, "temperature was nan; it must be"),
    ({"hidden": torch.randn(4, 7)}, r"hidden was of shape \[4, 7\]; it must be .*\[..., 8\]"),
    ({"hidden": torch.ones(4, 8, dtype=torch.int64)}, "hidden was of dtype torch.int64; it must"),
    ({"hidden": [[1.0]]}, "hidden was a list; it must be a torch.Tensor"),
    ({"weight": torch.randn(20)}, r"weight was of shape \[20\]; it must be of shape \[V, D\]"),
    ({"weight": WEIGHT.to("meta")}, "weight was on meta; it must be on the device of hidden, cpu"),
    ({"bias": torch.randn(19)}, r"bias was of shape \[19\]; it must be of shape \[20\]"),
    ({"vocab_size": 21}, "vocab_size was 21; it must be between 1 and the 20"),
    ({"logit_scale": 0.0}, "logit_scale was 0.0; it must be a finite number other than 0"),
    ({"softcap": 0.0}, "softcap was 0.0; it must be a finite number > 0"),
    ({"backend": "cuda"}, "backend was 'cuda'; it must be None, 'torch', 'triton' or 'reference'"),
]

LOSS = [
    ({"targets": TARGETS[:3]}, r"targets was for tokens of shape \[3\]; it must be .* \[4\]"),
    ({"targets": LOGPROBS}, "targets was a Tensor; it must be a TopKTargets"),
    ({"weight": WEIGHT[:19]}, "targets was over a vocabulary of 20 ids; it must be .* 19"),
    ({"targets": TARGETS.to("meta")}, "targets was on meta; it must be on the device of hidden"),
    ({"token_weights": torch.ones(5)}, r"token_weights was of shape \[5\]; it must be .*\[4\]"),
    ({"token_weights": torch.ones(4) * 1j}, "token_weights was of dtype torch.complex64"),
    ({"divergence": "kl"}, r"divergence was 'kl'; it must be one of \['forward_kl', "),
    ({"divergence": ["jsd"]}, r"divergence was \['jsd'\]; it must be one of"),
    ({"beta": 1.5}, "beta was 1.5; it must be a number from 0 to 1"),
    ({"beta": math.nan}, "beta was nan; it must be"), ({"beta": "0.5"}, "beta was '0.5'; it must be"),
    ({"reduction": "avg"}, "reduction was 'avg'; it must be 'mean', 'sum' or 'none'"),
    ({"hidden": HIDDEN.double(), "backend": "triton"}, "hidden was float64 with backend='triton'"),
    ({"backend": "triton"}, "hidden was on cpu with backend='triton'; it must be on a GPU"),
]

BUILD = [
    ({"ids": IDS.int()}, "ids was of dtype torch.int32; it must be a torch.Tensor of int64"),
    ({"ids": IDS.clone().fill_(3)}, r"ids was repeated within a row \(id 3\); it must be"),
    ({"ids": IDS - 100}, "ids was from -.*; it must be at least 0"),
    ({"vocab_size": 3}, "ids was from .*; it must be from 0 to 2"),
    ({"logprobs": LOGPROBS.half()}, "logprobs was of dtype torch.float16; it must be float32"),
    ({"logprobs": LOGPROBS[:, :4]}, r"logprobs was of shape \[4, 4\]; it must be .*\[4, 5\]"),
    ({"ids": IDS[:, :1], "logprobs": LOGPROBS[:, :1]}, "k was 1; it must be at least 2"),
]

SERVER = [
    ({"ids": IDS.float()}, "ids was of dtype torch.float32; it must be of an integer dtype"),
    ({"logprobs": LOGPROBS.int()}, "logprobs was of dtype torch.int32; it must be"),
    ({"temperature": math.inf}, "temperature was inf; it must be"),
    ({"logprobs": at_row(2, -math.inf)}, r"logprobs was -inf for all K ids in the row at \[2\]; it must be"),
    ({"logprobs": at_row(1, math.nan)}, r"logprobs was NaN or inf in the row at \[1\]; it must be"),
    ({"logprobs": at_row(0, math.inf)}, r"logprobs was NaN or inf in the row at \[0\]; it must be"),
    ({"ids": [3, 4], "logprobs": [-math.inf, -math.inf]}, r"logprobs was -inf for all K ids in the row at"),
]


HEAD = {"hidden": HIDDEN, "weight": WEIGHT}
LOGITS = [
    ({"beta": 2}, "beta was 2"), ({"logits": [1.0]}, "logits was a list"),
    ({"logits": torch.randn(3, 20)}, r"targets was for tokens of shape \[4\]"),
]
CALLS = [(topk_targets, HEAD | {"k": 5}, SELECT), (topk_kl_loss, HEAD | {"targets": TARGETS}, LOSS),
         (TopKTargets, {"ids": IDS, "logprobs": LOGPROBS, "temperature": 1.5}, BUILD),
         (TopKTargets.from_logprobs, {"ids": IDS, "logprobs": LOGPROBS}, SERVER),
         (topk_kl_loss_from_logits, {"logits": torch.randn(4, 20), "targets": TARGETS}, LOGITS),
         (TopKKLLoss, {}, [({"divergence": None}, "divergence was None")]),
         (TARGETS.save, {"path": "x"}, [({"logprob_dtype": torch.bfloat16}, "logprob_dtype was ")])]


@pytest.mark.parametrize(("call", "right", "change", "message"), [
    (call, right, *row) for call, right, rows in CALLS for row in rows])
def test_a_wrong_argument_is_named(call, right, change, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call(**(right | change))
