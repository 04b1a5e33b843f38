"""Methods as files: what each one minimises, against the equations written out, and recipes of one's own."""

from dataclasses import dataclass, replace

import pytest
from test_loop import OPTIONS as RUN
from test_loop import run
from test_step import OPTIONS, dense_losses, forward_kl, make_stepper, stepper_of, without_update
from tiny import make_model

from raft_fast import RAFTConfig, train
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


@pytest.mark.parametrize("balance", ["ema", "gradient"])
def test_weights_of_terms_and_lambda_are_in_loss_and_gradient(chat, rows, balance):
    """L = sft + gold / 4 + λ 2 kl; λ is the ratio of what is before and behind it, or of its gradients."""
    rows, drawn = [replace(row, gold=f"{row.gold} in gold") for row in rows[:4]], [[70, 71, 2]] * 4
    chosen, exact = replace(OPTIONS, balance=balance), make_model(0).double()

    def step(*terms):
        stepper = without_update(make_stepper(make_model(0), make_model(1), chat, chosen, terms))
        found = stepper.run([stepper.example(row, [z]) for row, z in zip(rows, drawn, strict=True)])
        return stepper.student_pass.model, found

    student, found = step(*Mine().terms(chosen))
    sft, kl = dense_losses(exact, make_model(1), chat, rows, drawn)
    golds = [replace(row, completion=row.gold) for row in rows]
    gold, _ = dense_losses(exact, make_model(1), chat, golds, drawn)
    assert [found[f"{name}_loss"] for name in ("sft", "gold", "kl")] == pytest.approx(
        [sft.item(), gold.item(), kl.item()], rel=1e-5)
    plain, weighed, lam = sft + gold / 4, 2 * kl, found["lambda"]
    if balance == "ema":
        assert lam == pytest.approx((plain / weighed).item(), rel=1e-5)
    assert found["loss"] == pytest.approx((plain + lam * weighed).item(), rel=1e-5)
    (plain + lam * weighed).backward()
    for got, want in zip(student.parameters(), exact.parameters(), strict=True):
        assert (got.grad.double() - want.grad).norm() < 1e-4 * want.grad.norm()
    plain, weighed = (step(CrossEntropy(weight=one), Distillation.of(chosen, balanced=True, weight=two))[1]
                      for one, two in ((1, 1), (3, 2)))
    assert weighed["lambda"] == pytest.approx(plain["lambda"] * 3 / 2, rel=1e-5)


def test_a_recipes_defaults_are_options_and_their_values(monkeypatch):
    for defaults, said in (({"learning_rte": 1}, r"unknown option learning_rte .*learning_rate\?"),
                           ({"learning_rate": "fast"}, "--learning_rate fast: must be a number")):
        monkeypatch.setattr(Mine, "defaults", defaults)
        for use in (lambda: RAFTConfig(recipe=Mine), lambda: options("--recipe", f"{__name__}:Mine")):
            with pytest.raises(UserError, match=said):
                use()
    with pytest.raises(UserError, match="for the configuration --config raft_lambda1"):
        find("raft_lambda1")
    for wrong in (":X", ".a:B"):
        with pytest.raises(UserError, match=f"--recipe {wrong}: cannot import"):
            find(wrong)


def test_terms_and_options_never_contradict_each_other(chat):
    with pytest.raises(UserError, match="--sft true: must be false for the recipe sdft, whose loss has"):
        terms_of("sdft", TrainOptions())
    with pytest.raises(UserError, match="--distillation false: must be true for the recipe mine"):
        terms_of(Mine, TrainOptions(distillation=False))
    with pytest.raises(ValueError, match=r"the terms \['kl'\] need a teacher"):
        make_stepper(make_model(0), None, chat, replace(OPTIONS, distillation=False), [Distillation()])
