"""The native CPU kernel of `linear_scan`: C++ that the install compiles, and what finds it.

`kernel.cc` computes, `handlers.cc` is called by XLA, `library.py` loads what was compiled from them.
"""
