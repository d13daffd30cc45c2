"""The CPU kernels of `linear_scan` and of the recurrent cells: C++ that the install compiles.

`linear/` and `cells/` alike: `problem.h` says what is asked, `kernel.cc` computes it, compiled once
per instruction set, and `handlers.cc` is what XLA calls. `shared/` is what both include, and knows
neither. `library.py` finds, checks and registers what was compiled from `sources.py`'s list, on
which is also the launcher of `../cuda_kernel`.
"""
