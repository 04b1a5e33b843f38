"""Methods as files: what each one minimises, against the equations written out, and recipes of one's own."""

from dataclasses import dataclass, replace

import pytest
from test_loop import OPTIONS as RUN
from test_loop import run
from test_step import OPTIONS, dense_losses, forward_kl, make_stepper, stepper_of
from tiny import make_model

from raft_fast import train
from raft_fast.distillation import Callback, CrossEntropy, Distillation
from raft_fast.distillation.examples import Reading
from raft_fast.recipes import Recipe, find, names, terms_of
from raft_fast.run.config import parse, shipped
from raft_fast.run.errors import UserError
from raft_fast.run.options import TrainOptions

DRAWS = [[[70, 71, 72, 2], [80, 2]], [[], [60, 61]], [[], []], [[90, 91, 92, 93, 94], [50]]]


def options(*argv):
    """Of training, as the command line gives them."""
    _, groups = parse("train", "", train.GROUPS, list(argv), "raft", lambda recipe: find(recipe).defaults)
    return next(group for group in groups if isinstance(group, TrainOptions))


@pytest.mark.parametrize(("recipe", "source", "terms"), [
    ("raft", "fused", {"sft": False, "kl": True}), ("sft", "gold", {"sft": False}),
    ("self_distilled_data", "rewrite", {"sft": False}), ("sdft", "gold", {"kl": False}),
    ("on_policy", "gold", {"sft": False, "kl": True})])
def test_a_recipe_is_named_by_itself_or_by_its_configuration(recipe, source, terms):
    """Which answers, which terms, and which of them λ weighs."""
    asked = options("--recipe", recipe)
    assert asked == options("--config", recipe)
    assert (asked.recipe, asked.data_source) == (recipe, source)
    assert {term.name: term.balanced for term in terms_of(asked.recipe, asked)} == terms
    assert (asked.divergence, asked.distillation_temperature) == (
        ("reverse_kl", 1.0) if recipe == "sdft" else ("forward_kl", 1.5))
    assert {*names()} <= {*shipped()}


def test_what_the_user_sets_wins_over_the_recipe(tmp_path):
    file = tmp_path / "own.yaml"
    file.write_text("recipe: sft\ndata_source: fused\n")
    assert options("--config", str(file)).data_source == "fused"
    assert options("--config", str(file), "--data_source", "rewrite").data_source == "rewrite"
    both = options("--recipe", "sft", "--distillation", "true")
    assert [term.name for term in terms_of(both.recipe, both)] == ["sft", "kl"]


def test_a_row_has_k_trajectories_and_one_answer(chat, rows):
    """Eq. 10's mean is over all trajectories that are not empty."""
    stepper, drawn = stepper_of(chat, num_generations=2), list(zip(rows, DRAWS, strict=False))
    found = stepper.run([stepper.example(row, draws) for row, draws in drawn])
    each = [(row, z) for row, draws in drawn for z in draws]
    _, kl = dense_losses(make_model(0), make_model(1), chat, *zip(*each, strict=True))
    sft, _ = dense_losses(make_model(0), make_model(1), chat, rows[:4], [[70]] * 4)
    assert (found["sft_loss"], found["kl_loss"]) == pytest.approx((sft.item(), kl.item()), rel=1e-5)
    assert (found["trajectories"], found["trajectory_tokens"]) == (5, 14)


class Heard(Callback):
    def on_step(self, state):
        self.rows, self.drawn = state.rows, state.trajectories


def test_more_draws_only_add_some(tmp_path, chat):
    """The first of every row is the one that would be drawn alone."""
    heard = {count: Heard() for count in (1, 3)}
    for count, listener in heard.items():
        _, metrics = run(tmp_path / f"{count}", chat, replace(RUN, num_generations=count, max_steps=2),
                         callbacks=[listener])
        assert [step["rollout_tokens"] > 0 for step in metrics] == [True, False]  # the buffer feeds three
        assert len(listener.drawn) == count * len(listener.rows)
    assert heard[3].drawn[::3] == heard[1].drawn
    assert heard[3].drawn[1::3] != heard[1].drawn


@pytest.mark.parametrize(("divergence", "beta"), [("forward_kl", 0.5), ("reverse_kl", 0.5), ("jsd", 0.5),
                                                  ("jsd", 0.1)])
def test_the_divergence_is_the_one_asked_for(chat, rows, divergence, beta):
    """One trajectory in float64 with full logits, the KL alone; beta weighs the teacher's side, as in GKD."""
    stepper = stepper_of(chat, divergence=divergence, jsd_beta=beta, sft=False)
    found = stepper.run([stepper.example(rows[0], [[70, 71, 2]])])

    def jsd(log_q, log_p):
        log_m = (beta * log_q.exp() + (1 - beta) * log_p.exp()).log()
        return beta * forward_kl(log_q, log_m) + (1 - beta) * forward_kl(log_p, log_m)

    exact = {"forward_kl": forward_kl, "reverse_kl": lambda log_q, log_p: forward_kl(log_p, log_q),
             "jsd": jsd}[divergence]
    _, kl = dense_losses(make_model(0), make_model(1), chat, rows[:1], [[70, 71, 2]], divergence=exact)
    assert found["kl_loss"] == found["loss"] == pytest.approx(kl.item(), rel=1e-5)
    assert found["sft_loss"] is found["lambda"] is found["ce_kl_ratio"] is None


@dataclass(frozen=True, kw_only=True)
class Gold(CrossEntropy):
    """Replays the gold answer beside the one that is trained on."""

    name: str = "gold"

    def readings(self, row, trajectories, chat):
        return [Reading(chat.sft_view(row.prompt, row.gold))]


class Mine(Recipe):
    name = "mine"
    defaults = {"learning_rate": 0.5}  # noqa: RUF012

    def terms(self, options):
        return [CrossEntropy(), Gold(weight=0.25), Distillation.of(options, balanced=True, weight=2.0)]


def test_terms_and_options_never_contradict_each_other(chat):
    with pytest.raises(UserError, match="--sft true: must be false for the recipe sdft, whose loss has"):
        terms_of("sdft", TrainOptions())
    with pytest.raises(UserError, match="--distillation false: must be true for the recipe mine"):
        terms_of(Mine, TrainOptions(distillation=False))
    with pytest.raises(ValueError, match=r"the terms \['kl'\] need a teacher"):
        make_stepper(make_model(0), None, chat, replace(OPTIONS, distillation=False), [Distillation()])
