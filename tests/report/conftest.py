"""The folder of a whole run, for page, card and terminal."""

import pytest
from evaluation.evaluation_stubs import fabricate_run


@pytest.fixture
def run_dir(tmp_path):
    return fabricate_run(tmp_path / "myrun")
