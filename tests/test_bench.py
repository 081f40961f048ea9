"""The benchmark: it runs, refuses bad arguments, and catches contenders that cheat."""

import copy
import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fastdrop as fd
from fastdrop.bench import (
    cli,
    contenders,
    environment,
    family,
    integrations,
    measure,
    plots,
    report,
    scaling,
    tables,
    targets,
    trainer,
)
from fastdrop.bench.contenders import COPY, DTYPES, FORWARD, RIVALS, Case, WrongResult, check

TINY = ["--quick", "--dtypes", "float32", "--p", "0.5", "--sizes", "16,4096", "--against", "none"]
README_TOOL = Path(__file__).parent.parent / "bench" / "readme.py"


def scaled(results, factor):
    """Results whose fastdrop rows took `factor` times as long."""
    other = copy.deepcopy(results)
    for row in other["tables"]:
        if row["contender"].startswith("fastdrop"):
            row["median_s"] *= factor
            row["min_s"] *= factor
    return other


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """A small run's results, with NumPy."""
    path = tmp_path_factory.mktemp("bench") / "run.json"
    threads = fd.get_num_threads()
    options = [*TINY[:-4], "--sizes", "16,4Ki,64KiB", "--against", "numpy", "--json", str(path)]
    assert cli.main(options) == 0
    fd.set_num_threads(threads)
    return report.load(path)


