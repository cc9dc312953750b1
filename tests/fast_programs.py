"""Programs are compiled without optimizations: import this before any program is compiled.

Most of the time of tests goes into compiling small programs: it takes a third of the time then.
"""

import os

import jax

from lsh_gan import devices

# XLA reads them once, before its first program, and so do the processes that tests start.
FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):
    FLAGS += " --xla_cpu_use_fusion_emitters=false"
if os.environ.setdefault("XLA_FLAGS", FLAGS) == FLAGS:
    devices.COMPILE_LONGER = None  # read when modules that compile are imported
