"""By which functional.py, compiled, makes C calls."""

from fastdrop cimport fused, rules
