"""thinc: its own dropout tests with our Ops and layer, recipes for masks, configs and seeds."""

import doctest
import pickle
import re
import tracemalloc
from fractions import Fraction
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import test_docs
from conftest import bits_of

import fastdrop as fd

thinc = pytest.importorskip("thinc.api", reason="needs: pip install thinc")
fdt = pytest.importorskip("fastdrop.thinc")


@pytest.fixture(autouse=True)
def _stock_ops():
    """Put back NumpyOps after each test."""
    with thinc.use_ops("cpu"):
        yield


def normal(shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def decayed():
    """What a schedule of thinc 9, or of 8, gives for the first step."""
    schedule = thinc.decaying(0.5, 1e-4)
    return schedule(0) if callable(schedule) else next(schedule)


def arrays():
    """A list of arrays, with an empty one, one that is not contiguous and one of another shape."""
    return [normal((5, 6)), normal((0, 6)), normal((6, 7)).T, normal((4, 3, 2))]


# ---- thinc's own tests ---------------------------------------------------------------------------

ops_tests = pytest.importorskip("thinc.tests.backends.test_ops")
layer_tests = pytest.importorskip("thinc.tests.layers.test_layers_api")
model_tests = pytest.importorskip("thinc.tests.model.test_model")


@pytest.mark.parametrize("name", ["test_get_dropout_empty", "test_get_dropout_not_empty"])
@pytest.mark.parametrize("rng", [None, 0])
def test_of_thinc_on_ops(name, rng):
    getattr(ops_tests, name)(fdt.FastdropOps(rng=rng))


def test_of_thinc_on_the_methods_of_ops():
    ops_tests.test_ops_consistency(fdt.FastdropOps)


@pytest.mark.parametrize("data", ["array2d", "ragged", "padded", "list"])
def test_of_thinc_on_the_layer(monkeypatch, data):
    monkeypatch.setattr(layer_tests, "Dropout", fdt.Dropout)
    array = layer_tests.array2d
    layer_tests.test_dropout([array, array] if data == "list" else getattr(layer_tests, data))


def test_of_thinc_on_the_rate(monkeypatch):
    monkeypatch.setattr(model_tests, "Dropout", fdt.Dropout)
    model_tests.test_set_dropout()


# ---- Ops -----------------------------------------------------------------------------------------


def test_thinc_finds_the_ops_by_name():
    ops = thinc.get_ops("fastdrop", rng=3)
    assert type(ops) is fdt.FastdropOps
    assert ops.rng.seed == 3
    assert thinc.get_ops("cpu").name == "numpy"  # what nobody asked for does not change
    config = thinc.Config().from_str('[ops]\n@ops = "FastdropOps"\nrng = 7')
    assert thinc.registry.resolve(config)["ops"].rng.seed == 7


@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(200, 300), (7,), 5, (0, 3), ()])
def test_masks_are_scales_and_zeros(p, shape):
    gen = fd.Generator(5)
    ops = fdt.FastdropOps(rng=gen)
    for _ in range(2):
        want = fd.Generator(5, position=gen.position).mask(shape, p).apply(np.ones(shape, "f4"))
        mask = ops.get_dropout_mask(shape, p)
        assert mask.dtype == np.float32
        np.testing.assert_array_equal(bits_of(mask), bits_of(want))
    assert gen.position == 2


@pytest.mark.parametrize("drop", [None, 0, 0.0])
def test_without_dropout_no_position_is_used(drop):
    ops = fdt.FastdropOps(rng=5)
    before = np.random.get_state()[2]  # noqa: NPY002
    assert (ops.get_dropout_mask((3, 4), drop) == 1).all()
    assert (fdt.FastdropOps().get_dropout_mask((3, 4), drop) == 1).all()
    assert ops.rng.position == 0
    assert np.random.get_state()[2] == before  # noqa: NPY002


@pytest.mark.parametrize("drop", [-0.1, 1.5, np.nan])
def test_no_probability(drop):
    with pytest.raises(ValueError, match=r"^drop=.* is not a probability"):
        fdt.FastdropOps().get_dropout_mask((3, 4), drop)
    with pytest.raises(ValueError, match=r"^rate=.* is not a probability"):
        fdt.Dropout(drop)
    model = thinc.set_dropout_rate(fdt.Dropout(), drop)
    with pytest.raises(ValueError, match=r"^dropout_rate=.* is not a probability"):
        model(normal(3), is_train=True)


