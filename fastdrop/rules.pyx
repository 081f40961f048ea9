"""Rules: what a function of the family does to any array, and the one way to do it.

A rule knows the rate, what becomes of kept and of dropped elements, and which axes share their
decisions. For an array it gives a recipe (`Mask` or `Noise`), which `drop` gives a place in the stream
and applies. Functions make a rule for each call; layers keep theirs.
"""

import math
import warnings

import numpy as np

from libc.stdint cimport uint64_t

from fastdrop.arrays cimport apart, as_input, as_plain, finish, target_for
from fastdrop.generator cimport as_source, take_from
from fastdrop.kernels cimport FD_MAX_NDIM
from fastdrop.mask cimport Mask, identity
from fastdrop.noise cimport Noise, check_sd
from fastdrop.ratesmask cimport check_rates, is_array, with_rates
from fastdrop.rates cimport (
    alpha_values, as_axis, as_bool, check_mode, check_p, drop_threshold, scale_of,
)
from fastdrop.recipe cimport as_noise_shape, as_shape, as_tuple, read_noise_shape

cnp.import_array()

DATA_FORMATS = ("channels_first", "channels_last")


cdef class Rule:
    """What is done to an array: of the kinds below."""

    cdef Recipe recipe_for(self, int ndim, const cnp.npy_intp *shape, bint training):
        """Return the recipe for arrays of a shape, which still lacks its place in the stream."""
        raise NotImplementedError

    cdef bint passes_on(self) noexcept:
        """Whether inference leaves x as it is."""
        return True

    cdef object given_rate(self):
        """Return the rate, a float or an array."""
        return self.rate

    cdef Recipe recipe_of(self, cnp.ndarray array, bint training):
        """Return the recipe for an array."""
        cdef cnp.npy_intp shape[FD_MAX_NDIM]
        cdef int axis, ndim = cnp.PyArray_NDIM(array)
        for axis in range(ndim):
            shape[axis] = cnp.PyArray_DIM(array, axis)
        return self.recipe_for(ndim, shape, training)

    cpdef object drop(self, x, training, rng, out, bint return_mask, str name="x"):
        """Do a call: every one of the family."""
        cdef bint dropping = as_bool(training, "training")
        source = as_source(rng)
        cdef cnp.ndarray array = as_input(x, name)
        cdef Recipe recipe = self.recipe_of(array, dropping)
        y = self.apply(x, array, dropping, source, out, recipe)
        return (y, recipe) if return_mask else y

    cdef object apply(self, x, cnp.ndarray array, bint training, source, out, Recipe recipe):
        """Allocate, take the position, run: the part of a call that follows the checks."""
        if not training and out is None and self.passes_on():
            return array  # x itself where that is a plain ndarray, and no subclass in either mode
        array = as_plain(array)
        target = target_for(array, out)
        array = apart(array, target)
        if training:
            take_from(source, recipe)
        recipe.run_on(target, array, False)
        return finish(target, out)

    def mask(self, shape, training, rng):
        """Return the mask of a call, for integrations that apply it themselves."""
        cdef bint dropping = as_bool(training, "training")
        source = as_source(rng)
        sizes = as_shape(shape)
        cdef cnp.npy_intp dims[FD_MAX_NDIM]
        cdef int axis, ndim = len(sizes)
        for axis in range(ndim):
            dims[axis] = sizes[axis]
        cdef Recipe recipe = self.recipe_for(ndim, dims, dropping)
        if dropping:
            take_from(source, recipe)
        return recipe


cdef enum Sharing:
    ELEMENTS  # by a noise shape
    CHANNELS
    FEATURES
    EXAMPLES
    LOCKED
    ROWS