def test_what_is_printed(capsys):
    assert cli.main([*TINY, "--p", "0.5,0.1", "--dtypes", "float32,float16"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""  # no terminal, no progress
    out = captured.out
    for part in ("CPU ", "caches ", "threads ", "versions ", fd.__version__, fd.get_isa()):
        assert part in out[: out.index("np.copyto")]
    for table in ("float32, p = 0.5", "float32, p = 0.1", "float16, p = 0.5", "float16, p = 0.1"):
        assert table in out
    header = next(line for line in out.splitlines() if line.startswith("    ") and "copyto" in line)
    assert header.split()[0] == "np.copyto"
    assert FORWARD.expression in out


def test_schema(results):
    assert results["schema"] == report.SCHEMA
    about = results["environment"]
    assert about["isa"] in about["isas"]
    assert about["threads"] == 1
    assert all(size > 0 for _, size in about["caches"])
    assert set(about["libraries"]) > {"torch", "jax", "numba", "thinc"}
    names = ["copy", *(c.name for c in contenders.FASTDROP), "numpy", "numpy-best", "numpy-bits"]
    rows = results["tables"]
    cases = [(n, name) for n in (16, 4096, 1 << 14) for name in names]
    assert [(row["n"], row["contender"]) for row in rows] == cases
    for row in rows:
        assert set(row) == set(tables.Row.__annotations__)
        assert 0 < row["min_s"] <= row["median_s"]
        assert row["mad_s"] >= 0
        assert row["rounds"] >= measure.QUICK.least
        assert row["ns_per_element"] == pytest.approx(row["median_s"] * 1e9 / row["n"])
        assert row["contender"] in results["titles"]
        if row["contender"] == "copy":
            assert row["ratio_to_copy"] == 1
            assert row["gb_per_s"] == pytest.approx(8 / row["ns_per_element"])


def test_other_sections(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(targets, "MIB", 1 << 10)
    monkeypatch.setattr(targets, "installed", lambda name: name == "ml_dtypes")
    monkeypatch.setattr(scaling, "SIZES", (1 << 16, 1 << 20))
    path = tmp_path / "sections.json"
    options = ["--quick", "--scaling", "--odd", "--targets", "--threads", "2", "--against", "none"]
    assert cli.main([*options, "--json", str(path)]) == 0
    out = capsys.readouterr().out
    found = report.load(path)
    assert found["tables"] == []
    at = {(p["curve"], p["threads"], p["n_bytes"]) for p in found["scaling"]}
    curves = ["copy", "fastdrop p=0.5", "fastdrop p=0.1"]
    curves += ["torch copy"] * scaling.installed("torch")
    assert at == {(c, n, size) for c in curves for n in (1, 2) for size in scaling.SIZES}
    assert len(found["odd"]) == 14
    assert len(found["targets"]) == 32
    for target in found["targets"]:
        assert (target["measured"] is None) == ("torch" in target["case"])
        assert target["case"] in out
    assert fd.get_num_threads() == 2


@pytest.fixture
def small_family(monkeypatch):
    monkeypatch.setattr(family, "MIB", 1 << 12)
    monkeypatch.setattr(family, "IMAGES", (8, 16, 5, 5))
    monkeypatch.setattr(family, "SEQUENCE", (7, 8, 115))
    return family


def test_family(small_family, capsys, tmp_path):
    path = tmp_path / "family.json"
    isa = fd.get_isa()
    options = ["--quick", "--family", "--threads", "2", "--against", "none"]
    assert cli.main([*options, "--json", str(path)]) == 0
    out = capsys.readouterr().out
    found = report.load(path)
    assert found["tables"] == found["targets"] == []
    rows = found["family"]
    cases = [row["case"] for row in rows]
    fused = 4 * 2 * 3 + 2 * 2 * 2 + 3 * 2 * 2  # dropout_add, relu_dropout, softmax_dropout
    n_noise = 2 * 2 * 3 * len(fd.available_isas())
    n_rates = 2 * 5
    assert len(set(cases)) == len(cases) == 2 * 10 + fused + n_rates + n_noise
    assert all(case in out for case in cases)
    assert all(expression in out for expression in family.EXPRESSIONS.values())
    for row in rows:
        case = row["case"]
        assert set(row) == set(family.Figure.__annotations__)
        assert min(row["measured"], row["by_minimum"], row["ns_per_element"]) > 0
        assert row["at_least"] == ("NumPy" in case)
        assert (row["numpy"] is None) == (
            "NumPy" in case or case.startswith("p=") or "float16" in case
        )
        bound = 1.3 if case.startswith("p=") else 3.0 if "NumPy" in case else None
        if "float16" in case:
            bound = 1.0
        elif "softmax_dropout" in case:
            bound = 5.0
        elif "dropout_add" in case and case.startswith(("64 MiB", "256 MiB")):
            bound = 1.25 if case.startswith("256") else 1.0
        elif "relu_dropout_backward" in case:
            assert case.endswith("1.5 copies")
            bound = 1.1
        elif "relu_dropout" in case:
            on_intel = "intel" in environment.cpu_model().lower()  # as of dropout alone
            bound = 1.3 if case.startswith("256 MiB p=0.1") and on_intel else 1.25
        assert row["must"] == bound
    assert sum("in place" in case for case in cases) == 10
    for name in fd.available_isas():
        assert f"1 MiB: gaussian_noise, {name} / copy" in cases
    assert (fd.get_isa(), fd.get_num_threads()) == (isa, 2)


def test_integrations(monkeypatch, capsys, tmp_path):
    """Measured where the library is installed, told to be missing where not."""
    monkeypatch.setattr(integrations, "MIB", 1 << 14)
    monkeypatch.setattr(integrations, "MASKS", ((3, 4), (200, 96)))
    path = tmp_path / "integrations.json"
    options = ["--quick", "--integrations", "--against", "none", "--json", str(path)]
    assert cli.main(options) == 0
    out = capsys.readouterr().out
    rows = report.load(path)["integrations"]
    cases = [row["case"] for row in rows]
    assert len(set(cases)) == len(cases) == 2 * (1 + 2 * 3 + 2 * 3 + 3)
    assert all(expression in out for expression in integrations.EXPRESSIONS.values())
    for row in rows:
        case = row["case"]
        assert case in out
        assert set(row) == set(integrations.Figure.__annotations__)
        library = "torch" if "array" in case or "torch" in case else "thinc"
        there = "block" in case or contenders.installed(library)
        assert there == (row["measured"] is not None) == (row["microseconds"] is not None)
        if there and row["unit"] == "x":
            assert min(row["measured"], row["by_minimum"], row["microseconds"]) > 0
        if "gradients" in case:
            bound = 20 if "p=0.5" in case else 12
        elif "block" in case:
            bound = 1.15 if "(1024, 1024) of (8192, 8192)" in case else 1.1
        elif row["unit"] == "us":
            bound = None if "operator" in case else 15
        else:
            bound = None if "copy" in case else 8
        assert row["must"] == bound
    lines = [line for line in out.splitlines() if line.endswith("  not installed")]
    assert len(lines) == sum(row["measured"] is None for row in rows)


def test_multiples_are_checked():
    case = Case.make("float32", 0.5, 1 << 14)
    keep = np.arange(case.n) % 2 == 0
    assert integrations.wrong_multiples(np.where(keep, 2.0, 0), case) == ""
    assert "2 times" in integrations.wrong_multiples(np.where(keep, 2.1, 0), case)
    assert "dropped" in integrations.wrong_multiples(np.full(case.n, 2.0), case)


def test_family_compares(small_family, capsys, tmp_path):
    path = tmp_path / "family.json"
    options = ["--quick", "--family", "--against", "none"]
    assert cli.main([*options, "--json", str(path)]) == 0
    old = report.load(path)
    for row in old["family"]:
        if not row["at_least"]:
            row["measured"] /= 100
            row["by_minimum"] /= 100
    report.save(old, path)
    capsys.readouterr()
    assert cli.main([*options, "--compare", str(path), "--fail-slower", "10%"]) == 1
    out = capsys.readouterr().out
    n = sum(not row["at_least"] for row in old["family"])
    assert out.count("  SLOWER") == n
    assert f"{n} cases" in out


def test_family_is_slower_only_by_median_and_minimum(results):
    figure = {"case": "1 MiB: a / copy", "measured": 1.0, "by_minimum": 1.0, "at_least": False}
    old = {**results, "tables": [], "family": [figure]}
    for median, minimum, failed in [(1.2, 1.2, True), (1.2, 1.0, False), (1.0, 1.2, False)]:
        new = {**old, "family": [{**figure, "measured": median, "by_minimum": minimum}]}
        assert report.compare(new, old, 0.1)[1] is failed
    both = {**results, "family": [figure]}
    assert "16 cases" in report.compare(both, both, 0.1)[0]
    numpy = {**old, "family": [{**figure, "at_least": True}]}
    with pytest.raises(ValueError, match="no case in common"):
        report.compare(numpy, numpy, 0.1)


def test_results_from_before_the_family(results, tmp_path, capsys):
    path = tmp_path / "old.json"
    report.save({name: part for name, part in results.items() if name != "family"}, path)
    assert report.load(path) == results
    assert cli.main([*TINY, "--compare", str(path)]) == 0


def test_isa_is_what_it_was_after_a_wrong_result(small_family, monkeypatch, capsys):
    isa = fd.get_isa()
    monkeypatch.setitem(
        family.EXPRESSIONS, "gaussian_noise", "fd.gaussian_noise(x, 2 * sd, rng=gen)"
    )
    assert cli.main(["--quick", "--family", "--against", "none"]) == 1
    assert "wrong result: gaussian_noise: the noise has variance" in capsys.readouterr().err
    assert fd.get_isa() == isa


@pytest.mark.parametrize(
    ("at_least", "measured", "said"),
    [
        (False, 1.0, "goal met"),
        (False, 1.3, "ok"),
        (False, 1.5, "MISSED"),
        (True, 1.6, "goal met"),
        (True, 1.3, "MISSED"),
        (True, None, "not installed"),
    ],
)
def test_verdicts(at_least, measured, said):
    must, goal = (1.4, 1.6) if at_least else (1.4, 1.1)
    target = {"measured": measured, "must": must, "goal": goal, "at_least": at_least}
    assert report.verdict(target) == said


def test_a_figure_without_a_bound():
    target = {"measured": 9.0, "must": None, "goal": None, "at_least": False}
    assert report.verdict(target) == "no bound"


# ---- arguments -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--nonsense"], "--nonsense"),
        (["--sizes", "0"], "--sizes"),
        (["--sizes", "1.5MiB"], "1.5MiB"),
        (["--sizes", "4KB"], "4KB"),
        (["--dtypes", "int8"], "int8"),
        (["--p", "1"], "--p"),
        (["--p", "half"], "half"),
        (["--p", "nan"], "nan"),
        (["--threads", "0"], "--threads"),
        (["--isa", "mmx"], "mmx"),
        (["--against", "cupy"], "cupy"),
        (["--fail-slower", "10%"], "--compare"),
        (["--compare", "missing.json"], "missing.json"),
        (["--compare", __file__], "not JSON"),
        (["--compare", "missing.json", "--odd"], "--tables"),
        (["--compare", "missing.json", "--fail-slower", "ten"], "ten"),
        (["--json", "missing/new.json"], "missing"),
    ],
)
def test_bad_arguments(options, said, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as caught:
        cli.main(options)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_json_of_something_else_is_refused(tmp_path, capsys):
    path = tmp_path / "other.json"
    path.write_text('{"schema": 99}')
    with pytest.raises(SystemExit) as caught:
        cli.main([*TINY, "--compare", str(path)])
    assert caught.value.code == 2
    assert "schema" in capsys.readouterr().err


@pytest.mark.parametrize("rival", RIVALS[1:])
def test_a_rival_that_is_not_installed(rival, monkeypatch, capsys):
    monkeypatch.setattr(contenders, "installed", lambda name: False)
    with pytest.raises(SystemExit) as caught:
        cli.main(["--against", rival])
    assert caught.value.code == 2
    assert f"{rival} is not installed" in capsys.readouterr().err


def test_plotting_without_matplotlib(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as caught:
        cli.main([*TINY, "--plot", str(tmp_path)])
    assert caught.value.code == 2
    assert 'pip install "fastdrop-numpy[bench]"' in capsys.readouterr().err


def test_sizes():
    args = cli._parser().parse_args(["--sizes", "16,4Ki,1Mi,64B,1KiB,1MiB"])
    assert cli._sizes(args, "float32") == [16, 256, 4096, 1 << 18, 1 << 20]
    assert cli._sizes(args, "float64") == [8, 16, 128, 4096, 1 << 17, 1 << 20]


@pytest.mark.parametrize("dtype", DTYPES)
def test_default_sizes_span_the_caches(dtype, monkeypatch):
    monkeypatch.setattr(environment, "memory", lambda: 1 << 40)
    sizes = tables.default_sizes(dtype)
    assert sizes[0] == 16
    assert sizes[-1] * contenders.dtype_of(dtype).itemsize >= 4 * environment.last_level()


def test_as_a_module():
    command = [sys.executable, "-m", "fastdrop.bench", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    options = ["--sizes", "--dtypes", "--p", "--threads", "--isa", "--against", "--quick", "--json"]
    options += ["--compare", "--fail-slower", "--plot", "--targets", "--odd", "--scaling"]
    options += ["--family"]
    assert all(option in text for option in options)


def test_isa_and_threads_are_used(tmp_path):
    path = tmp_path / "new.json"
    assert cli.main([*TINY, "--isa", "baseline", "--threads", "2", "--json", str(path)]) == 0
    about = report.load(path)["environment"]
    assert (about["isa"], about["threads"]) == ("baseline", 2)
    assert (fd.get_isa(), fd.get_num_threads()) == ("baseline", 2)


# ---- comparison ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("factor", "code"), [(0.01, 1), (100, 0)])
def test_compare(results, factor, code, tmp_path, capsys):
    old = tmp_path / "old.json"
    report.save(scaled(results, factor), old)
    assert cli.main([*TINY, "--compare", str(old), "--fail-slower", "10%"]) == code
    out = capsys.readouterr().out
    assert "10 cases" in out
    assert ("SLOWER" in out) == bool(code)


def test_compare_without_a_limit_only_reports(results, tmp_path):
    old = tmp_path / "old.json"
    report.save(scaled(results, 0.01), old)
    assert cli.main([*TINY, "--compare", str(old)]) == 0


def test_slower_only_by_median_and_minimum(results):
    assert report.compare(results, results, 0.1)[1] is False
    assert report.compare(scaled(results, 1.2), results, 0.1)[1] is True
    assert report.compare(scaled(results, 1.05), results, 0.1)[1] is False
    noise = scaled(results, 1.2)
    for new, old in zip(noise["tables"], results["tables"], strict=True):
        new["min_s"] = old["min_s"]
    assert report.compare(noise, results, 0.1)[1] is False


def test_a_slower_machine_is_not_a_slower_fastdrop(results):
    slow = copy.deepcopy(results)
    for row in slow["tables"]:
        row["median_s"] *= 3
        row["min_s"] *= 3
    assert report.compare(slow, results, 0.1)[1] is False


def test_compare_says_what_else_changed(results):
    other = copy.deepcopy(results)
    other["environment"]["isa"] = "neon"
    assert "isa: neon then" in report.compare(results, other, None)[0]
    assert "isa" not in report.compare(results, results, None)[0]


def test_nothing_in_common(results):
    other = copy.deepcopy(results)
    for row in other["tables"]:
        row["n"] += 1
    with pytest.raises(ValueError, match="no case in common"):
        report.compare(results, other, None)


def test_json_is_written_whole_or_not_at_all(results, tmp_path):
    path = tmp_path / "run.json"
    report.save(results, path)
    before = path.read_bytes()
    with pytest.raises(TypeError):
        report.save({**results, "environment": object()}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ---- contenders ----------------------------------------------------------------------------------


def rivals_here():
    return [name for name in RIVALS if contenders.installed(name)]


@pytest.mark.filterwarnings("ignore")  # of others' libraries
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_contender_is_right(dtype):
    for p in (0.5, 0.1, 0.0):
        case = Case.make(dtype, p, 5000)
        for contender in contenders.field(rivals_here(), 1):
            contender = replace(contender, from_bytes=0)
            if contender.takes(case):
                value = eval(contender.expression, contender.names(case))
                check(contender, value, case)


def test_the_threaded_copy_is_right():
    case = Case.make("float32", 0.5, 5000)
    contender = contenders.threaded_copy(3)
    check(contender, eval(contender.expression, contender.names(case)), case)


@pytest.mark.parametrize("n", [1000, 1 << 18])
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda x, p: x / (1 - p), "dropped"),
        (lambda x, p: np.zeros_like(x), "dropped"),
        (lambda x, p: np.where(np.arange(x.size) % 2, x / (1 - p), 0), "dropped"),
        (lambda x, p: np.where(np.random.default_rng(0).random(x.size) >= p, x, 0), "kept"),
        (lambda x, p: np.full_like(x, np.nan), "kept"),
        (lambda x, p: np.where(np.random.default_rng(0).random(x.size) >= p, 2, 0), "kept"),
        (lambda x, p: x[:-1], "shape"),
    ],
)
def test_wrong_contenders_are_caught(n, wrong, said):
    case = Case.make("float32", 0.1, n)
    contender = contenders.Contender("wrong", "wrong", "f(x, p)", contenders._shared)
    with pytest.raises(WrongResult, match=said):
        check(contender, wrong(case.x, case.p).astype(np.float32), case)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, keep: x * 2,  # nothing dropped
        lambda x, keep: x * keep,  # not scaled
        lambda x, keep: x * 2 * (np.random.default_rng(0).random(x.shape) < 0.5),  # not shared
        lambda x, keep: x * 2 * keep[:1],  # shared by more
        lambda x, keep: np.full_like(x, np.nan),
    ],
)
def test_wrong_shared_axes_are_caught(wrong):
    case = Case.make("float32", 0.5, 32 * 32 * 9)
    x = case.x.reshape(32, 32, 9)
    keep = np.random.default_rng(1).random((32, 32, 1)) < 0.5
    good, bad = (y.astype(np.float32) for y in (x * 2 * keep, wrong(x, keep)))
    assert family.wrong_shared(good, x, keep.shape, case) == ""
    assert family.wrong_shared(bad, x, keep.shape, case)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, bias, residual, keep: residual + x * 2 * keep,  # no bias
        lambda x, bias, residual, keep: (x + bias) * 2 * keep,  # no residual
        lambda x, bias, residual, keep: residual + (x + bias) * 2,  # nothing dropped
        lambda x, bias, residual, keep: residual + x * 2 * keep + bias,  # bias not dropped
        lambda x, bias, residual, keep: (residual + (x + bias) * 2 * keep)[1:],
    ],
)
@pytest.mark.parametrize("rows", [16, 1 << 10])
def test_wrong_dropout_add_is_caught(rows, wrong):
    case = Case.make("float32", 0.5, rows * family.ROW)
    x = case.x.reshape(rows, family.ROW)
    bias, residual = np.linspace(1, 2, family.ROW, dtype=np.float32), x[::-1]
    keep = np.random.default_rng(1).random(x.shape) < 0.5
    good = residual + (x + bias) * 2 * keep
    assert family.wrong_sum(good, x, bias, residual, case) == ""
    assert family.wrong_sum(wrong(x, bias, residual, keep), x, bias, residual, case)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, bias, keep: np.maximum(x, 0) * 2 * keep,  # no bias
        lambda x, bias, keep: (x + bias) * 2 * keep,  # no ReLU
        lambda x, bias, keep: np.maximum(x + bias, 0) * keep,  # not scaled
        lambda x, bias, keep: np.maximum(x + bias, 0) * 2,  # nothing dropped
        lambda x, bias, keep: (np.maximum(x + bias, 0) * 2 * keep)[1:],
        lambda x, bias, keep: np.full_like(x, np.nan),
    ],
)
@pytest.mark.parametrize("rows", [16, 1 << 10])
def test_wrong_relu_dropout_is_caught(rows, wrong):
    case = Case.make("float32", 0.5, rows * family.ROW)
    x, bias = case.x.reshape(rows, family.ROW), np.linspace(-2, -1, family.ROW, dtype=np.float32)
    keep = np.random.default_rng(1).random(x.shape) < 0.5
    good = np.maximum(x + bias, 0) * 2 * keep
    assert family.wrong_relu(good, x, bias, case) == ""
    assert family.wrong_relu(wrong(x, bias, keep), x, bias, case)


