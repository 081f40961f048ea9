"""What people bring from other libraries and from trainers of their own."""

# ruff: noqa: NPY002 - the legacy generators are what many trainers have

import copy
import importlib.metadata
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest

import fastdrop as fd

X = np.arange(1, 25, dtype=np.float32).reshape(2, 3, 4)
ROWS = X[0]


def nothing(x):
    """Zeros of x's shape, of no memory: a state before."""
    return np.broadcast_to(np.float32(0), np.shape(x))


# every function of the family on an array that it takes, as f(x, **options); p is its rate
FUNCTIONS = {
    "dropout": lambda x, p=0.5, **o: fd.dropout(x, p, **o),
    "dropout1d": lambda x, p=0.5, **o: fd.dropout1d(x, p, **o),
    "dropout2d": lambda x, p=0.5, **o: fd.dropout2d(x[..., None], p, **o),
    "dropout3d": lambda x, p=0.5, **o: fd.dropout3d(x[..., None, None], p, **o),
    "alpha_dropout": lambda x, p=0.5, **o: fd.alpha_dropout(x, p, **o),
    "feature_alpha_dropout": lambda x, p=0.5, **o: fd.feature_alpha_dropout(x, p, **o),
    "drop_path": lambda x, p=0.5, **o: fd.drop_path(x, p, **o),
    "locked_dropout": lambda x, p=0.5, **o: fd.locked_dropout(x, p, **o),
    "embedding_dropout": lambda x, p=0.5, **o: fd.embedding_dropout(x[0], p, **o),
    "gaussian_dropout": lambda x, p=0.5, **o: fd.gaussian_dropout(x, p, **o),
    "gaussian_noise": lambda x, p=0.5, **o: fd.gaussian_noise(x, p, **o),
    "dropout_add": lambda x, p=0.5, **o: fd.dropout_add(x, x, p, **o),
    "relu_dropout": lambda x, p=0.5, **o: fd.relu_dropout(x, p, **o),
    "drop_connect": lambda x, p=0.5, **o: fd.drop_connect(x[0], x[0].T, p, **o),
    "dropblock2d": lambda x, p=0.5, **o: fd.dropblock2d(x[None], p, 2, **o),
    "softmax_dropout": lambda x, p=0.5, **o: fd.softmax_dropout(x, p, **o),
    "zoneout": lambda x, p=0.5, **o: fd.zoneout(x, nothing(x), p, **o),
}
LAYERS = {
    name: getattr(fd.nn, name)
    for name in fd.nn.__all__
    if isinstance(getattr(fd.nn, name), type) and name != "MCSamples"
}


def forward(layer, x=X, **options):
    """Call a layer of any kind on what it takes."""
    kind = type(layer)
    if issubclass(kind, fd.nn.DropoutAdd):
        return layer(x, x, **options)
    if issubclass(kind, fd.nn.DropConnect | fd.nn.VariationalDropout):
        return layer(x[0], x[0].T, **options)
    if issubclass(kind, fd.nn.Zoneout):
        return layer(x, nothing(x), **options)
    if issubclass(kind, fd.nn.EmbeddingDropout | fd.nn.WeightDropout):
        return layer(x[0], **options)
    if issubclass(kind, fd.nn.DropBlock2d):
        layer.block_size = 2  # the maps are 3 x 4
        return layer(x[None], **options)
    axes = {fd.nn.Dropout2d: (..., None), fd.nn.Dropout3d: (..., None, None)}.get(kind, ())
    return layer(x[axes], **options)


@pytest.fixture(params=FUNCTIONS)
def function(request):
    return FUNCTIONS[request.param]


@pytest.fixture(params=LAYERS)
def layer_kind(request):
    return LAYERS[request.param]


# ---- a mask in arithmetic ------------------------------------------------------------------------


RECIPES = [
    fd.Mask(0, 0, ROWS.shape, 0.3),
    fd.Mask(0, 1, ROWS.shape, 0.3, noise_shape=(3, 1)),
    fd.alpha_dropout(ROWS, 0.3, rng=0, return_mask=True)[1],
    fd.Noise(1, 2, ROWS.shape, 0.5),
]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: type(r).__name__)
def test_times_a_recipe_is_its_backward(recipe):
    want = recipe.backward(ROWS)
    for x in (ROWS, ROWS.astype(np.float64), ROWS[::-1][::-1], ROWS.tolist()):
        for got in (x * recipe, recipe * x):
            np.testing.assert_allclose(got, want, rtol=1e-6)
            assert type(got) is np.ndarray
    assert (ROWS.astype(np.float16) * recipe).dtype == np.float16
    with pytest.raises(ValueError, match="shape"):
        ROWS[0] * recipe


