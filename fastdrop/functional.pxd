"""With this functional.py, which is compiled, calls these modules' functions in C."""

from fastdrop cimport fused, rates, rules
