"""How stages begin."""

import gc

import pytest

from saferflow.stages.entry import imports


def test_garbage_is_looked_for_again_after_imports_and_after_one_that_failed():
    with imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), imports():
        raise ImportError
    assert gc.isenabled()