def test_wrong_relu_gradients_are_caught():
    case = Case.make("float32", 0.5, 64 * family.ROW)
    x, dx = case.x.reshape(64, family.ROW), case.y.reshape(64, family.ROW)
    h = np.maximum(np.random.default_rng(1).standard_normal(x.shape), 0)
    np.multiply(x, 2 * (h > 0), out=dx)
    assert family.wrong_relu_gradients(dx.sum(0), h, case) == ""
    assert "by the bias" in family.wrong_relu_gradients(dx[1:].sum(0), h, case)
    for wrong in (dx * 0.5, x * 2, x * 2 * (h == 0)):
        dx[...] = wrong
        assert "by x" in family.wrong_relu_gradients(dx.sum(0), h, case)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda soft, keep: soft * keep,  # not scaled
        lambda soft, keep: soft * 2,  # nothing dropped
        lambda soft, keep: np.roll(soft, 1) * 2 * keep,
        lambda soft, keep: (soft * 2 * keep)[1:],
        lambda soft, keep: np.full_like(soft, np.nan),
    ],
)
@pytest.mark.parametrize("rows", [16, 1 << 10])
def test_wrong_softmax_dropout_is_caught(rows, wrong):
    case = Case.make("float32", 0.5, rows * family.ROW)
    x = case.x.reshape(rows, family.ROW)
    keep = np.random.default_rng(1).random(x.shape) < 0.5
    soft = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    assert family.wrong_softmax(soft * 2 * keep, x, case) == ""
    assert family.wrong_softmax(wrong(soft, keep), x, case)