ELSE = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "**": lambda a, b: a**b,
    "@": lambda a, b: a @ b,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


@pytest.mark.parametrize("operator", ELSE)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: type(r).__name__)
def test_other_arithmetic_is_refused_and_says_what_to_do(recipe, operator):
    f = ELSE[operator]
    for a, b in ((ROWS, recipe), (recipe, ROWS)):
        with pytest.raises(TypeError, match="backward"):
            f(a, b)
    if operator not in ("==", "!="):
        for a, b in ((recipe, recipe), (2.0, recipe), (recipe, 2.0), (np.float32(2), recipe)):
            with pytest.raises(TypeError, match="backward"):
                f(a, b)


def test_products_that_are_none():
    mask = fd.Generator(0).mask(ROWS.shape, 0.3)
    for other in (2.0, np.float32(2), mask, 1):
        with pytest.raises(TypeError, match=r"backward.*multiplier.*keep"):
            other * mask
        with pytest.raises(TypeError, match="backward"):
            mask * other
    for unary in (lambda m: -m, lambda m: +m, lambda m: ~m, abs):
        with pytest.raises(TypeError, match="multiplier"):
            unary(mask)
    with pytest.raises(TypeError, match=r"noise\.apply"):
        ROWS * fd.Noise(0, 0, ROWS.shape, 1.0, additive=True)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda r: type(r).__name__)
def test_ufuncs_and_products_in_place_are_refused(recipe):
    before = ROWS.copy()
    for f in (np.multiply, np.divide, np.add, np.equal, np.logical_and):
        with pytest.raises(TypeError):
            f(before, recipe)
        with pytest.raises(TypeError):
            f(recipe, before)
    for f in (np.logical_not, np.negative):
        with pytest.raises(TypeError):
            f(recipe)
    with pytest.raises(TypeError):
        before *= recipe
    np.testing.assert_array_equal(before, ROWS)


def test_what_bools_are_used_for_stays():
    mask = fd.Generator(0).mask(ROWS.shape, 0.3)
    keep = mask.keep()
    np.testing.assert_array_equal(ROWS[mask], ROWS[keep])
    np.testing.assert_array_equal(np.where(mask, ROWS, -1), np.where(keep, ROWS, -1))
    np.testing.assert_array_equal(np.asarray(mask), keep)
    assert np.mean(mask) == keep.mean()
    assert mask == copy.copy(mask)
    assert mask != fd.Generator(1).mask(ROWS.shape, 0.3)
    assert (mask == None) is False  # noqa: E711


def test_functions_that_would_multiply_by_a_mask_are_refused():
    mask = fd.Generator(0).mask(ROWS.shape, 0.3)
    noise = fd.Noise(0, 0, ROWS.shape)
    products = {
        "dot": lambda m: np.dot(ROWS.T, m),
        "einsum": lambda m: np.einsum("ij,ij->ij", ROWS, m),
        "inner": lambda m: np.inner(m, ROWS),
        "outer": lambda m: np.outer(ROWS, m),
        "tensordot": lambda m: np.tensordot(ROWS, m),
        "multi_dot": lambda m: np.linalg.multi_dot([ROWS.T, m, ROWS.T]),
    }
    for name, f in products.items():
        for recipe in (mask, noise):
            with pytest.raises(TypeError, match=rf"has no {name}\(\).*backward"):
                f(recipe)
    for f in (np.mean, np.sum, np.count_nonzero, lambda m: np.where(m, 1, 0)):
        with pytest.raises(TypeError, match=r"noise\.normals\(\)"):
            f(noise)