cdef class MaskRule(Rule):
    """Dropping of elements, or of parts of the array that share their decision."""

    cdef Sharing sharing
    cdef uint64_t threshold
    cdef double scale, shift, fill
    cdef bint downscale  # kept elements are not scaled in training, and all are in inference
    cdef object noise_shape
    cdef int spatial  # of CHANNELS: number of axes after them
    cdef bint channels_last
    cdef int time_axis  # of LOCKED
    cdef object given  # the same as it was given

    cdef bint passes_on(self) noexcept:
        return not self.downscale

    cdef Recipe recipe_for(self, int ndim, const cnp.npy_intp *shape, bint training):
        cdef cnp.npy_intp noise[FD_MAX_NDIM]
        self.share(ndim, shape, noise)
        if not training:
            return identity(ndim, shape, 1.0 - self.rate if self.downscale else 1.0)
        cdef Mask mask = Mask.__new__(Mask)
        mask.set_axes(ndim, shape, noise)
        mask.set_rate(self.rate, self.threshold, self.scale, self.shift, self.fill)
        mask.made = True
        return mask

    cdef int share(self, int ndim, const cnp.npy_intp *shape, cnp.npy_intp *noise) except -1:
        """Write the noise shape, or say why x is not for this rule."""
        cdef int axis, separate = 0  # the first axes, of which each element has its own decision
        if self.sharing == ELEMENTS:
            return read_noise_shape(self.noise_shape, ndim, shape, noise)
        if self.sharing == LOCKED:
            if not -ndim <= self.time_axis < ndim:
                raise ValueError(
                    f"time_axis={self.given} is none of the axes of x, whose shape is {as_tuple(ndim, shape)}"
                )
            read_noise_shape(None, ndim, shape, noise)
            noise[self.time_axis % ndim] = 1
            return 0
        if self.sharing == CHANNELS:
            return self.share_channels(ndim, shape, noise)
        if self.sharing == FEATURES:
            if ndim < 2:
                raise ValueError(f"x has shape {as_tuple(ndim, shape)}; it must be (N, C, ...), at least two axes")
            separate = 2
        elif self.sharing == EXAMPLES:
            if ndim < 1:
                raise ValueError("x is 0-d; it must be (N, ...), at least one axis")
            separate = 1
        else:
            if ndim != 2:
                raise ValueError(f"weight has shape {as_tuple(ndim, shape)}; it must be (V, D), one row a word")
            separate = 1
        for axis in range(ndim):
            noise[axis] = shape[axis] if axis < separate else 1
        return 0

    cdef int share_channels(self, int ndim, const cnp.npy_intp *shape,
                            cnp.npy_intp *noise) except -1:
        """Share by PyTorch's rules on the rank."""
        cdef int axis, batched = self.spatial + 2
        if ndim != batched and ndim != batched - 1:
            raise ValueError(
                f"dropout{self.spatial}d: x has shape {as_tuple(ndim, shape)}, {ndim} axes; it must have "
                f"{batched - 1} or {batched}"
            )
        if self.spatial == 2 and ndim == 3:
            # level 1 is the user's line, for compiled functions are no frames to warnings
            warnings.warn(
                f"dropout2d: x of shape {as_tuple(ndim, shape)} is taken as a batch of sequences, not as an image; "
                "give x[None] for that, or use dropout1d",
                UserWarning,
                stacklevel=1,
            )
        cdef bint has_batch = ndim == batched or self.spatial == 2
        for axis in range(ndim):
            noise[axis] = 1
        axis = ndim - 1 if self.channels_last else has_batch
        noise[axis] = shape[axis]
        if has_batch:
            noise[0] = shape[0]
        return 0


cdef class RatesRule(Rule):
    """Dropping of elements, or of parts by a noise shape, with an array of rates."""

    cdef object rates
    cdef bint downscale
    cdef object noise_shape

    cdef bint passes_on(self) noexcept:
        return not self.downscale

    cdef object given_rate(self):
        return self.rates.view()  # which cannot be made writable

    cdef Recipe recipe_for(self, int ndim, const cnp.npy_intp *shape, bint training):
        cdef cnp.npy_intp noise[FD_MAX_NDIM]
        read_noise_shape(self.noise_shape, ndim, shape, noise)
        if training:
            return with_rates(ndim, shape, noise, self.rates, 1.0 if self.downscale else None)
        made = with_rates(ndim, shape, noise, self.rates, None)  # which checks that they broadcast
        if not self.downscale:
            return identity(ndim, shape, 1.0)
        return with_rates(ndim, shape, noise, np.zeros(()), 1.0 - made.p)


cdef class NoiseRule(Rule):
    """Gaussian noise, which multiplies or is added."""

    cdef double sd
    cdef bint additive

    cdef Recipe recipe_for(self, int ndim, const cnp.npy_intp *shape, bint training):
        cdef Noise noise = Noise.__new__(Noise)
        noise.set_axes(ndim, shape, shape)
        noise.sd_, noise.additive_ = self.sd if training else 0.0, self.additive
        noise.made = True
        return noise