def test_wrong_softmax_gradients_are_caught():
    rng = np.random.default_rng(1)
    soft, grad = rng.random((2, 64, family.ROW))
    soft /= soft.sum(-1, keepdims=True)
    kept = soft * 2 * (rng.random(soft.shape) < 0.5)
    good = grad * kept - soft * (grad * kept).sum(-1, keepdims=True)
    assert family.wrong_softmax_gradient(good, grad, soft, kept) == ""
    for wrong in (grad * kept, good * 1.01, good[1:], good + 1e-4, grad * kept - soft):
        assert family.wrong_softmax_gradient(wrong, grad, soft, kept)


def test_wrong_gradients_are_caught():
    case = Case.make("float32", 0.5, 64 * family.ROW)
    x, dx = case.x.reshape(64, family.ROW), case.y.reshape(64, family.ROW)
    keep = np.random.default_rng(1).random(x.shape) < 0.5
    np.multiply(x, 2 * keep, out=dx)
    assert family.wrong_gradients(dx.sum(0), case) == ""
    assert "by the bias" in family.wrong_gradients(dx[1:].sum(0), case)
    dx *= 0.5
    assert "by x" in family.wrong_gradients(dx.sum(0), case)
    np.multiply(x, 2, out=dx)
    assert "dropped" in family.wrong_gradients(dx.sum(0), case)