def test_functions_of_bools_stay():
    mask = fd.Generator(0).mask(ROWS.shape, 0.3)
    keep = mask.keep()
    for f in (
        np.sum,
        np.mean,
        np.count_nonzero,
        np.transpose,
        np.packbits,
        lambda m: np.sum(m, axis=0),
        lambda m: np.sum(m, axis=(0, 1)),
        lambda m: np.concatenate([m, keep]),
        lambda m: np.stack((keep, m)),
        lambda m: np.where(ROWS > 3, m, keep),
        lambda m: np.array_equal(m, keep),
        lambda m: np.reshape(m, shape=(4, 3)),
    ):
        np.testing.assert_array_equal(f(mask), f(keep))
    huge = fd.Mask(0, 0, (2**28, 2**29))
    assert (np.shape(huge), np.ndim(huge), np.size(huge)) == ((2**28, 2**29), 2, 2**57)
    assert np.size(fd.Noise(0, 0, (3, 4)), 1) == 4


def test_attributes_of_arrays_say_where_they_are():
    mask = fd.Generator(0).mask(ROWS.shape, 0.3)
    for name in ("mean", "sum", "astype", "T", "reshape", "dtype"):
        with pytest.raises(AttributeError, match=rf"mask\.keep\(\)\.{name}"):
            getattr(mask, name)
    with pytest.raises(AttributeError, match=r"noise\.normals\(\)\.std"):
        fd.Noise(0, 0, 3).std()
    with pytest.raises(AttributeError, match="'nothing'"):
        mask.nothing  # noqa: B018
    # nor does one see them, or lose what a subclass has
    assert not hasattr(mask, "dtype")
    assert not hasattr(fd.Mask, "dtype")
    assert {"fill", "shape", "keep"} <= set(dir(mask))
    assert not {"T", "mean", "dtype"} & set(dir(mask))

    class Sized:
        size = 7

        def copy(self):
            return "copied"

    class Both(fd.Mask, Sized):
        def mean(self):
            return self.keep().mean()

        @property
        def lazy(self):
            raise RuntimeError("dir looked at it")

    both = Both(0, 0, ROWS.shape, 0.0)
    assert (both.size, Both.size, both.copy(), both.mean()) == (7, 7, "copied", 1.0)
    assert {"lazy", "mean"} <= set(dir(both))
    with pytest.raises(AttributeError, match=r"mask\.keep\(\)\.sum"):
        both.sum()


def test_masks_with_a_scale_of_ones_own():
    gen = fd.Generator(0)
    plain, one, third = (
        gen.mask(ROWS.shape, 0.25),
        fd.Generator(0).mask(ROWS.shape, 0.25, mode="downscale_in_infer"),
        fd.Generator(0).mask(ROWS.shape, 0.25, scale=3),
    )
    assert (plain.scale, one.scale, third.scale) == (1 / 0.75, 1.0, 3.0)
    np.testing.assert_array_equal(one * ROWS, ROWS * one.keep())
    np.testing.assert_array_equal(third * ROWS, 3 * ROWS * plain.keep())
    for options in ({"mode": "x"}, {"scale": np.inf}, {"scale": 2, "mode": "downscale_in_infer"}):
        with pytest.raises(ValueError, match=r"mode|scale"):
            gen.mask(3, 0.5, **options)
    with pytest.raises(TypeError, match="scale"):
        gen.mask(3, 0.5, scale="much")
    assert gen.position == 1


# ---- np.random.seed ------------------------------------------------------------------------------


def repeats(call, seed):
    seed()
    first = [call() for _ in range(3)]
    seed()
    again = [call() for _ in range(3)]
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    return len({np.asarray(a).tobytes() for a in first}) > 1


def test_the_legacy_global_generator_serves_each_call(function):
    large = np.ones((40, 40, 40), np.float32)
    assert repeats(lambda: function(large, rng=np.random), lambda: np.random.seed(3))


def test_layers_draw_from_the_legacy_generators_at_each_call(layer_kind):
    large = np.ones((40, 40, 40), np.float32)
    layer = layer_kind(0.5, rng=np.random)
    assert repeats(lambda: forward(layer, large), lambda: np.random.seed(3))
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        np.random.seed(4)
        want = forward(layer, large)
        np.random.seed(4)
        np.testing.assert_array_equal(forward(other, large), want)
    state = np.random.RandomState(5)
    own = layer_kind(0.5, rng=state)
    assert repeats(lambda: forward(own, large), lambda: state.seed(5))
    assert layer.state_dict()["generator"] is None


