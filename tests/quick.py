"""Flags of XLA for tests: nearly all of the time is compiling programs that run for microseconds.

So the code generator does not optimise, nor are small programs split among threads. Version 0.10 of
jaxlib knows two ways to write the code of fused operations: the newer one passes through MLIR,
which takes nearly half of all compile time, so it is told to take the other one. Later versions
have no other one.
"""

import importlib.metadata
import os

FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):  # a flag that is unknown is fatal
    FLAGS += " --xla_cpu_use_fusion_emitters=false"


def environment(**changes):
    """Of another process that compiles quickly; its own flags come after those of this one."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
    return {**os.environ, "XLA_FLAGS": flags, **changes}
