# cython: nonecheck=True
"""What all layers have: the rule, the generator, the mask of the last pass, the state."""

import numpy as np

cimport cython
cimport numpy as cnp

from fastdrop.arrays cimport as_input
from fastdrop.fused cimport add, add_backward, relu, relu_backward
from fastdrop.generator cimport Generator, as_source
from fastdrop.kernels import STREAM
from fastdrop.mask cimport Mask
from fastdrop.rates cimport as_bool
from fastdrop.recipe cimport Recipe, check_stream

cnp.import_array()

# What other libraries call the arguments, and what they are here.
WORDS = {
    "rate": "p, the probability of dropping",
    "drop_prob": "p, the probability of dropping",
    "drop_rate": "p, the probability of dropping",
    "dropout_rate": "p, the probability of dropping",
    "keep_prob": "p = 1 - keep_prob, the probability of dropping",
    "seed": "rng, which takes an int too, in the constructor",
    "key": "rng, in the constructor",
    "rngs": "rng, in the constructor",
    "is_training": "training",
    "train": "training",
    "deterministic": "training = not deterministic",
    "inplace": "out=x, in the call",
}

NO_OUTPUT = "backward before the first forward, or in a copy: there is no output to look at"
NO_MASK = "backward before the first forward: there is no mask yet"


class Setting:
    """An attribute of a layer on which its rule depends.

    Parameters
    ----------
    default : object
        What `repr` leaves out.
    """

    def __init__(self, default):
        self.default = default

    def __set_name__(self, owner, name):
        self.name = name

    def __class_getitem__(cls, kind):
        return cls

    def __get__(self, layer, owner=None):
        if layer is None:
            return self
        return layer.__dict__.get(self.name, self.default)

    def __set__(self, layer, value):
        values = layer.__dict__
        old = values.get(self.name, self.default)
        values[self.name] = value
        try:
            (<Layer?>layer).renew()
        except BaseException:
            values[self.name] = old
            raise


