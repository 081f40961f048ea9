"""The base of all layers, for the other compiled modules."""

from fastdrop.generator cimport Generator
from fastdrop.rules cimport Rule


cdef class Layer:
    cdef public bint training
    cdef public object mask
    cdef Rule rule
    cdef Generator rng
    cdef bint owns_rng
    cdef object __weakref__

    cdef int renew(self) except -1


cdef class AddLayer(Layer):
    pass
