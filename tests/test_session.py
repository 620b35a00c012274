"""A run and its places."""

import shlex

import pytest

import opt
from run.session import to_go_on


@pytest.mark.parametrize("name", ["x", "two words", "-x", "-"])
def test_how_to_go_on_can_be_typed_as_it_is_said(name):
    told = to_go_on(name, 2).removeprefix("; to go on: python train.py ")
    options, _ = opt.parse(shlex.split(told))
    assert (options.exp_name, options.devices, options.resume) == (name, 2, True)