cdef class Layer:
    """Base of all layers.

    A subclass has `_rule`, which makes its rule of a rate, and a `Setting` for each further argument.
    """

    _rate = "p"  # the name of what `_rule` is given

    def __cinit__(self, *args, **kwargs):
        self.check_words(kwargs, type(self).__init__)

    cdef int check_words(self, dict kwargs, method) except -1:
        """Say what an argument is called here, unless the method, a user's, may know it."""
        for word in kwargs:
            if word in WORDS and str(getattr(method, "__module__", "")).startswith("fastdrop."):
                meant = WORDS[word]
                if meant.startswith("p") and self._rate != "p":
                    meant = f"{self._rate}, a standard deviation"
                raise TypeError(f"{type(self).__name__} takes no {word}: it takes {meant}")
        return 0

    def __init__(self, rate=0.5, *, rng=None):
        self.rule = self._rule(rate)
        self.is_training = True
        self.mask = self.rng = None
        self.owns_rng = False
        if rng is not None:
            source = as_source(rng)
            # NumPy's legacy generators are asked at each call, for np.random.seed may come at any time
            if isinstance(source, np.random.Generator):
                source = Generator(source)
            self.rng, self.owns_rng = source, source is not rng and isinstance(source, Generator)

    @property
    def training(self):
        """Whether the layer drops; see `train` and `eval`."""
        return self.is_training

    @training.setter
    def training(self, mode):
        self.is_training = as_bool(mode, "training")

    def _share(self, rng):
        """Take positions from a generator that others have too, from now on: see `reseed`."""
        self.rng, self.owns_rng = rng, False

    cdef int renew(self) except -1:
        """Make the rule anew, for a setting has changed; before the first there is none yet."""
        if self.rule is not None:
            self.rule = self._rule(self.rule.given_rate())
        return 0

    def _rule(self, rate):
        raise NotImplementedError

    @property
    def p(self):
        """Probability of dropping."""
        return self.rule.given_rate()

    @p.setter
    def p(self, p):
        self._set_rate(p)

    def _set_rate(self, rate):
        self.rule = self._rule(rate)

    @property
    def _rng(self):
        return self.rng

    def __call__(self, *args, **kwargs):
        if not kwargs:
            # spelt out, for Python makes an object of a method that is called with a tuple
            if len(args) == 1:
                return self.forward(args[0])
            if len(args) == 2:
                return self.forward(args[0], args[1])
            return self.forward(*args)
        method = self.forward
        self.check_words(kwargs, method)
        return method(*args, **kwargs)

    def forward(self, x, out=None, return_mask=False, *, training=None):
        """Apply dropout; remember its mask.

        Parameters
        ----------
        x : array_like
            Of any shape.
        out : ndarray, optional
            Where to put the result, see `dropout`.
        return_mask : bool, optional
            Whether to return the mask too.
        training : bool, optional
            Whether to drop in this call; by default what `train` and `eval` last said.

        Returns
        -------
        y : ndarray
            Of x's shape and dtype. In evaluation x itself, unless the layer scales it there.
        mask : Mask
            Only with ``return_mask=True``.

        Raises
        ------
        TypeError, ValueError, OverflowError
            As the function of the layer. The layer is then as it was.
        """
        cdef Rule rule
        cdef bint dropping
        with cython.critical_section(self):  # as in Generator.take
            rule, dropping, rng = self.rule, self.is_training, self.rng
        if training is not None:
            dropping = as_bool(training, "training")
        source = as_source(rng)
        cdef cnp.ndarray array = as_input(x, "x")
        cdef Recipe recipe = rule.recipe_of(array, dropping)
        y = rule.apply(x, array, dropping, source, out, recipe)
        with cython.critical_section(self):
            self.mask = recipe
        return (y, recipe) if return_mask else y

    def backward(self, grad, out=None, mask=None):
        """Gradient by the input of a forward pass.

        Parameters
        ----------
        grad : array_like
            Gradient by its output.
        out : ndarray, optional
            Where to put the result; ``out=grad`` works in place.
        mask : Mask, optional
            Which forward pass, by default the last.

        Returns
        -------
        ndarray

        Raises
        ------
        RuntimeError
            Before the first forward pass.
        TypeError, ValueError
            As `Mask.backward`; ValueError where the shape is not that of the forward pass.
        """
        if mask is None:
            mask = self.mask
        if mask is None:
            raise RuntimeError(NO_MASK)
        if isinstance(mask, Recipe):
            return (<Recipe>mask).apply_to(grad, out, "grad", True)
        return mask.backward(grad, out)

    def train(self, mode=True):
        """Drop from now on (or not, with False); returns the layer."""
        self.is_training = as_bool(mode, "mode")
        return self

    def eval(self):
        """Pass inputs on from now on; returns the layer."""
        return self.train(False)

    def state_dict(self):
        """Return what `load_state_dict` needs to go on bit for bit; JSON holds it exactly.

        Returns
        -------
        dict
            ``stream``, ``p`` (or ``stddev``), and ``generator``: the state of the layer's own
            generator, None where it shares one, or takes NumPy's (then save that one's state
            yourself; of the default generator, ``default_generator().state``).
        """
        own = self.rng.state if self.owns_rng else None
        rate = self.rule.given_rate()
        if isinstance(rate, np.ndarray):
            rate = rate.tolist()
        return {"stream": STREAM, self._rate: rate, "generator": own}

    def load_state_dict(self, state):
        """Go on from a state that `state_dict` returned.

        Parameters
        ----------
        state : dict
            Of a layer that came by its generator in the same way.

        Raises
        ------
        TypeError, ValueError
            If it is no such dict, is of an unknown stream, or holds a generator where the layer
            owns none, or the other way round. The layer is then as it was.
        """
        rate = self._rate
        check_stream(state, "state")
        if not {rate, "generator"} <= state.keys():
            raise ValueError(f"state needs {rate!r} and 'generator'; it has {sorted(state)}")
        rule, own = self._rule(state[rate]), state["generator"]
        if (own is not None) != self.owns_rng:
            raise ValueError(
                "state holds a generator but the layer shares its own with others"
                if own is not None
                else "state holds no generator but the layer owns one: it was saved from a layer "
                "that shared its generator"
            )
        if own is not None:
            self.rng.state = own
        self.rule = rule

    def __repr__(self):
        shown = [f"{self._rate}={self.rule.given_rate()}"]
        for name, setting in settings(type(self)):
            if getattr(self, name) != setting.default:
                shown.append(f"{name}={getattr(self, name)!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    # pickles hold what those of 0.1.0 do, and may be of it

    def __reduce__(self):
        state = {"_p": self.rule.given_rate(), "training": bool(self.is_training), "mask": self.mask}
        state.update(_rng=self.rng, _owns_rng=self.owns_rng, **self.__dict__)
        return _new, (type(self),), state

    def __setstate__(self, state):
        state = dict(state)
        rate, self.is_training = state.pop("_p"), state.pop("training")
        self.mask = state.pop("mask")
        self.rng, self.owns_rng = state.pop("_rng"), state.pop("_owns_rng")
        self.__dict__.update(state)
        self.rule = self._rule(rate)


cdef class AddLayer(Layer):
    """Base of `DropoutAdd`, whose passes take and give more."""

    def forward(self, x, residual, bias=None, out=None, return_mask=False, *, training=None):
        """Return ``residual + dropout(x + bias)``; in evaluation without dropout.

        Parameters
        ----------
        x : array_like
            Of any shape (..., F).
        residual : array_like
            Of x's shape and dtype, or of float32 where that has 16 bits.
        bias : array_like, optional
            Shape (F,), of x's dtype or of the residual's.
        out : ndarray, optional
            Where to put the result; ``x`` and ``residual`` work in place.
        return_mask : bool, optional
            Whether to return the mask too.
        training : bool, optional
            As in the other layers.

        Returns
        -------
        y : ndarray
            Of the residual's shape and dtype.
        mask : Mask
            Only with ``return_mask=True``.

        Raises
        ------
        TypeError, ValueError, OverflowError
            As `fastdrop.dropout_add`. The layer is then as it was.
        """
        if training is None:
            training = self.is_training
        y, mask = add(x, residual, self.rule.rate, bias, training, self.rng, out)
        with cython.critical_section(self):
            self.mask = mask
        return (y, mask) if return_mask else y

    def backward(self, grad, out=None, mask=None, *, dtype=None):
        """Gradients by x and by the bias; that by the residual is ``grad`` itself.

        Parameters
        ----------
        grad : array_like
            Gradient by the output of `forward`.
        out : ndarray, optional
            Where to put the gradient by x; ``out=grad`` works in place.
        mask : Mask, optional
            Which forward pass, by default the last.
        dtype : dtype_like, optional
            That of x, where it is narrower than grad's.

        Returns
        -------
        dx, dbias : ndarray

        Raises
        ------
        RuntimeError
            Before the first forward pass.
        TypeError, ValueError
            As `fastdrop.dropout_add_backward`.
        """
        if mask is None:
            mask = self.mask
        if mask is None:
            raise RuntimeError(NO_MASK)
        return add_backward(grad, mask, out, dtype)


cdef class ReLULayer(Layer):
    """Base of `ReLUDropout`, whose passes take a bias, and whose backward pass needs the output."""

    def forward(self, x, bias=None, out=None, return_mask=False, *, training=None):
        """Return ``dropout(max(x + bias, 0))``; in evaluation without dropout. Remembers it.

        Parameters
        ----------
        x : array_like
            Of any shape (..., F).
        bias : array_like, optional
            Shape (F,), of x's dtype.
        out : ndarray, optional
            Where to put the result; ``out=x`` works in place.
        return_mask : bool, optional
            Whether to return the mask too.
        training : bool, optional
            As in the other layers.

        Returns
        -------
        y : ndarray
            Of x's shape and dtype. The layer keeps it, not a copy: leave it as it is until the
            backward pass.
        mask : Mask
            Only with ``return_mask=True``.

        Raises
        ------
        TypeError, ValueError, OverflowError
            As `fastdrop.relu_dropout`. The layer is then as it was.
        """
        if training is None:
            training = self.is_training
        y, mask = relu(x, self.rule.rate, bias, training, self.rng, out)
        with cython.critical_section(self):
            self.y, self.mask = y, mask
        return (y, mask) if return_mask else y

    def backward(self, grad, out=None, y=None):
        """Gradients by x and by the bias.

        Parameters
        ----------
        grad : array_like
            Gradient by the output of `forward`.
        out : ndarray, optional
            Where to put the gradient by x; ``out=grad`` works in place.
        y : ndarray, optional
            Output of another forward pass at the rate and in the mode of the last one, by default
            its own.

        Returns
        -------
        dx, dbias : ndarray

        Raises
        ------
        RuntimeError
            Before the first forward pass, and in a copy: copies and pickles are without y.
        TypeError, ValueError
            As `fastdrop.relu_dropout_backward`.
        """
        with cython.critical_section(self):
            mask, y = self.mask, self.y if y is None else y
        if mask is None or y is None:
            raise RuntimeError(NO_OUTPUT)
        if not isinstance(mask, Mask):
            raise TypeError(f"the layer's mask must be a Mask, not {type(mask).__name__}")
        return relu_backward(grad, y, (<Mask>mask).scale_, out)

    def __setstate__(self, state):
        Layer.__setstate__(self, state)
        self.y = None


def _new(kind):
    """Return a layer that `__setstate__` fills. Pickles name this function."""
    return kind.__new__(kind)


def settings(kind):
    """Return the names and settings of a kind of layer, in the order of its definition."""
    found = {}
    for base in reversed(kind.__mro__):
        found.update((k, v) for k, v in vars(base).items() if isinstance(v, Setting))
    return found.items()