@pytest.mark.parametrize("additive", [False, True])
def test_wrong_noise_is_caught(additive):
    x, rng = Case.make("float32", 0.5, 1 << 17).x, np.random.default_rng(0)

    def said(z, sd=0.1):
        noisy = x + 0.1 * z if additive else x * (1 + 0.1 * z)
        return family.wrong_noise(noisy, x, sd, additive)

    assert said(rng.standard_normal(x.size)) == ""
    assert "mean" in said(rng.standard_normal(x.size) + 0.1)
    assert "variance" in said(rng.standard_normal(x.size), 0.11)
    assert "share" in said(rng.uniform(-(3**0.5), 3**0.5, x.size))
    assert said(np.full(x.size, np.nan))


def test_wrong_copies_and_bits_are_caught():
    case = Case.make("float32", 0.5, 4096)
    with pytest.raises(WrongResult):
        check(COPY, case.x * 2, case)
    with pytest.raises(WrongResult):
        check(contenders.BITS, np.full(512, 255, np.uint8), case)


def test_a_wrong_result_ends_the_run(monkeypatch, capsys):
    monkeypatch.setattr(contenders, "FASTDROP", [replace(FORWARD, expression="x * 2")])
    assert cli.main(TINY) == 1
    assert "wrong result: fastdrop out=" in capsys.readouterr().err