def test_a_numpy_generator_in_a_layer_is_asked_once():
    rng = np.random.default_rng(0)
    layer = fd.nn.Dropout(0.5, rng=rng)
    before = rng.bit_generator.state
    layer(X), layer(X)
    assert rng.bit_generator.state == before
    again = fd.nn.Dropout(0.5, rng=np.random.default_rng(0))
    again(X), again(X)
    np.testing.assert_array_equal(again(X), layer(X))


def test_seeds_from_legacy_generators():
    want = int.from_bytes(np.random.RandomState(1).bytes(8), "little")
    assert fd.Generator(np.random.RandomState(1)).seed == want
    np.random.seed(1)
    assert fd.Generator(np.random).seed == want
    np.random.seed(1)
    _, mask = fd.dropout(X, rng=np.random, return_mask=True)
    assert (mask.seed, mask.position) == (want, 0)


# ---- training ------------------------------------------------------------------------------------

NO_BOOLS = ["test", "train", "", 2, -1, 0.5, 1.0, None, [], [True], np.ones(2, bool), X]


@pytest.mark.parametrize("training", NO_BOOLS, ids=repr)
def test_what_is_no_bool_is_not_training(function, training):
    gen = fd.Generator(0)
    with pytest.raises(TypeError, match="training"):
        function(X, rng=gen, training=training)
    assert gen.position == 0


@pytest.mark.parametrize("value", [1, 0, True, np.True_, np.int64(0), np.array(False)], ids=repr)
def test_zero_and_one_are_bools(function, value):
    want = function(X, rng=0, training=bool(value))
    np.testing.assert_array_equal(function(X, rng=0, training=value), want)


def test_a_layers_call_takes_training(layer_kind):
    layer = layer_kind(0.5, rng=0)
    still = forward(layer, training=False)
    np.testing.assert_array_equal(still, forward(layer_kind(0.5, rng=0).eval()))
    assert layer.training is True
    layer.eval()
    dropped = forward(layer, training=True)
    np.testing.assert_array_equal(dropped, forward(layer_kind(0.5, rng=0)))
    assert layer.training is False
    for wrong in NO_BOOLS:
        if wrong is not None:
            with pytest.raises(TypeError, match="training"):
                forward(layer, training=wrong)
        with pytest.raises(TypeError, match="training"):
            layer.training = wrong
        with pytest.raises(TypeError, match="mode"):
            layer.train(wrong)
    assert layer.training is False


@pytest.mark.parametrize("flag", [True, False, np.True_])
def test_a_bool_for_out_asks_for_training(flag):
    with pytest.raises(TypeError, match="training"):
        fd.nn.Dropout(0.5)(X, flag)
    with pytest.raises(TypeError, match="training"):
        fd.dropout(X, 0.5, out=flag)


WORDS = {
    "rate": "p",
    "keep_prob": "1 - keep_prob",
    "drop_prob": "p",
    "seed": "rng",
    "inplace": "out=x",
    "deterministic": "training",
}


@pytest.mark.parametrize(("word", "right"), WORDS.items())
def test_words_of_other_libraries(word, right):
    for kind in (fd.nn.Dropout, fd.nn.AlphaDropout, fd.nn.DropPath, fd.nn.DropoutAdd):
        with pytest.raises(TypeError, match=f"takes no {word}: it takes .*{right}"):
            kind(**{word: 0.5})
        with pytest.raises(TypeError, match=f"takes no {word}: it takes .*{right}"):
            forward(kind(0.5, rng=0), **{word: 0.5})
    if right in ("p", "1 - keep_prob"):
        with pytest.raises(
            TypeError, match=f"takes no {word}: it takes stddev, a standard deviation$"
        ):
            fd.nn.GaussianNoise(**{word: 0.5})

    class Mine(fd.nn.Dropout):
        def __init__(self, **words):
            super().__init__(0.5, rng=0)

        def forward(self, x, **words):
            return super().forward(x)

    np.testing.assert_array_equal(Mine(**{word: 1})(X, **{word: 1}), fd.nn.Dropout(0.5, rng=0)(X))


# ---- copies, forks, the default generator --------------------------------------------------------


