"""The folder of a whole run, for page, card and terminal."""

import pytest
from evaluation.evaluation_stubs import fabricate_run, fake_ifbench


@pytest.fixture
def ifbench(tmp_path):
    return fake_ifbench(tmp_path / "wheel")


@pytest.fixture
def run_dir(tmp_path, ifbench):
    return fabricate_run(tmp_path / "myrun", ifbench)
