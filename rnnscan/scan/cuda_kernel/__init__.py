"""The CUDA kernel of `linear_scan`: C++ that is compiled when a program for a GPU is lowered.

`problem.h` says what is asked, `linear.h` computes it, and asks of a GPU what `device.h` names, so
that a host can run the same source (tests/scan/cuda_host). `problem.py` is `problem.h` in Python,
`plan.py` lays out the work for shapes, `nvrtc.py` compiles, `launch.py` hands the result to XLA, by
a target of XLA's or by `launcher.cc`, which the install compiles. The maps and how halves are
rounded are those of the CPU kernel, from its folder.
"""