def test_copies_drop_alike_until_they_are_reseeded(layer_kind):
    large = np.ones((40, 40, 40), np.float32)
    layer = layer_kind(0.5, rng=fd.Generator(0))
    members = [copy.deepcopy(layer) for _ in range(3)]
    assert len({forward(m, large).tobytes() for m in members}) == 1
    for member, child in zip(members, fd.Generator(0).spawn(3), strict=True):
        assert fd.nn.reseed(member, child) is child
    assert len({forward(m, large).tobytes() for m in members}) == 3


def test_reseeded_layers_share_one_generator():
    layers = [fd.nn.Dropout(0.5, rng=0), fd.nn.DropPath(0.5, rng=1)]
    gen = fd.nn.reseed(layers, 7)
    for layer in layers:
        layer(X)
    assert gen == fd.nn.reseed(layers, gen)
    assert (gen.seed, gen.position) == (7, 2)
    assert layers[0].state_dict()["generator"] is None
    fd.nn.reseed(iter(layers), None)
    fd.seed(1)
    np.testing.assert_array_equal(layers[0](X), fd.dropout(X, rng=1))
    for wrong in ([layers[0], "x"], [None], None, 5, "layer"):
        with pytest.raises(TypeError, match="layers"):
            fd.nn.reseed(wrong, 0)
    with pytest.raises(TypeError, match="rng"):
        fd.nn.reseed(layers, "0")
    fd.seed(1)
    np.testing.assert_array_equal(layers[0](X), fd.dropout(X, rng=1))


def test_the_default_generator_has_a_name():
    fd.seed(5)
    fd.dropout(X)
    gen = fd.default_generator()
    state = gen.state
    assert state == {"stream": 1, "seed": 5, "position": 1}
    want = fd.dropout(X)
    fd.default_generator().state = state
    np.testing.assert_array_equal(fd.dropout(X), want)
    layer = fd.nn.Dropout(0.5)
    mean, _, _ = fd.nn.mc_samples(layer, X, 5, rng=fd.default_generator())
    assert mean.shape == X.shape
    for said in ("deepcopy", "fork"):
        assert said in fd.Generator.__doc__


# ---- what constructors can know ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Dropout", {"noise_shape": "ab"}),
        ("Dropout", {"noise_shape": (-1,)}),
        ("Dropout", {"noise_shape": (1, 0.5)}),
        ("Dropout", {"mode": "x"}),
        ("Dropout", {"mode": None}),
        ("AlphaDropout", {"noise_shape": (None, -2)}),
        ("Dropout1d", {"data_format": "x"}),
        ("Dropout2d", {"data_format": None}),
        ("LockedDropout", {"time_axis": "a"}),
        ("LockedDropout", {"time_axis": True}),
        ("LockedDropout", {"time_axis": 0.0}),
        ("DropPath", {"scale_by_keep": "no"}),
        ("DropPath", {"scale_by_keep": None}),
        ("DropBlock2d", {"block_size": 0}),
        ("DropBlock2d", {"block_size": 2.0}),
        ("DropBlock2d", {"block_size": True}),
        ("DropBlock2d", {"border": "valid"}),
        ("DropBlock2d", {"batchwise": "no"}),
        ("DropBlock2d", {"data_format": "NCHW"}),
        ("Zoneout", {"p_cell": 1.5}),
        ("Zoneout", {"p_cell": "a"}),
    ],
)
def test_constructors_refuse_what_cannot_be_right(kind, options):
    make = getattr(fd.nn, kind)
    (name, value), *_ = options.items()
    with pytest.raises((TypeError, ValueError), match=name):
        make(0.5, **options)
    layer = make(0.5, rng=0)
    with pytest.raises((TypeError, ValueError), match=name):
        setattr(layer, name, value)
    forward(layer)


def test_a_noise_shape_that_is_an_iterator_serves_every_call():
    layer = fd.nn.Dropout(0.5, noise_shape=iter([None, 1, None]), rng=0)
    want = fd.nn.Dropout(0.5, noise_shape=(None, 1, None), rng=0)
    for _ in range(2):
        np.testing.assert_array_equal(layer(X), want(X))


# ---- array-likes and subclasses ------------------------------------------------------------------


class Mine(np.ndarray):
    pass


