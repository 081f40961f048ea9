"""The base of all layers, for the other compiled modules."""

from fastdrop.rules cimport Rule


cdef class Layer:
    cdef bint is_training
    cdef public object mask
    cdef Rule rule
    cdef object rng  # None: the default generator
    cdef bint owns_rng
    cdef object __weakref__

    cdef int check_words(self, dict kwargs, method) except -1
    cdef int renew(self) except -1


cdef class AddLayer(Layer):
    pass


cdef class ReLULayer(Layer):
    cdef public object y
