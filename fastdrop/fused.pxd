"""Dropout with its neighbours, for the other compiled modules."""

cpdef tuple add(x, residual, p, bias, training, rng, out)
cpdef tuple add_backward(grad, mask, out, dtype)
cpdef tuple relu(x, p, bias, training, rng, out)
cpdef tuple relu_backward(grad, y, double scale, out)
cpdef tuple softmax_of(scores, p, axis, training, rng, out)
cpdef object softmax_backward(grad, scores, mask, axis, out)