def test_subclasses_come_out_plain_in_both_modes(function, tmp_path):
    stored = np.memmap(tmp_path / "x", np.float32, "w+", shape=X.shape)
    stored[...] = X
    for x in (X.view(Mine), stored, X.view(np.recarray)):
        for training in (True, False):
            y = function(x, rng=0, training=training)
            assert type(y) is np.ndarray
            np.testing.assert_array_equal(y, function(X, rng=0, training=training))


def test_matrices_come_out_plain_in_both_modes():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = np.matrix(ROWS)
    for training in (True, False):
        for y in (
            fd.dropout(x, rng=0, training=training),
            fd.nn.Dropout(rng=0)(x, training=training),
        ):
            assert type(y) is np.ndarray
    assert fd.dropout(ROWS, training=False) is ROWS
    out = ROWS.copy().view(Mine)
    assert fd.dropout(ROWS, rng=0, out=out) is out  # what the user gives is what the user gets


class LikeDask:
    """As xarray's and pint's objects: with the name of Dask's protocol, and NumPy inside."""

    def __init__(self, graph):
        self.graph = graph

    def __dask_graph__(self):
        return self.graph

    def __array__(self, dtype=None, copy=None):
        return X


def test_only_a_dask_graph_is_refused(function):
    class Sliceable(LikeDask):
        def __getitem__(self, key):
            return X[key]

        @property
        def T(self):
            return X.T

    np.testing.assert_array_equal(function(Sliceable(None), rng=0), function(X, rng=0))
    with pytest.raises(TypeError, match=r"fastdrop\.dask"):
        fd.dropout(LikeDask({}), rng=0)


def test_remedies_are_right_for_the_type():
    pair = np.zeros(3, [("a", "f4"), ("b", "f4")])
    remedies = {
        r"x\['a'\]": pair,
        "float64": np.ones(3, np.longdouble),
        "numbers": np.array([1.0, None], object),
        r"astype\(np.float32\)": np.ones(3, int),
    }
    if np.dtype(np.longdouble) == np.float64:
        del remedies["float64"]
    for remedy, x in remedies.items():
        with pytest.raises(TypeError, match=remedy):
            fd.dropout(x, rng=0)
    sparse = pytest.importorskip("scipy.sparse")
    for x in (sparse.eye(3, format="csr"), sparse.coo_array(np.eye(3))):
        with pytest.raises(TypeError, match=r"x\.data .*x\.toarray\(\)"):
            fd.dropout(x, rng=0)


# ---- numbers from checkpoints --------------------------------------------------------------------


def test_numbers_that_np_load_gives(tmp_path):
    gen = fd.Generator(7, position=3)
    mask, noise = gen.mask((2, 3), 0.25), fd.Noise(1, 2, (2, 3), 0.5, additive=True)
    layer = fd.nn.Dropout(0.25, rng=7)
    saved = {"state": gen.state, "mask": mask.to_dict(), "noise": noise.to_dict()}
    saved["layer"] = layer.state_dict()
    flat = {f"{of}/{k}": v for of, d in saved.items() for k, v in d.items() if k != "generator"}
    np.savez(tmp_path / "all.npz", **flat)
    with np.load(tmp_path / "all.npz") as z:
        loaded = {of: {k: z[f"{of}/{k}"] for k in d if k != "generator"} for of, d in saved.items()}
    again = fd.Generator(0)
    again.state = loaded["state"]
    assert again.state == gen.state
    assert fd.Generator(loaded["state"]["seed"]).seed == 7
    assert fd.Mask.from_dict(loaded["mask"]) == mask
    assert fd.Noise.from_dict(loaded["noise"]) == noise
    layer.load_state_dict({**loaded["layer"], "generator": saved["layer"]["generator"]})
    assert layer.p == 0.25
    assert all(type(v) in (int, float) for v in (layer.p, again.seed, again.position))


@pytest.mark.parametrize("two", [np.array(2), np.int8(2), np.array(2, np.uint64)])
def test_scalars_of_numpy_are_counts(two):
    gen = fd.Generator(two, position=two)
    assert (gen.seed, gen.position) == (2, 2)
    assert [child.seed for child in gen.spawn(two)] == [
        c.seed for c in fd.Generator(2, position=2).spawn(2)
    ]
    assert gen.mask(two, noise_shape=two).shape == gen.mask((two,))[0:two].shape == (2,)
    assert gen.mask((3, 4))[two].shape == (4,)
    fd.set_num_threads(two)
    assert fd.get_num_threads() == 2
    assert fd.locked_dropout(X, time_axis=two).shape == X.shape
    layer = fd.nn.Dropout(0.5, rng=gen)
    assert fd.nn.mc_samples(layer, X, two, rng=gen, batch_size=two).samples.shape == (2, *X.shape)
    fd.seed(two)
    assert fd.default_generator().seed == 2