# ---- measuring and drawing -----------------------------------------------------------------------


class FakeWatch:
    def __init__(self, name, seconds, log):
        self.name, self.seconds, self.repeats, self.log = name, seconds, 1, log

    def sample(self):
        self.log.append(self.name)
        return self.seconds


def test_contenders_take_turns():
    log = []
    watches = [FakeWatch("a", 1e-3, log), FakeWatch("b", 1e-3, log), FakeWatch("slow", 1.0, log)]
    effort = measure.Effort(rounds=12, seconds=0.1, least=3)
    timings = measure.measure(watches, effort)
    assert [timing.rounds for timing in timings] == [12, 12, 3]
    assert [timing.median for timing in timings] == [1e-3, 1e-3, 1.0]
    fast = [name for name in log if name != "slow"]
    assert all({*fast[i : i + 2]} == {"a", "b"} for i in range(0, 24, 2))
    at = [i for i, name in enumerate(log) if name == "slow"]
    assert at[0] < 12 < at[-1]


def test_noise_is_marked_not_hidden(results):
    assert measure.Timing(1.0, 0.11, 0.9, 9, 1).noisy
    assert not measure.Timing(1.0, 0.09, 0.9, 9, 1).noisy
    rows = copy.deepcopy(results["tables"])
    for row in rows:
        row["noisy"] = row["n"] == 4096 and row["contender"] in ("copy", "fastdrop")
    lines = report.table(rows, results["titles"], 120).splitlines()
    marked = [line for line in lines if "~" in line]
    assert all("4 Ki" in line for line in marked)
    assert sum(line.count("~") for line in marked) - len(marked) == 2


