"""By which functional.py, compiled, calls the rules as C functions."""

from fastdrop cimport rules
