"""The native CPU kernel of `linear_scan`: C++ that the install compiles, and what finds it.

`kernel.cc` computes, `handlers.cc` is what XLA calls, `library.py` loads what was compiled.
"""