RATES = {
    "None": (None, 0.0),
    "0-d": (np.array(0.5), 0.5),
    "0-d int": (np.array(1), 1.0),
    "0-d zero": (np.array(0.0, np.float32), 0.0),
    "one element": (np.array([[0.5]], np.float16), 0.5),
    "float32": (np.float32(0.25), 0.25),
    "bfloat16": (ml_dtypes.bfloat16(0.25), 0.25),
    "fraction": (Fraction(1, 2), 0.5),
    "False": (False, 0.0),
    "True": (True, 1.0),
    "of a schedule": (decayed(), 0.5),
}


@pytest.mark.parametrize(("rate", "p"), list(RATES.values()), ids=list(RATES))
@pytest.mark.parametrize("set_later", [False, True])
def test_rates_that_thinc_takes(rate, p, set_later):
    def made(layer, **arguments):
        if set_later:
            return thinc.set_dropout_rate(layer(0.75, **arguments), rate)
        return layer(rate, **arguments)

    x = normal((40, 70))
    for layer in (thinc.Dropout, fdt.Dropout):
        model = made(layer)
        kept = model.attrs["dropout_rate"]
        assert kept is rate or (not set_later and kept == p and type(kept) is float)
        assert model.predict(x) is x
    stock, _ = made(thinc.Dropout)(np.ones_like(x), is_train=True)
    assert set(np.unique(stock)) == set(np.unique(fd.dropout(np.ones_like(x), p, rng=5)))
    model, gen = made(fdt.Dropout, rng=(ours := fd.Generator(5))), fd.Generator(5)
    y, backprop = model(x, is_train=True)
    if p == 0.0:
        assert y is x
        assert backprop(x) is x
        assert ours.position == 0
    else:
        want, mask = fd.dropout(x, p, rng=gen, return_mask=True)
        same(y, want)
        same(backprop(x), mask.backward(x))
    mask = fdt.FastdropOps(rng=5).get_dropout_mask(x.shape, rate)
    same(mask, fd.Generator(5).mask(x.shape, p).multiplier())


@pytest.mark.parametrize("rate", [None, 0.25, np.float32(0.25), Fraction(1, 4), np.array(0.25)])
def test_rates_are_saved(rate):
    model = fdt.Dropout(0.5).from_bytes(fdt.Dropout(rate).to_bytes())
    assert model.attrs["dropout_rate"] == rate


def test_an_array_is_read_at_each_call():
    rate = np.array(0.0)
    x = normal(9)
    for layer in (thinc.Dropout, fdt.Dropout):
        model = layer(rate)
        rate[...] = 0.0
        assert model(x, is_train=True)[0] is x
        rate[...] = 1.0
        assert not model(x, is_train=True)[0].any()


def test_layers_of_thinc_with_our_ops_take_the_same_rates():
    x = normal((20, 10))
    with thinc.use_ops("fastdrop", rng=5):
        model = thinc.Relu(50, dropout=0.5).initialize(x)
    relu = model.predict(x)
    for rate, p in RATES.values():
        thinc.set_dropout_rate(model, rate)
        gen = model.ops.rng = fd.Generator(5)
        for layer in model.walk():
            layer.ops.rng = gen
        want = fd.Generator(5).mask(relu.shape, p).apply(relu) if p else relu
        np.testing.assert_array_equal(model(x, is_train=True)[0], want)


def test_prediction_does_not_read_the_rate():
    """As in thinc, where a rate may be one for training only, or a schedule."""
    x = normal(9)
    for rate in (2.0, "half", thinc.constant(0.5), iter([0.5]), [0.5]):
        for layer in (thinc.Dropout, fdt.Dropout):
            model = thinc.set_dropout_rate(layer(0.5), rate)
            assert model.predict(x) is x
            model.attrs["is_enabled"] = False
            assert model(x, is_train=True)[0] is x


@pytest.mark.parametrize("schedule", [lambda step: 0.5, iter([0.5])], ids=["thinc 9", "thinc 8"])
def test_a_schedule_has_to_be_asked_before_training(schedule):
    x = normal(9)
    for layer in (thinc.Dropout, fdt.Dropout):
        model = layer(schedule)
        assert model.predict(x) is x
        with pytest.raises(TypeError):
            model(x, is_train=True)
    with pytest.raises(TypeError, match=r"^dropout_rate is a schedule; .*schedule\(step\)"):
        model(x, is_train=True)
    with pytest.raises(TypeError, match=r"^drop is a schedule; "):
        fdt.FastdropOps().get_dropout_mask(9, schedule)


