"""How far a model has moved from its base, token by token on texts outside of its training.

Both models are in this process: the exact KL over the whole vocabulary, on the base's own answers to general
prompts (sampled, so that the mean estimates the KL of whole answers) and on general text."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from raft_fast.data.texts import Message
from raft_fast.engines import stable_seed
from raft_fast.engines.generation import draw_ids
from raft_fast.engines.hf import BATCH_TOKENS, HFEngine
from raft_fast.evaluation.ifbench import Prompt
from raft_fast.evaluation.scores import Pair, bootstrap, compare_pairs
from raft_fast.models.architecture import LOGIT_ROWS, head_of
from raft_fast.models.chat import View
from raft_fast.models.packing import buckets, completion_hidden, completion_ids
from raft_fast.run.progress import Reporter

BUCKET_TOKENS = 4096  # hidden states of both models are held for so many tokens at a time
TEXT_TOKENS = 512  # longer texts are cut
Probes = dict[str, list[View]]


class TokenDrift(NamedTuple):
    """Sums over the `tokens` of one text: KL(base ‖ trained) and negative log-likelihoods, in nats."""

    kl: float
    base_nll: float
    nll: float
    tokens: int

    def part(self, metric: str) -> Pair | None:
        """(sum, tokens) of one of the sums."""
        return (getattr(self, metric), self.tokens) if self.tokens else None


def draw_probes(prompts: Sequence[Prompt], base: HFEngine, max_new_tokens: int, reporter: Reporter) -> Probes:
    """What the models are compared on: under `own` the base's own answers to the prompts, under `text` the
    wording of the prompts without a chat template, where every token but the first is predicted."""
    texts = [base.chat.tokenizer(prompt.text, split_special_tokens=True).input_ids[:TEXT_TOKENS]
             for prompt in prompts]
    return {"own": own_answers(base, prompts, max_new_tokens, reporter),
            "text": [View(ids[:1], ids[1:]) for ids in texts if len(ids) > 1]}


def own_answers(engine: HFEngine, asked: Sequence[Prompt], max_new_tokens: int, reporter: Reporter
                ) -> list[View]:
    """The model's own answers to the prompts, sampled at temperature 1, as token ids."""
    conversations = [[Message(role="user", content=prompt.text)] for prompt in asked]
    prompts = [engine.chat.student_prompt(messages) for messages in conversations]
    seeds = [stable_seed(0, messages) for messages in conversations]
    views: list[View] = [View([], [])] * len(prompts)
    with reporter.phase("the base's own answers", len(prompts), "answers") as advance:
        for one in draw_ids(engine.model, engine.chat, prompts, max_new_tokens, 1.0, seeds,
                            engine.batch_size, BATCH_TOKENS):
            views[one.index] = View(prompts[one.index], one.ids)
            advance()
    return views


def measure_drift(base: HFEngine, trained: HFEngine, probes: Probes, reporter: Reporter
                  ) -> dict[str, list[TokenDrift]]:
    """Both models on every probe, under `own` and `text`."""
    return {name: compare_tokens(base.model, trained.model, views, base.chat.pad_id, reporter,
                                 f"drift: {name}") for name, views in probes.items()}


def summarize_drift(measured: dict[str, list[TokenDrift]]) -> dict[str, Any]:
    """Means over tokens with intervals (perplexity is the exponential of nll)."""
    return {name: {"texts": len(drifts), "tokens": sum(one.tokens for one in drifts),
                   "kl": bootstrap([one.part("kl") for one in drifts]),
                   "nll": compare_pairs([one.part("base_nll") for one in drifts],
                                        [one.part("nll") for one in drifts])}
            for name, drifts in measured.items()}


@torch.inference_mode()
def compare_tokens(base: Any, trained: Any, views: Sequence[View], pad_id: int, reporter: Reporter,
                   phase: str) -> list[TokenDrift]:
    """Both models on the completion tokens of each view, in order."""
    found = [TokenDrift(0.0, 0.0, 0.0, 0)] * len(views)
    answered = [index for index, view in enumerate(views) if view.completion]
    with reporter.phase(phase, len(answered), "texts") as advance:
        for group in buckets([len(views[index].ids) for index in answered], BUCKET_TOKENS):
            chosen = [answered[place] for place in group]
            members = [views[index] for index in chosen]
            hidden = [completion_hidden(model, members, pad_id) for model in (base, trained)]
            split = (one.split(LOGIT_ROWS) for one in (*hidden, completion_ids(members, hidden[0].device)))
            sums_N3 = torch.cat([
                _by_token(head_of(base).logits(left), head_of(trained).logits(right), ids_N)
                for left, right, ids_N in zip(*split, strict=True)])
            for index, part in zip(chosen, sums_N3.split([len(view.completion) for view in members]),
                                   strict=True):
                kl, base_nll, nll = part.sum(0).tolist()
                found[index] = TokenDrift(kl, base_nll, nll, len(part))
            advance(len(chosen))
    return found


def _by_token(base_NV: torch.Tensor, trained_NV: torch.Tensor, ids_N: torch.Tensor) -> torch.Tensor:
    """float64 [N, 3]: KL(base ‖ trained), both models' negative log-likelihood of `ids_N`."""
    vocab = min(base_NV.shape[1], trained_NV.shape[1])  # heads of one family may be padded differently
    p, q = (logits[:, :vocab].log_softmax(-1) for logits in (base_NV, trained_NV))
    nll = [-logs.gather(1, ids_N[:, None])[:, 0] for logs in (p, q)]
    return torch.stack([(p.exp() * (p - q)).sum(-1), *nll], 1).double()