def test_plots(results, tmp_path):
    pytest.importorskip("matplotlib")
    with_scaling = copy.deepcopy(results)
    point = {"median_s": 1, "mad_s": 0, "min_s": 1, "noisy": False}
    with_scaling["scaling"] = [
        {"curve": curve, "threads": n, "n_bytes": size, "gb_per_s": 9.0 * n, "speedup": 1, **point}
        for curve in ("copy", "fastdrop p=0.5", "fastdrop p=0.1")
        for n in (1, 2, 4)
        for size in scaling.SIZES
    ]
    files = plots.draw(with_scaling, tmp_path)
    names = [
        f"{n}.{s}" for n in ("time-float32", "speedup-float32", "scaling") for s in ("png", "svg")
    ]
    assert [file.name for file in files] == names
    assert all(file.stat().st_size > 5000 for file in files)
    before = {file.name: file.read_bytes() for file in files if file.suffix == ".svg"}
    plots.draw(with_scaling, tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_readme_is_generated(results, in_trainer, tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    spec = importlib.util.spec_from_file_location("readme", README_TOOL)
    readme = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(readme)
    monkeypatch.setattr(readme, "README", tmp_path / "README.md")
    monkeypatch.setattr(readme, "RESULTS", tmp_path)
    report.save(results, tmp_path / "full.json")
    report.save(in_trainer, tmp_path / "trainer.json")
    begin, end = "<!-- {}:begin -->", "<!-- {}:end -->"
    parts = [begin.format(part) + "\nold\n" + end.format(part) for part in ("trainer", "bench")]
    readme.README.write_text("before\n" + "\nbetween\n".join(parts) + "\nafter\n")
    options = [str(tmp_path)]
    assert readme.main([*options, "--check"]) == 1
    assert readme.main(options) == 0
    assert readme.main([*options, "--check"]) == 0
    new = readme.README.read_text()
    assert new.startswith("before\n")
    assert new.endswith("\nafter\n")
    assert "`np.copyto`" in new
    assert "| inside a training step | (64, 128) |" in new
    assert "old" not in new
    assert (tmp_path / "time-float32.png").exists()
    assert (tmp_path / "trainer.png").exists()
    readme.README.write_text("no marks")
    with pytest.raises(SystemExit, match="lacks"):
        readme.main(options)
    assert json.loads((tmp_path / "full.json").read_text()) == results


# ---- inside a training step ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def in_trainer(tmp_path_factory):
    """A run's results inside a training step, of few rounds and small matrices."""
    path = tmp_path_factory.mktemp("trainer") / "trainer.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "ROUNDS", 1)
        patch.setattr(trainer, "LAYERS", {k: (64, 8, v[2]) for k, v in trainer.LAYERS.items()})
        patch.setattr(trainer, "TORCH", {k: (64, 8, v[2]) for k, v in trainer.TORCH.items()})
        assert cli.main(["--quick", "--trainer", "--against", "none", "--json", str(path)]) == 0
    return report.load(path)


def test_inside_a_training_step(in_trainer, capsys):
    found = in_trainer["trainer"]
    shapes = {row["shape"] for row in found["rows"]}
    assert {"(64, 128)", "(64, 512)", "(64, 2048)", "LSTM (32, 256)"} <= shapes
    for row in found["rows"]:
        assert set(row) == set(trainer.Row.__annotations__)
        assert 0 < row["cold_min_us"] <= row["cold_us"]
        assert row["of"] in ("fastdrop", "numpy", "torch")
    calls = [row["call"] for row in found["rows"] if row["shape"] == "(64, 128)"]
    assert [c for c in calls if "torch" not in c and "F." not in c] == [
        *(f"{name}, forward" for name in trainer.FORWARD),
        *(f"{name}, backward" for name in trainer.BACKWARD),
    ]
    text = report.trainer(found)
    for target in found["figures"]:
        assert target["case"] in text
        assert (target["must"] is None) == ("ReLU / nn.ReLUDropout" in target["case"])
        there = "torch" not in target["case"] or contenders.installed("torch")
        assert there == (target["measured"] is not None)
    steps = [t for t in found["figures"] if "a step" in t["case"]]
    assert len(steps) == 2 * (2 + 2) + len(trainer.TORCH)
    assert all(t["at_least"] for t in steps)
    cases = [t["case"] for t in found["figures"] if t["case"].startswith("16 elements")]
    assert cases == [f"16 elements: {expression}" for expression in trainer.SHORT]
    one = trainer.step_us(found["rows"], "(64, 128)", "layer")
    parts = [r["cold_us"] for r in found["rows"] if r["shape"] == "(64, 128)"][2:3]
    assert one > parts[0]
    assert trainer.step_us(found["rows"], "(64, 128)", "nobody") is None


def test_training_steps_compare(in_trainer):
    new = copy.deepcopy(in_trainer)
    for row in new["trainer"]["rows"]:
        if row["of"] == "fastdrop":
            row["cold_us"] *= 2
            row["cold_min_us"] *= 2
    text, failed = report.compare(new, in_trainer, 0.1)
    assert failed
    assert "(64, 512): layer, backward, times h * 2" in text
    assert report.compare(in_trainer, in_trainer, 0.1)[1] is False
    assert report.compare(in_trainer, new, 0.1)[1] is False


def test_a_wrong_contender_is_noticed_inside_a_training_step(monkeypatch):
    monkeypatch.setitem(trainer.BACKWARD, "layer", "d * two")
    names = trainer._names((64, 128))
    with pytest.raises(contenders.WrongResult, match="another mask"):
        trainer._check(trainer._calls(names), (64, 128))


@pytest.mark.parametrize("name", ["nn.ReLUDropout", "NumPy, ReLU", "NumPy by random bits, ReLU"])
@pytest.mark.parametrize(
    ("way", "wrong", "said"),
    [
        ("forward", lambda y: y * 2, "kept elements"),
        ("forward", lambda y: y * (np.arange(y.size) % 2).reshape(y.shape), "dropped"),
        ("backward", lambda pair: (pair[0] * 2, pair[1]), "by h"),
        ("backward", lambda pair: (pair[0], pair[1] / 2), "by the bias"),
    ],
)
def test_a_wrong_relu_dropout_is_noticed_inside_a_training_step(name, way, wrong, said):
    names = trainer._names((64, 128))
    calls = trainer._calls(names)
    trainer._check_relu(calls, (64, 128), names["bias"])
    bad = [
        replace(call, run=lambda h, run=call.run: wrong(run(h)))
        if (call.name, call.way) == (name, way)
        else call
        for call in calls
    ]
    with pytest.raises(WrongResult, match=f"^{name}: .*{said}"):
        trainer._check_relu(bad, (64, 128), names["bias"])


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_numpy_by_random_bits_keeps_as_many_as_it_should(p):
    keep = contenders.random_bits(p)(100_001)
    assert keep.dtype == bool
    assert keep.size == 100_001
    assert contenders.wrong_rate(keep, p) == ""