@pytest.mark.parametrize("number", [np.array(0.25), np.float32(0.25), np.array(0.25, np.float16)])
def test_scalars_of_numpy_are_rates(function, layer_kind, number):
    np.testing.assert_array_equal(function(X, number, rng=0), function(X, 0.25, rng=0))
    np.testing.assert_array_equal(
        forward(layer_kind(number, rng=0)), forward(layer_kind(0.25, rng=0))
    )


@pytest.mark.parametrize("p", [np.array(True), "0.5", None, 0.5j, np.array("a")])
def test_what_is_no_number_is_named(p):
    with pytest.raises(TypeError, match=r"p must be a real number.*p="):
        fd.dropout(X, p, rng=0)
    with pytest.raises(TypeError, match="stddev must be a real number"):
        fd.gaussian_noise(X, p, rng=0)


@pytest.mark.parametrize("name", sorted(FUNCTIONS.keys() - {"dropout"}))
def test_an_array_of_rates_is_for_dropout_alone(name):
    with pytest.raises(TypeError, match="must be a real number"):
        FUNCTIONS[name](X, np.array([0.5]), rng=0)


@pytest.mark.parametrize("kind", sorted(LAYERS.keys() - {"Dropout"}))
def test_an_array_of_rates_is_for_the_layer_dropout_alone(kind):
    rates = np.array([0.5, 0.25, 0.75])
    with pytest.raises(TypeError, match="must be a real number"):
        LAYERS[kind](rates, rng=0)
    layer = LAYERS[kind](0.5, rng=0)
    rate = "stddev" if kind == "GaussianNoise" else "p"
    with pytest.raises(TypeError, match="must be a real number"):
        setattr(layer, rate, rates)
    if rate in (state := layer.state_dict()):
        with pytest.raises(TypeError, match="must be a real number"):
            layer.load_state_dict(state | {rate: [0.5, 0.25, 0.75]})
    assert getattr(layer, rate) == 0.5


def test_errors_name_the_field():
    mask = fd.Mask(0, 0, 3).to_dict()
    for name in ("seed", "position", "p", "scale", "shift", "fill", "first"):
        for wrong in ("a", np.ones(2), [1]):
            with pytest.raises(TypeError, match=name):
                fd.Mask.from_dict({**mask, name: wrong})
    for wrong in (np.ones(2), "1", None, 2):
        with pytest.raises(ValueError, match="stream"):
            fd.Mask.from_dict({**mask, "stream": wrong})
        with pytest.raises(ValueError, match="stream"):
            fd.Generator(0).state = {"stream": wrong, "seed": 0, "position": 0}
        with pytest.raises(ValueError, match="stream"):
            fd.nn.Dropout(rng=0).load_state_dict({"stream": wrong, "p": 0.5, "generator": None})
    with pytest.raises(TypeError, match="additive"):
        fd.Noise(0, 0, 3, additive="yes")
    for name in ("scale", "shift", "fill"):
        with pytest.raises(TypeError, match=name):
            fd.Mask(0, 0, 3, **{name: "a"})


# ---- shards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", [2, 3, 7])
@pytest.mark.parametrize("noise_shape", [None, (1, None, None), (None, 1, 1), (None, None, 1)])
def test_shards_with_a_step_are_those_of_the_whole(world, noise_shape, dtype, isa):
    x = np.random.default_rng(0).standard_normal((13, 9, 70)).astype(dtype)
    mask = fd.Generator(3).mask(x.shape, 0.3, noise_shape=noise_shape)
    whole = mask.apply(x)
    keys = [np.s_[r::world] for r in range(world)]
    keys += [np.s_[:, 1::world], np.s_[..., 2::world], np.s_[1:12:world, ::2, 3::world]]
    keys += [np.s_[5:5:world], np.s_[::100]]
    for key in keys:
        part = mask[key]
        np.testing.assert_array_equal(part.apply(x[key]), whole[key])
        np.testing.assert_array_equal(part.keep(), mask.keep()[key])
        assert fd.Mask.from_dict(part.to_dict()) == part
    np.testing.assert_array_equal(mask[1::2][1::3].keep(), mask.keep()[1::2][1::3])


