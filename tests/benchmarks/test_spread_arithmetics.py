"""Which variables an arithmetic sets, and which ones a machine refuses."""

import os
from dataclasses import replace

import pytest

from benchmarks.spread.arithmetics import (
    FOREIGN,
    NATIVE,
    SETTINGS,
    Arithmetic,
    environment_of,
    measured,
    same_as_another,
    settings_of,
    unable,
)
from saferflow.errors import PipelineError

ANY = Arithmetic(NATIVE, {}, "AVX2", 2, 2, 0, "2.13.0", {"sum": "a", "gelu": "b"})


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("native", {}),
        ("avx2", {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}),
        ("generic", {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}),
        ("compatible", {"MKL_CBWR": "COMPATIBLE"}),
        ("one-thread", {"OMP_NUM_THREADS": "1"}),
    ],
)  # fmt: skip
def test_an_arithmetic_sets_the_variables_that_its_libraries_heed(name, settings):
    assert settings_of(name) == settings


def test_a_number_of_threads_holds_for_all_but_the_arithmetic_that_is_one_thread():
    assert settings_of("native", threads=4) == {"OMP_NUM_THREADS": "4"}
    assert settings_of("generic", threads=4) == {"OMP_NUM_THREADS": "4", **SETTINGS["generic"]}
    assert settings_of("one-thread", threads=4) == {"OMP_NUM_THREADS": "1"}


def test_the_shell_has_no_say_in_the_arithmetic():
    shell = {
        "HOME": "/home/a",
        "OMP_NUM_THREADS": "7",
        "MKL_CBWR": "AVX2",
        "ATEN_CPU_CAPABILITY": "default",
        "MLFLOW_RUN_ID": "x",
    }
    assert environment_of(settings_of("native"), shell) == {"HOME": "/home/a"}
    assert environment_of(settings_of("one-thread"), shell) == {"HOME": "/home/a", "OMP_NUM_THREADS": "1"}


def test_every_variable_that_an_arithmetic_sets_is_kept_from_the_shell():
    """Else `native` would not be native in a shell that sets it."""
    set_somewhere = {name for settings in SETTINGS.values() for name in settings}
    assert [name for name in set_somewhere if not name.startswith(FOREIGN)] == []


@pytest.mark.parametrize(
    ("name", "capability", "refused"),
    [
        ("avx512", "AVX2", True),
        ("avx512", "AVX512", False),
        ("avx2", "DEFAULT", True),
        ("avx2", "AVX512", False),
        ("avx2", "SVE256", True),  # a processor of another family
        ("generic", "SVE256", False),
        ("native", "DEFAULT", False),
    ],
)
def test_instructions_that_the_processor_lacks_are_refused(name, capability, refused):
    reason = unable(name, replace(ANY, capability=capability))
    assert bool(reason) == refused
    if refused:
        assert capability in reason


def test_where_a_gpu_would_train_only_the_native_arithmetic_is_left():
    with_gpu = replace(ANY, gpus=1)
    assert "CUDA_VISIBLE_DEVICES" in unable("generic", with_gpu)
    assert unable(NATIVE, with_gpu) == ""


def test_an_arithmetic_with_the_digits_of_another_one_is_refused():
    other = replace(ANY, name="generic", digits={"sum": "a", "gelu": "c"})
    twin = replace(ANY, name="avx2")
    assert other.differs_in(ANY) == ["gelu"]
    assert same_as_another(other, [ANY, other]) == {}
    assert "native" in same_as_another(twin, [ANY, other, twin])["avx2"]


def test_on_this_machine_generic_rounds_otherwise_and_an_unknown_arithmetic_is_named():
    """torch computes without vector instructions under it: the real libraries, in processes of their own."""
    arithmetics = measured(["native", "generic"], os.environ, threads=1)
    assert arithmetics["generic"].capability == "DEFAULT"
    if arithmetics["native"].capability == "DEFAULT":
        pytest.skip("this processor has no vector instructions that torch knows")
    assert "softmax" in arithmetics["generic"].differs_in(arithmetics["native"])
    with pytest.raises(PipelineError, match="no arithmetic exact; there are native, generic"):
        measured(["native", "exact"], os.environ, threads=1)


def test_a_refusal_names_every_arithmetic_and_its_reason():
    """With one thread for all, one-thread is native."""
    with pytest.raises(PipelineError, match="one-thread: on this machine it gives the same digits as native"):
        measured(["one-thread"], os.environ, threads=1)