# ---- the rule of each function -------------------------------------------------------------------


cdef MaskRule mask_rule(double p, Sharing sharing, double scale):
    cdef MaskRule rule = MaskRule.__new__(MaskRule)
    rule.rate, rule.threshold = p, drop_threshold(p)
    rule.sharing, rule.scale = sharing, scale
    return rule


cpdef Rule elements(p, noise_shape, mode):
    """Of all that drop elements at one rate."""
    cdef double rate = check_p(p)
    cdef bint upscale = check_mode(mode)
    cdef MaskRule rule = mask_rule(rate, ELEMENTS, scale_of(rate) if upscale else 1.0)
    rule.noise_shape, rule.downscale = as_noise_shape(noise_shape), not upscale
    return rule


cpdef Rule rates(p, noise_shape, mode):
    """Of `dropout`, whose p may be an array."""
    if type(p) is float or not is_array(p):
        return elements(p, noise_shape, mode)
    cdef RatesRule rule = RatesRule.__new__(RatesRule)
    rule.rates, rule.downscale = check_rates(p), not check_mode(mode)
    rule.rate = math.nan  # for whoever knows one rate alone
    rule.noise_shape = as_noise_shape(noise_shape)
    return rule


cpdef Rule channels(int spatial, p, data_format):
    """Of `dropout1d`, `dropout2d` and `dropout3d`."""
    cdef double rate = check_p(p)
    if spatial not in (1, 2, 3):
        raise ValueError(f"spatial={spatial}: channels have 1, 2 or 3 axes after them")
    if not isinstance(data_format, str) or data_format not in DATA_FORMATS:
        raise ValueError(
            f"data_format={data_format!r} is unknown; it must be {' or '.join(DATA_FORMATS)}"
        )
    cdef MaskRule rule = mask_rule(rate, CHANNELS, scale_of(rate))
    rule.spatial, rule.channels_last = spatial, data_format == "channels_last"
    return rule


cdef MaskRule alpha_rule(double p, Sharing sharing):
    cdef MaskRule rule = mask_rule(p, sharing, 0.0)
    rule.scale, rule.shift, rule.fill = alpha_values(p)
    return rule


cpdef Rule alpha(p, noise_shape):
    """Of `alpha_dropout`."""
    cdef MaskRule rule = alpha_rule(check_p(p), ELEMENTS)
    rule.noise_shape = as_noise_shape(noise_shape)
    return rule


cpdef Rule alpha_features(p):
    """Of `feature_alpha_dropout`."""
    return alpha_rule(check_p(p), FEATURES)


cpdef Rule examples(p, scale_by_keep):
    """Of `drop_path`."""
    cdef double rate = check_p(p)
    cdef bint scales = as_bool(scale_by_keep, "scale_by_keep")
    return mask_rule(rate, EXAMPLES, scale_of(rate) if scales else 1.0)


cpdef Rule locked(p, time_axis):
    """Of `locked_dropout`."""
    cdef double rate = check_p(p)
    time_axis = as_axis(time_axis, "time_axis")
    cdef MaskRule rule = mask_rule(rate, LOCKED, scale_of(rate))
    rule.given = time_axis
    rule.time_axis = max(-FD_MAX_NDIM - 1, min(FD_MAX_NDIM, time_axis))  # beyond them there is none
    return rule


cpdef Rule rows(p):
    """Of `embedding_dropout`."""
    cdef double rate = check_p(p)
    return mask_rule(rate, ROWS, scale_of(rate))


cpdef Rule gaussian(p):
    """Of `gaussian_dropout`."""
    cdef double rate = check_p(p)
    if rate == 1.0:
        raise ValueError("p=1.0: the noise would be infinite; gaussian_dropout takes p in [0, 1)")
    cdef NoiseRule rule = NoiseRule.__new__(NoiseRule)
    rule.rate, rule.sd = rate, math.sqrt(rate / (1.0 - rate))
    return rule


cpdef Rule additive(stddev):
    """Of `gaussian_noise`."""
    cdef NoiseRule rule = NoiseRule.__new__(NoiseRule)
    rule.rate = rule.sd = check_sd(stddev, "stddev")
    rule.additive = True
    return rule