def test_shards_of_noise():
    noise = fd.Noise(1, 2, (13, 9, 70), 0.5)
    for key in (np.s_[1::3], np.s_[:, ::2], np.s_[..., 5::7], np.s_[::2, ::3, ::5]):
        np.testing.assert_array_equal(noise[key].normals(), noise.normals()[key])
        assert fd.Noise.from_dict(noise[key].to_dict()) == noise[key]


@pytest.mark.parametrize("step", [-1, 0, -3])
def test_steps_that_are_not_positive_are_refused(step):
    for recipe in (fd.Mask(0, 0, 8), fd.Noise(0, 0, 8)):
        with pytest.raises(IndexError, match=r"axis 0.*(positive step|zero)"):
            recipe[::step]


# ---- two floating-point types --------------------------------------------------------------------


def test_drop_connect_of_two_types_gives_the_wider():
    x, w = X[0], X[0].T.astype(np.float64)
    for a, b in ((x, w), (x.astype(np.float64), w.astype(np.float32))):
        y, mask = fd.drop_connect(a, b, 0.5, rng=0, return_mask=True)
        assert y.dtype == np.float64
        want = fd.drop_connect(a.astype(np.float64), b.astype(np.float64), 0.5, rng=0)
        np.testing.assert_array_equal(y, want)
        dx, dw = fd.drop_connect_backward(y, a, b, mask)
        assert dx.dtype == dw.dtype == np.float64


# ---- imported twice, or without metadata ---------------------------------------------------------


def test_imported_a_second_time():
    code = """
import importlib, sys
import numpy as np, fastdrop as fd
x = np.ones(100, np.float32)
want = fd.dropout(x, rng=0)
importlib.reload(fd)
assert (fd.dropout(x, rng=0) == want).all()
layer, mask = fd.nn.Dropout(rng=0), fd.Mask(0, 0, 3)
for name in [n for n in sys.modules if n.partition(".")[0] == "fastdrop"]:
    del sys.modules[name]
import fastdrop as again
assert (again.dropout(x, rng=0) == want).all()
assert (again.nn.Dropout(rng=0)(x) == want).all() and (layer(x) == want).all()
again.set_num_threads(2)
big = np.ones(1 << 21, np.float32)
assert (again.dropout(big, rng=0) == fd.dropout(big, rng=0)).all()
print("ok")
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "ok", run.stderr


def test_version_without_metadata(monkeypatch):
    def absent(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    assert fd.config.version() == "unknown"


# ---- refused calls take no position --------------------------------------------------------------


def refused():
    """Calls that must fail, whatever the function."""
    yield {"p": -1.0}, ValueError
    yield {"p": "a"}, TypeError
    yield {"training": "yes"}, TypeError
    yield {"out": np.zeros(1, np.float32)}, ValueError
    yield {"out": np.zeros((1, 1, 1, 1), int)}, (ValueError, TypeError)
    yield {"out": "y"}, TypeError


def test_refused_calls_take_no_position(function):
    gen = fd.Generator(0)
    # 16 TiB and more, once they are copied
    huge = np.broadcast_to(np.float32(1), (1 << 12, 1 << 21, 1 << 21))
    for options, error in refused():
        if "out" in options and function is FUNCTIONS["drop_connect"]:
            continue  # it takes no out
        with pytest.raises(error):
            function(X, rng=gen, **options)
    with pytest.raises((MemoryError, ValueError)):
        function(huge, rng=gen)
    for wrong in (X.astype(int), "x", None, np.ma.masked_array(X)):
        with pytest.raises((TypeError, AttributeError)):
            function(wrong, rng=gen)
    assert gen.position == 0
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (1e38, -np.inf, np.nan, 1e-45):
            function(np.full_like(X, value), rng=gen)
    assert gen.position == 4


def test_a_warning_that_is_an_error_takes_no_position():
    gen = fd.Generator(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="sequences"):
            fd.dropout2d(X, rng=gen)
    assert gen.position == 0