@pytest.mark.parametrize(
    "rate",
    ["half", [0.5], np.array([0.5, 0.5]), np.array([]), np.array(0.5j)],
)
def test_no_number(rate):
    with pytest.raises(TypeError, match=r"^rate must be a real number in \[0, 1\], not "):
        fdt.Dropout(rate)
    with pytest.raises(TypeError, match=r"^drop must be a real number in \[0, 1\], not "):
        fdt.FastdropOps().get_dropout_mask(9, rate)


def test_an_array_of_no_probability():
    with pytest.raises(ValueError, match=r"^rate=1\.5 is not a probability"):
        fdt.Dropout(np.array(1.5))


def test_rng_of_an_unknown_kind():
    for make in (fdt.FastdropOps, fdt.Dropout, fdt.use_fastdrop):
        with pytest.raises(TypeError, match=r"must be a fastdrop\.Generator, an int"):
            make(rng="5")


def test_the_seed_of_thinc_is_ours_too():
    model, ops = fdt.Dropout(0.5), fdt.FastdropOps()

    def draw():
        return [ops.get_dropout_mask(99, 0.5) for _ in range(2)] + [model(normal(99), True)[0]]

    thinc.fix_random_seed(3)
    first = draw()
    thinc.fix_random_seed(3)
    again = draw()
    other = draw()
    for a, b, c in zip(first, again, other, strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a != c).any()
    assert (first[0] != first[1]).any()


def test_a_refused_call_leaves_the_seed_of_thinc():
    before = np.random.get_state()  # noqa: NPY002
    for refused in (
        lambda: fdt.Dropout(0.5)(np.arange(3), is_train=True),
        lambda: fdt.FastdropOps().get_dropout_mask((-1, 2), 0.5),
        lambda: fdt.FastdropOps().get_dropout_mask(3, 2.0),
    ):
        with pytest.raises((TypeError, ValueError)):
            refused()
    after = np.random.get_state()  # noqa: NPY002
    assert after[2] == before[2]
    np.testing.assert_array_equal(after[1], before[1])


def test_layers_of_thinc_use_the_ops():
    with thinc.use_ops("fastdrop", rng=5):
        model = thinc.chain(thinc.Relu(50, dropout=0.5), thinc.Dropout(0.25))
    x = normal((20, 10))
    model.initialize(x)
    y, backprop = model(x, is_train=True)
    relu, gen = model.predict(x), fd.Generator(5)
    masks = [gen.mask((20, 50), p) for p in (0.5, 0.25)]
    np.testing.assert_allclose(y, masks[1].apply(masks[0].apply(relu)), rtol=1e-6)
    assert gen.position == model.ops.rng.position
    assert backprop(y).shape == x.shape


def test_the_callback_for_spacy():
    nlp = object()
    assert fdt.use_fastdrop(rng=3)(nlp) is nlp
    assert thinc.get_current_ops().rng.seed == 3

    class OfAnotherDevice(thinc.NumpyOps):
        pass

    ops = OfAnotherDevice()
    thinc.set_current_ops(ops)
    assert fdt.use_fastdrop()(nlp) is nlp
    assert thinc.get_current_ops() is ops


# ---- the layer -----------------------------------------------------------------------------------


def same(y, want):
    assert y.dtype == want.dtype
    np.testing.assert_array_equal(bits_of(y), bits_of(want))


def test_an_array(dtype):
    x = normal((40, 70), dtype)
    x[::3] = np.nan
    want, mask = fd.dropout(x, 0.3, rng=5, return_mask=True)
    y, backprop = fdt.Dropout(0.3, rng=5)(x, is_train=True)
    same(y, want)
    assert (bits_of(y)[~mask.keep()] == 0).all()
    for _ in range(2):
        same(backprop(x), mask.backward(x))


def test_ragged():
    x, lengths = normal((40, 70)), np.array([10, 0, 30], np.int32)
    want, mask = fd.dropout(x, 0.3, rng=5, return_mask=True)
    y, backprop = fdt.Dropout(0.3, rng=5)(thinc.Ragged(x, lengths), is_train=True)
    dx = backprop(thinc.Ragged(x, lengths))
    for ragged, data in ((y, want), (dx, mask.backward(x))):
        assert type(ragged) is thinc.Ragged
        same(ragged.data, data)
        np.testing.assert_array_equal(ragged.lengths, lengths)


