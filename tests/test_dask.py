"""Dask: any chunking, any worker, the bits of the single-machine call."""

import doctest
import os
import re

import ml_dtypes
import numpy as np
import pytest
import test_docs
from conftest import bits_of
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdrop as fd
from fastdrop import _reference

dask = pytest.importorskip("dask", reason="needs: pip install 'dask[array]'")
da = pytest.importorskip("dask.array")
fdd = pytest.importorskip("fastdrop.dask")


@pytest.fixture(autouse=True)
def _one_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def normal(shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def assert_same_bits(y, want):
    y = np.asarray(y)
    assert y.dtype == want.dtype
    np.testing.assert_array_equal(bits_of(y), bits_of(want))


@st.composite
def chunked(draw):
    """A shape and any cut of it into chunks."""
    shape = draw(st.lists(st.integers(1, 60), min_size=0, max_size=3).map(tuple))
    chunks = []
    for n in shape:
        cuts = sorted(draw(st.sets(st.integers(1, n), max_size=4)) | {n})
        chunks.append(tuple(b - a for a, b in zip([0, *cuts], cuts, strict=False)))
    return shape, tuple(chunks)


GAUSSIAN = {"gaussian_dropout": 0.3, "gaussian_noise": 0.7}  # and a rate


FAMILY = {  # arguments
    "alpha_dropout": {"p": 0.3},
    "alpha_dropout, shared": {"p": 0.3, "noise_shape": (1, None, 6)},
    "alpha_dropout of all": {"p": 1.0},
    "feature_alpha_dropout": {"p": 0.3},
    "drop_path": {"p": 0.3},
    "drop_path, unscaled": {"p": 0.3, "scale_by_keep": False},
    "drop_path by default": {},
}


def of_family(module, case):
    """A function of the family, and its arguments."""
    return getattr(module, case.partition(",")[0].partition(" ")[0]), FAMILY[case]


def recipes(shape):
    """A mask, and a noise of each kind."""
    return {
        "mask": fd.Generator(5).mask(shape, 0.3),
        "multiplied": fd.Noise(5, 0, shape, 0.7),
        "added": fd.Noise(5, 0, shape, 0.7, additive=True),
    }


# ---- the same bits -------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(chunked(), st.sampled_from([0.0, 0.1, 0.5, 1.0]), st.integers(0, 2**64 - 1))
def test_any_chunking_gives_the_plain_call(case, p, seed):
    shape, chunks = case
    x = normal(shape)
    y = fdd.dropout(da.from_array(x, chunks=chunks), p, rng=seed)
    assert y.chunks == chunks
    assert_same_bits(y.compute(), fd.dropout(x, p, rng=seed))


@pytest.mark.parametrize("chunks", [(40, 50), (7, 50), (40, 9), (13, 17)])
def test_every_dtype(dtype, chunks):
    x = normal((40, 50), dtype)
    y = fdd.dropout(da.from_array(x, chunks=chunks), 0.3, rng=5)
    assert y.dtype == dtype
    assert_same_bits(y.compute(), fd.dropout(x, 0.3, rng=5))


@pytest.mark.parametrize("function", list(GAUSSIAN))
@settings(max_examples=40, deadline=None)
@given(chunked(), st.booleans(), st.integers(0, 2**64 - 1))
def test_any_chunking_gives_the_same_noise(function, case, noisy, seed):
    shape, chunks = case
    x, rate = normal(shape), GAUSSIAN[function] * noisy
    y = getattr(fdd, function)(da.from_array(x, chunks=chunks), rate, rng=seed)
    assert y.chunks == chunks
    assert_same_bits(y.compute(), getattr(fd, function)(x, rate, rng=seed))


@pytest.mark.parametrize("function", list(GAUSSIAN))
@pytest.mark.parametrize("chunks", [(40, 50), (7, 50), (13, 17)])
def test_noise_of_every_dtype(function, dtype, chunks):
    x = normal((40, 50), dtype)
    rate = GAUSSIAN[function]
    gen, plain = fd.Generator(5), fd.Generator(5)
    for _ in range(2):
        lazy = da.from_array(x, chunks=chunks)
        y, noise = getattr(fdd, function)(lazy, rate, rng=gen, return_mask=True)
        want, of_plain = getattr(fd, function)(x, rate, rng=plain, return_mask=True)
        assert noise == of_plain
        assert gen.position == plain.position
        assert y.dtype == dtype
        assert_same_bits(y.compute(), want)
        grad = fdd.backward(noise, da.from_array(x, chunks=11))
        assert_same_bits(grad.compute(), noise.backward(x))


@pytest.mark.parametrize("kind", ["mask", "multiplied", "added"])
def test_recipes_of_each_kind(kind):
    x = normal((40, 50))
    lazy = da.from_array(x, chunks=(13, 17))
    whole, larger = recipes((40, 50))[kind], recipes((100, 200))[kind]
    window = larger[20:60, 30:80]
    for recipe in (whole, window, larger[1:81:2, 1:151:3]):
        assert_same_bits(fdd.apply(recipe, lazy).compute(), recipe.apply(x))
        assert_same_bits(fdd.backward(recipe, lazy).compute(), recipe.backward(x))
    names = {call(r, lazy).name for r in (whole, window) for call in (fdd.apply, fdd.backward)}
    assert len(names) == 4
    assert fdd.apply(recipes((40, 50))[kind], lazy).name in names


@pytest.mark.parametrize("noise_shape", [(1, 50, 6), (40, 1, 6), (40, None, 1), (1, 1, 1)])
@pytest.mark.parametrize("mode", ["upscale_in_train", "downscale_in_infer"])
@pytest.mark.parametrize("training", [True, False])
def test_every_argument(noise_shape, mode, training):
    x = normal((40, 50, 6))
    arguments = {"noise_shape": noise_shape, "mode": mode, "training": training}
    lazy = da.from_array(x, chunks=(13, 17, 4))
    y, mask = fdd.dropout(lazy, 0.3, rng=5, return_mask=True, **arguments)
    want, plain = fd.dropout(x, 0.3, rng=5, return_mask=True, **arguments)
    assert mask == plain
    assert_same_bits(y.compute(), want)


def test_inference_returns_x_itself_and_takes_no_position():
    gen = fd.Generator(5)
    x = da.ones((4, 5), chunks=2)
    assert fdd.dropout(x, 0.5, rng=gen, training=False) is x
    for function, rate in GAUSSIAN.items():
        arguments = {"rng": gen, "training": False, "return_mask": True}
        y, noise = getattr(fdd, function)(x, rate, **arguments)
        assert y is x
        assert noise == getattr(fd, function)(np.ones((4, 5)), rate, **arguments)[1]
    assert gen.position == 0


def test_backward_has_chunks_of_its_own():
    x = normal((40, 50))
    y, mask = fdd.dropout(da.from_array(x, chunks=(40, 9)), 0.3, rng=5, return_mask=True)
    grad = fdd.backward(mask, da.from_array(x.astype(np.float64), chunks=(7, 50)))
    assert grad.chunks != y.chunks
    assert_same_bits(grad.compute(), mask.backward(x.astype(np.float64)))
    assert_same_bits(fdd.apply(mask, da.from_array(x, chunks=11)).compute(), y.compute())


@pytest.mark.parametrize("case", list(FAMILY))
@pytest.mark.parametrize("training", [True, False])
def test_members_of_the_family(case, training):
    x = normal((40, 50, 6))
    lazy, gen = da.from_array(x, chunks=(13, 17, 4)), fd.Generator(5)
    (call, arguments), (plain, _) = of_family(fdd, case), of_family(fd, case)
    y, mask = call(lazy, rng=gen, training=training, return_mask=True, **arguments)
    want, of_plain = plain(x, rng=5, training=training, return_mask=True, **arguments)
    assert mask == of_plain
    assert gen.position == training
    assert (y is lazy) == (not training)
    assert_same_bits(y.compute(), want)
    assert_same_bits(fdd.backward(mask, lazy).compute(), mask.backward(x))


@pytest.mark.parametrize("training", [True, False])
def test_the_rest_of_the_family_is_a_noise_shape(training):
    arguments = {"p": 0.3, "rng": 5, "training": training}
    for function, shape, noise_shape in (
        ("dropout1d", (5, 6, 7), (None, None, 1)),
        ("dropout2d", (5, 6, 7, 2), (None, None, 1, 1)),
        ("dropout3d", (5, 6, 7, 2, 3), (None, None, 1, 1, 1)),
        ("locked_dropout", (5, 6, 7), (1, None, None)),
        ("embedding_dropout", (50, 7), (None, 1)),
    ):
        x = normal(shape)
        y = fdd.dropout(da.from_array(x, chunks=3), noise_shape=noise_shape, **arguments)
        assert_same_bits(y.compute(), getattr(fd, function)(x, **arguments))


@pytest.mark.parametrize("case", list(FAMILY))
def test_members_of_the_family_refuse_what_the_plain_ones_do(case):
    gen, (call, arguments), (plain, _) = fd.Generator(5), of_family(fdd, case), of_family(fd, case)
    name = call.__name__
    with pytest.raises(TypeError, match=rf"^x must be .*; fastdrop\.{name} takes NumPy arrays"):
        call(np.ones((4, 5, 6)), rng=gen, **arguments)
    for shape, wrong in (((4, 5, 6), {"p": 1.5}), ((4, 5, 6), {"p": "5"}), ((), arguments)):
        if name == "alpha_dropout" and wrong is arguments and "noise_shape" not in wrong:
            continue  # of a scalar too
        with pytest.raises((TypeError, ValueError)) as error:
            plain(np.ones(shape), **wrong)
        with pytest.raises(error.type, match=f"^{re.escape(str(error.value))}$"):
            call(da.ones(shape), rng=gen, **wrong)
    assert gen.position == 0


def test_other_members_of_the_family_by_their_mask():
    x = normal((40, 50))
    want, mask = fd.alpha_dropout(x, 0.3, rng=5, return_mask=True)
    lazy = da.from_array(x, chunks=(13, 17))
    assert_same_bits(fdd.apply(mask, lazy).compute(), want)
    assert_same_bits(fdd.backward(mask, lazy).compute(), mask.backward(x))


def test_a_window_of_a_mask_is_a_mask_too():
    x = normal((40, 50))
    window = fd.Generator(5).mask((100, 200), 0.3)[20:60, 30:80]
    lazy = da.from_array(x, chunks=(13, 17))
    assert_same_bits(fdd.apply(window, lazy).compute(), window.apply(x))


def test_what_follows_may_cut_and_rechunk():
    x = normal((100, 70))
    y, want = fdd.dropout(da.from_array(x, chunks=(33, 20)), 0.3, rng=5), fd.dropout(x, 0.3, rng=5)
    for change in (
        lambda a: a[5:40, 3:60],
        lambda a: a[::3, ::-1],
        lambda a: a[[3, 50, 70]],
        lambda a: a.T,
        lambda a: (a * 2)[50:] + 1,
        lambda a: a.reshape(-1)[100:5000],
    ):
        assert_same_bits(change(y).compute(), change(want))
    assert_same_bits(y.rechunk((10, 7)).compute(), want)
    assert_same_bits(
        (fdd.dropout(da.from_array(x, chunks=10) + 1, 0.3, rng=5)).compute(),
        fd.dropout(x + 1, 0.3, rng=5),
    )


def test_an_array_that_no_machine_holds():
    """2^42 elements, 8 TiB: the last ones are those of the whole's mask."""
    x = da.ones((2**20, 2**22), np.float16, chunks=(2**17, 2**20))[-3:]  # few blocks, cut lazily
    whole = fd.Generator(42).mask((2**20, 2**22), 0.1)
    y = fdd.apply(whole[-3:], x)[-1, -100:]
    keep = _reference.keep_range(42, 0, 2**42 - 100, 100, 0.1)
    np.testing.assert_array_equal(y.compute() != 0, keep)


def test_noise_of_an_array_that_no_machine_holds():
    x = da.zeros((2**20, 2**22), dtype=np.float16, chunks=(2**17, 2**20))[-3:]
    whole = fd.Noise(42, 0, (2**20, 2**22), additive=True)
    y = fdd.apply(whole[-3:], x)[-1, -100:]
    assert_same_bits(y.compute(), whole[-1, -100:].normals().astype(np.float16))


# ---- lazy, and pure ------------------------------------------------------------------------------


def test_nothing_is_computed_until_asked():
    def fail():
        raise RuntimeError("computed")

    x = da.from_delayed(dask.delayed(fail)(), (4,), np.float32)
    gen = fd.Generator(5)
    y = fdd.dropout(x, 0.5, rng=gen)
    assert gen.position == 1
    with pytest.raises(RuntimeError, match="computed"):
        y.compute()
    assert gen.position == 1


def test_computing_again_gives_the_same():
    y = fdd.dropout(da.ones(1000, chunks=300), 0.5, rng=fd.Generator())
    np.testing.assert_array_equal(y.compute(), y.compute())


def test_what_is_declared_is_what_comes():
    for array in (np.arange(1.0, 9.0, dtype=">f4"), np.arange(1.0, 9.0).view(np.matrix)):
        x = da.from_array(array, chunks=-1, asarray=False)
        y = fdd.dropout(x, 0.5, rng=5)
        computed = y.compute()
        assert type(y._meta) is type(computed) is np.ndarray
        assert y.dtype == computed.dtype == array.dtype.newbyteorder("=")
        assert_same_bits(y.view("u1").compute(), computed.view("u1"))


def test_equal_recipes_have_equal_names():
    x = da.ones(1000, chunks=300)
    gen = fd.Generator(5)
    first, second = (fdd.dropout(x, 0.5, rng=gen) for _ in range(2))
    assert first.name == fdd.dropout(x, 0.5, rng=5).name
    names = [first, second, fdd.dropout(x, 0.4, rng=5), fdd.dropout(x.rechunk(200), 0.5, rng=5)]
    assert len({y.name for y in names}) == 4
    mask = fd.Generator(5).mask(1000)
    assert fdd.apply(mask, x).name != fdd.backward(mask, x).name


def test_one_task_a_block_that_fuses():
    x = da.ones((100, 70), chunks=10)
    y = fdd.dropout(x, 0.5, rng=5) * 2
    (optimized,) = dask.optimize(y)
    assert len(optimized.__dask_graph__()) == x.npartitions


def test_the_default_generator_is_that_of_the_caller():
    fd.seed(7)
    y = fdd.dropout(da.ones(1000, chunks=300))
    fd.seed(7)
    assert_same_bits(y.compute(), fd.dropout(np.ones(1000)))
    fd.seed()


# ---- what is refused -----------------------------------------------------------------------------


def refused():
    x = da.ones((4, 5), chunks=2)
    masked = da.ma.masked_array(x, x > 0)
    unknown = x[x[:, 0] > 0]
    yield TypeError, r"^x must be a dask\.array\.Array, not ndarray; .*from_array", np.ones(3), {}
    yield TypeError, r"^x has dtype int64; .*x\.astype", da.arange(9, chunks=3), {}
    yield TypeError, r"^x is a MaskedArray", masked, {}
    yield ValueError, r"^x has shape \(nan, 5\).*x\.compute_chunk_sizes\(\)", unknown, {}
    yield ValueError, r"^p=1\.5 is not a probability", x, {"p": 1.5}
    yield ValueError, r"^mode='both' is unknown", x, {"mode": "both"}
    yield ValueError, r"^noise_shape \(2, 5\) does not fit", x, {"noise_shape": (2, 5)}


@pytest.mark.parametrize(("error", "message", "x", "arguments"), list(refused()))
@pytest.mark.parametrize("training", [True, False])
def test_refused(error, message, x, arguments, training):
    gen = fd.Generator(5)
    with pytest.raises(error, match=message):
        fdd.dropout(x, rng=gen, training=training, **arguments)
    assert gen.position == 0


def test_the_plain_function_does_not_compute_a_whole_array():
    x = da.ones(8, chunks=2)
    for call in (fd.dropout, fd.Generator(5).mask(8).apply):
        with pytest.raises(TypeError, match=r"^x is a Dask Array.*fastdrop\.dask, or give x\."):
            call(x)


def test_sizes_found_out_are_sizes_known():
    x = da.from_array(normal(100), chunks=30)
    known = x[x > 0].compute_chunk_sizes()
    values = x.compute()
    assert_same_bits(
        fdd.dropout(known, 0.5, rng=5).compute(), fd.dropout(values[values > 0], 0.5, rng=5)
    )


@pytest.mark.parametrize("function", list(GAUSSIAN))
@pytest.mark.parametrize("training", [True, False])
def test_noise_refused(function, training):
    """Arrays are refused as by dropout, rates as by the plain function, which is named."""
    gen = fd.Generator(5)
    call, rate = getattr(fdd, function), GAUSSIAN[function]
    for error, message, x, arguments in refused():
        if not arguments:
            with pytest.raises(error, match=message):
                call(x, rate, rng=gen, training=training)
    with pytest.raises(TypeError, match=rf"not ndarray; fastdrop\.{function} takes NumPy arrays"):
        call(np.ones(3), rate, rng=gen, training=training)
    x = da.ones(4, chunks=2)
    for wrong in (-0.1, np.nan, "5", True, 1.0 if function == "gaussian_dropout" else 1e39):
        with pytest.raises((TypeError, ValueError)) as plain:
            getattr(fd, function)(np.ones(4), wrong)
        with pytest.raises(plain.type, match=f"^{re.escape(str(plain.value))}$"):
            call(x, wrong, rng=gen, training=training)
    with pytest.raises(TypeError, match=r"^rng must be"):
        call(x, rate, rng="5", training=training)
    assert gen.position == 0


@pytest.mark.parametrize("function", ["apply", "backward"])
@pytest.mark.parametrize("kind", ["mask", "multiplied", "added"])
def test_recipes_that_do_not_fit(function, kind):
    name = {"apply": "x", "backward": "grad"}[function]
    call, recipe = getattr(fdd, function), recipes((4, 5))[kind]
    what = type(recipe).__name__
    message = rf"^{name} has shape \(5, 4\); the {what.lower()} is for \(4, 5\)"
    with pytest.raises(ValueError, match=message):
        call(recipe, da.ones((5, 4)))
    message = rf"^{name} must be a dask\.array\.Array, .*; fastdrop\.{what}\.{function} takes NumPy"
    with pytest.raises(TypeError, match=message):
        call(recipe, np.ones((4, 5)))


@pytest.mark.parametrize("function", ["apply", "backward"])
def test_what_is_no_recipe(function):
    keep = fd.Generator(5).mask((4, 5)).keep()
    with pytest.raises(TypeError, match=r"^mask must be a fastdrop\.Mask or fastdrop\.Noise, not "):
        getattr(fdd, function)(keep, da.ones((4, 5)))


def test_a_block_of_another_size_than_declared():
    x = da.from_delayed(dask.delayed(np.ones)(5, np.float32), (4,), np.float32)
    with pytest.raises(ValueError, match=r"x has shape \(5,\); the mask is for \(4,\)"):
        fdd.dropout(x, 0.5, rng=5).compute()


# ---- worker processes ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def distributed():
    return pytest.importorskip("distributed", reason="needs: pip install distributed")


@pytest.fixture(scope="module")
def client(distributed):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "60s"}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_on_a_cluster_of_processes(client, dtype):
    x = normal((600, 70), dtype)
    want, mask = fd.dropout(x, 0.3, rng=5, return_mask=True)
    for chunks in ((600, 70), (50, 70), (33, 20)):
        y = fdd.dropout(da.from_array(x, chunks=chunks), 0.3, rng=5)
        assert_same_bits(client.compute(y).result(), want)
    lazy = da.from_array(x, chunks=(50, 70))
    assert_same_bits(client.compute(fdd.backward(mask, lazy)).result(), mask.backward(x))
    for function, rate in GAUSSIAN.items():
        y, noise = getattr(fdd, function)(lazy, rate, rng=5, return_mask=True)
        assert_same_bits(client.compute(y).result(), getattr(fd, function)(x, rate, rng=5))
        assert_same_bits(client.compute(fdd.backward(noise, lazy)).result(), noise.backward(x))


def test_blocks_lost_with_their_worker_come_back_the_same(client, distributed):
    x = normal((600, 70))
    y = client.persist(fdd.dropout(da.from_array(x, chunks=(10, 70)), 0.3, rng=5))
    distributed.wait(y)
    holders = {name: len(keys) for name, keys in client.has_what().items()}
    pids = set(client.run(os.getpid).values())
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert sum(n > 0 for n in holders.values()) > 1  # the blocks are in several processes
    client.restart_workers([max(holders, key=holders.get)])  # and the fullest one's are gone
    assert_same_bits(client.compute(y).result(timeout=60), fd.dropout(x, 0.3, rng=5))


# ---- documentation -------------------------------------------------------------------------------


def test_docstrings():
    result = doctest.testmod(fdd)
    assert result.attempted > 0
    assert result.failed == 0
    for name in fdd.__all__:
        test_docs.test_sections(name, getattr(fdd, name))
