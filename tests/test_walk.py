"""The walk of `make walk`, as a test."""

import sys

import pytest
import walk


@pytest.mark.slow
def test_everything_can_be_walked_through(capfd) -> None:
    assert walk.main() == 0
    output = capfd.readouterr().out
    print(output, file=sys.stderr)
    for said in (
        "is there, runs/",  # a finished seed is not trained again
        "3 folds",
        "test accuracy",
        "as in training",
        "digits_vit",
        "written: comparison.html",
        "network.pt2",
    ):
        assert said in output, said