def test_padded():
    rows = [normal((n, 6)) for n in (3, 7, 1)]
    padded = thinc.get_current_ops().list2padded(rows)
    want, mask = fd.dropout(padded.data, 0.3, rng=5, return_mask=True)
    y, backprop = fdt.Dropout(0.3, rng=5)(padded, is_train=True)
    for result, data in ((y, want), (backprop(padded), mask.backward(padded.data))):
        assert type(result) is thinc.Padded
        same(result.data, data)
        for name in ("size_at_t", "lengths", "indices"):
            assert getattr(result, name) is getattr(padded, name)


@pytest.mark.parametrize("kind", [list, tuple])
def test_lists_get_the_decisions_of_their_concatenation(kind):
    xs = kind(arrays())
    joined = np.concatenate([x.ravel() for x in xs])
    want, mask = fd.dropout(joined, 0.3, rng=5, return_mask=True)
    ys, backprop = fdt.Dropout(0.3, rng=5)(xs, is_train=True)
    for results, data in ((ys, want), (backprop(xs), mask.backward(joined))):
        assert type(results) is list
        assert [r.shape for r in results] == [x.shape for x in xs]
        same(np.concatenate([r.ravel() for r in results]), data)
    np.testing.assert_array_equal(joined, np.concatenate([x.ravel() for x in xs]))  # unwritten


def test_one_rate_and_seed_drop_the_same_however_they_are_batched():
    rows = [normal((n, 6)) for n in (3, 7, 1)]
    joined = np.concatenate(rows)
    ragged = thinc.Ragged(joined, np.array([3, 7, 1], np.int32))
    ys, y, yr = (fdt.Dropout(0.3, rng=5)(x, is_train=True)[0] for x in (rows, joined, ragged))
    same(np.concatenate(ys), y)
    same(yr.data, y)


@pytest.mark.parametrize("n", [1, 2])
def test_lists_are_not_written_to(n):
    xs = [normal((5, 6)) for _ in range(n)]
    dys = [normal((5, 6)) for _ in range(n)]
    _, backprop = fdt.Dropout(0.5, rng=5)(xs, is_train=True)
    backprop(dys)
    for x in xs + dys:
        same(x, normal((5, 6)))


def test_an_empty_list():
    ys, backprop = fdt.Dropout(0.3, rng=5)([], is_train=True)
    assert ys == []
    assert backprop([]) == []


def test_what_a_list_may_not_be():
    model = fdt.Dropout(0.3)
    with pytest.raises(TypeError, match=r"^x is a list of arrays of float32, float64; .*astype"):
        model([normal(3), normal(3, np.float64)], is_train=True)
    with pytest.raises(TypeError, match=r"^x has dtype int64"):
        model([np.arange(3)], is_train=True)
    _, backprop = model([normal(3), normal(4)], is_train=True)
    for grads in ([normal(3), normal(3)], [normal(4), normal(3)], [normal(7)]):
        with pytest.raises(ValueError, match=r"^dY has arrays of shapes .*; the output has \[\(3,"):
            backprop(grads)
    for x in ([[1.0, 2.0]], "abc", [thinc.Ragged(normal((3, 2)), np.array([3], "i4"))]):
        with pytest.raises(TypeError, match=r"^x\[0\] is a (list|str|Ragged); .*hold arrays"):
            model(x, is_train=True)


@pytest.mark.parametrize("kind", ["array", "list"])
def test_nothing_of_the_size_of_a_mask_is_kept(kind):
    x = normal((1024, 1024))
    model = fdt.Dropout(0.1, rng=5)
    x = [x, x] if kind == "list" else x
    model(x, is_train=True)  # what is imported or cached, once
    tracemalloc.start()
    try:
        y, backprop = model(x, is_train=True)
        with_result = tracemalloc.get_traced_memory()[0]
        del y
        alone = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert with_result > 2**22
    assert alone < 5000
    assert backprop is not None


def test_prediction_rate_0_and_switched_off_return_the_input():
    gen = fd.Generator(5)
    off = fdt.Dropout(0.5, rng=gen)
    off.attrs["is_enabled"] = False
    for model, is_train in (
        (fdt.Dropout(0.5, rng=gen), False),
        (fdt.Dropout(rng=gen), True),
        (off, True),
    ):
        for x in (normal(9), arrays(), thinc.Ragged(normal((3, 2)), np.array([3], "i4"))):
            y, backprop = model(x, is_train)
            assert y is x
            assert backprop(y) is y
    assert gen.position == 0


