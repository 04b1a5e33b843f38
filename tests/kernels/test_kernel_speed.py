"""Small shapes, timed beside their reference: `pytest tests/kernels --benchmark-enable -k speed`."""

from raft_kernels import topk_targets


def test_select_speed(benchmark, make_case, assert_selected):
    case = make_case(64, 4096, 128, 64)
    assert_selected(benchmark(topk_targets, case.hidden_ND, case.weight_VD, 64), case.hidden_ND,
                    case.weight_VD)


def test_loss_speed(benchmark, make_case, assert_close):
    case = make_case(64, 4096, 128, 64)
    oracle, baseline = case.double().run("reference"), case.run("reference")
    for got, right, usual in zip(benchmark(case.run), oracle, baseline, strict=True):
        assert_close(got, right, usual)
