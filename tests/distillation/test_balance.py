"""λ by Eqs. 11-12, by hand."""

import pytest
import torch

from raft_fast.distillation.balance import EmaBalance, FixedBalance, MovingAverage


def test_moving_average_by_hand():
    average = MovingAverage(beta=0.9)
    average.update(2.0)
    assert average.value == pytest.approx(0.2)
    assert average.corrected == pytest.approx(2.0)  # 0.2 / (1 - 0.9)
    average.update(4.0)
    assert average.value == pytest.approx(0.58)  # 0.9 * 0.2 + 0.1 * 4
    assert average.corrected == pytest.approx(0.58 / 0.19)  # 1 - 0.81


def test_lambda_of_the_papers_example_is_four():
    balance = EmaBalance(beta=0.9, lambda_max=100)
    balance.update(sft=2.0, kl=0.5)
    assert balance.weight() == pytest.approx(4.0)


def test_lambda_is_bounded_when_the_kl_is_zero():
    balance = EmaBalance(beta=0.9, lambda_max=100)
    balance.update(sft=2.0, kl=0.0)
    assert balance.weight() == 100


@pytest.mark.parametrize("balance", [EmaBalance(0.9, 100), EmaBalance(0.9, 2), FixedBalance(0.5)])
def test_lambda_on_the_device_is_that_of_the_update_to_come(balance):
    for sft, kl in ((2.0, 0.5), (3.0, 0.4)):
        ahead = balance.weight_with(torch.tensor(sft), torch.tensor(kl))
        balance.update(sft, kl)
        assert ahead.item() == pytest.approx(balance.weight())


def test_lambda_before_any_step_is_one():
    assert EmaBalance(beta=0.9, lambda_max=100).weight() == 1.0


def test_a_step_that_is_not_finite_leaves_the_averages_alone():
    balance = EmaBalance(beta=0.9, lambda_max=100)
    balance.update(sft=2.0, kl=0.5)
    balance.update(sft=float("nan"), kl=0.5)
    balance.update(sft=2.0, kl=float("inf"))
    assert balance.weight() == pytest.approx(4.0)


def test_state_restores_the_same_lambda():
    balance, other = EmaBalance(0.9, 100), EmaBalance(0.9, 100)
    for sft, kl in ((3.0, 0.2), (2.5, 0.4), (2.0, 0.1)):
        balance.update(sft, kl)
    other.load(balance.state())
    balance.update(1.0, 0.3)
    other.update(1.0, 0.3)
    assert other.weight() == balance.weight()


def test_fixed_lambda_never_moves():
    balance = FixedBalance(0.1)
    balance.update(5.0, 0.0)
    assert balance.weight() == 0.1