def test_the_model_is_one_of_thinc():
    model = thinc.chain(fdt.Dropout(0.5, rng=5), thinc.Linear(3), fdt.Dropout(0.1))
    thinc.set_dropout_rate(model, 0.2)
    assert [node.attrs["dropout_rate"] for node in model.walk() if node.name == "dropout"] == [
        0.2,
        0.2,
    ]
    model.initialize(normal((4, 6)), normal((4, 3)))
    other = thinc.chain(fdt.Dropout(), thinc.Linear(3), fdt.Dropout()).from_bytes(model.to_bytes())
    assert other.layers[0].attrs == {"dropout_rate": 0.2, "is_enabled": True}
    thinc.set_dropout_rate(model, None)
    assert other.from_bytes(model.to_bytes()).layers[0].attrs["dropout_rate"] is None
    thinc.set_dropout_rate(model, 0.2)
    copy = model.copy()
    thinc.set_dropout_rate(copy, 0.9)
    assert model.layers[0].attrs["dropout_rate"] == 0.2
    assert copy(normal((4, 6)), is_train=True)[0].shape == (4, 3)


@pytest.mark.parametrize("rng", [None, 5])
def test_pickles(rng):
    model = pickle.loads(pickle.dumps(fdt.Dropout(0.3, rng=rng)))
    thinc.fix_random_seed(3)
    want = fdt.Dropout(0.3, rng=rng)(normal(99), is_train=True)[0]
    thinc.fix_random_seed(3)
    same(model(normal(99), is_train=True)[0], want)
    ops = pickle.loads(pickle.dumps(fdt.use_fastdrop(rng))).args[0]
    assert type(ops) is fdt.FastdropOps


def test_a_config_names_the_layer():
    config = thinc.Config().from_str('[m]\n@layers = "fastdrop.Dropout.v1"\nrate = 0.25\nrng = 5')
    model = thinc.registry.resolve(config)["m"]
    assert model.attrs["dropout_rate"] == 0.25
    same(model(normal(99), is_train=True)[0], fd.dropout(normal(99), 0.25, rng=5))
    for given, rate in (("1", 1.0), ("null", None)):  # thinc's refuses null
        config = thinc.Config().from_str(f'[m]\n@layers = "fastdrop.Dropout.v1"\nrate = {given}')
        assert thinc.registry.resolve(config)["m"].attrs["dropout_rate"] == rate


def test_gradients_are_those_of_finite_differences():
    gen = fd.Generator(5)
    with thinc.use_ops("cpu", use_blis=False):  # BLIS may want float32
        model = thinc.chain(thinc.Linear(7), fdt.Dropout(0.4, rng=gen), thinc.Linear(2))
    x = normal((5, 6), np.float64)
    model.initialize(normal((5, 6)), normal((5, 2)))
    for node in model.walk():  # in double, or the differences drown
        for name in node.param_names:
            node.set_param(name, normal(node.get_param(name).shape, np.float64))
    state = gen.state

    def loss():
        gen.state = state
        return model(x, is_train=True)[0].sum()

    gen.state = state
    y, backprop = model(x, is_train=True)
    gradient = backprop(np.ones_like(y))
    differences = np.empty_like(x)
    for index in np.ndindex(x.shape):
        before = x[index]
        x[index] = before + 1e-6
        above = loss()
        x[index] = before - 1e-6
        differences[index] = (above - loss()) / 2e-6
        x[index] = before
    assert np.any(gradient)
    np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-7)


# ---- documentation -------------------------------------------------------------------------------


def test_docstrings():
    result = doctest.testmod(fdt)
    assert result.attempted > 0
    assert result.failed == 0
    for name in fdt.__all__:
        test_docs.test_sections(name, getattr(fdt, name))


def test_the_page_runs():
    text = (Path(__file__).resolve().parents[1] / "docs" / "thinc.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block, "thinc.md", "exec"), {})


@pytest.mark.parametrize("make", [lambda: np.random, lambda: np.random.RandomState(0)])
def test_the_legacy_generators_are_asked_at_each_call(make):
    rng = make()
    ops, layer = fdt.FastdropOps(rng=rng), fdt.Dropout(0.5, rng=rng)
    X = np.ones((20, 30), np.float32)

    def draws():
        rng.seed(3)
        masks = [ops.get_dropout_mask((20, 30), 0.5) for _ in range(2)]
        return [*masks, *(layer(X, is_train=True)[0] for _ in range(2))]

    first, again = draws(), draws()
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert len({a.tobytes() for a in first}) == 4
