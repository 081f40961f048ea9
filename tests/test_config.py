"""The environment, the choice of ISA and threads, what is imported and what is not."""

import os
import subprocess
import sys

import pytest

import fastdrop as fd
from fastdrop import kernels, threads


def python(code, **environment):
    env = {k: v for k, v in os.environ.items() if "NUM_THREADS" not in k and "FASTDROP" not in k}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env | environment
    )


THREADS = "import fastdrop as fd; print(fd.get_num_threads())"
ISA = "import fastdrop as fd; print(fd.get_isa())"


@pytest.mark.parametrize("isa", fd.available_isas())
def test_isa_from_the_environment(isa):
    run = python(ISA, FASTDROP_ISA=isa)
    assert (run.stdout.strip(), run.stderr) == (isa, "")


def test_widest_isa_by_default():
    assert python(ISA).stdout.strip() == fd.available_isas()[0]


def unusable():
    return [name for name, _, usable in kernels.isas() if not usable]


@pytest.mark.parametrize("name", ["sse9", "AVX2", *unusable()])
def test_an_isa_that_is_not_to_be_had_is_an_error(name):
    run = python(ISA, FASTDROP_ISA=name)
    assert run.returncode == 1
    assert run.stderr.strip().splitlines()[-1].startswith(f"ValueError: FASTDROP_ISA={name!r} is ")
    assert "baseline" in run.stderr.splitlines()[-1]
    before = fd.get_isa()
    with pytest.raises(ValueError, match=r"choose from .*baseline"):
        fd.set_isa(name)
    assert fd.get_isa() == before


def test_set_isa_of_another_type():
    with pytest.raises(TypeError, match="name must be a str"):
        fd.set_isa(2)


def test_neon_and_avx_exclude_each_other():
    built = {name for name, is_built, _ in kernels.isas() if is_built}
    assert "baseline" in built
    assert not ({"neon"} & built and {"avx2", "avx512"} & built)


@pytest.mark.parametrize(
    ("environment", "threads"),
    [
        ({"FASTDROP_NUM_THREADS": "3"}, "3"),
        ({"OMP_NUM_THREADS": "5"}, "5"),
        ({"OMP_NUM_THREADS": "6,2"}, "6"),
        ({"FASTDROP_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, "3"),
        ({"FASTDROP_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, "5"),
    ],
)
def test_threads_from_the_environment(environment, threads):
    run = python(THREADS, **environment)
    assert (run.stdout.strip(), run.stderr) == (threads, "")


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5"])
def test_a_bad_number_of_threads_is_warned_of(text):
    run = python(THREADS, FASTDROP_NUM_THREADS=text)
    assert run.returncode == 0
    assert f"RuntimeWarning: FASTDROP_NUM_THREADS='{text}' is ignored" in run.stderr
    assert python(THREADS, OMP_NUM_THREADS=text).stderr == ""


def test_default_threads():
    n = int(python(THREADS).stdout)
    assert 1 <= n <= min(16, len(os.sched_getaffinity(0)))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_affinity_is_heeded():
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n" + THREADS
    assert python(code).stdout.strip() == "1"


@pytest.mark.parametrize(
    ("text", "quota"),
    [("150000 100000", 1.5), ("max 100000", float("inf")), ("50000 100000", 0.5), ("", None)],
)
def testcpu_quota(monkeypatch, text, quota):
    monkeypatch.setattr(threads.Path, "read_text", lambda self: text)
    assert threads.cpu_quota() == (quota or float("inf"))


def test_a_quota_is_rounded_up(monkeypatch):
    for variable in ("FASTDROP_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(threads.os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    for quota, want in ((1.5, 2), (0.2, 1), (float("inf"), 16)):
        monkeypatch.setattr(threads, "cpu_quota", lambda quota=quota: quota)
        assert threads._default_threads()[0] == want


@pytest.mark.parametrize("n", [0, -1])
def test_refused_number_of_threads(n):
    with pytest.raises(ValueError, match="at least 1"):
        fd.set_num_threads(n)


@pytest.mark.parametrize("n", [1.5, "2", True, None])
def test_number_of_threads_of_another_type(n):
    with pytest.raises(TypeError, match="n must be an int"):
        fd.set_num_threads(n)


def test_show_config(capsys):
    fd.set_num_threads(3)
    fd.show_config()
    text = capsys.readouterr().out
    assert f"fastdrop {fd.__version__} (stream 1)" in text
    assert f"ISA: {fd.get_isa()}, " in text
    fd.set_isa("baseline")
    fd.show_config()
    assert "ISA: baseline, set_isa (" in capsys.readouterr().out
    run = python("import fastdrop as fd; fd.show_config()", FASTDROP_ISA="baseline")
    assert "ISA: baseline, FASTDROP_ISA (" in run.stdout
    assert ", widest usable (" in python("import fastdrop as fd; fd.show_config()").stdout
    assert "threads: 3 (set_num_threads)" in text


def test_import_brings_numpy_alone_and_starts_no_thread():
    code = (
        "import sys, numpy; before = set(sys.modules)\n"
        "import fastdrop, threading\n"
        "new = {m.partition('.')[0] for m in set(sys.modules) - before}\n"
        "new -= {'fastdrop', 'numpy', *sys.stdlib_module_names}\n"
        "print([m for m in new if 'cython' not in m],"
        " threading.active_count())"
    )
    assert python(code).stdout.strip() == "[] 1"


def test_a_missing_compiled_module_says_what_to_do(tmp_path):
    package = tmp_path / "fastdrop"
    package.mkdir()
    with open(fd.__file__) as source:
        (package / "__init__.py").write_text(source.read())
    run = subprocess.run(
        [sys.executable, "-S", "-c", "import fastdrop"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert "pip install -e ." in run.stderr.splitlines()[-1]
