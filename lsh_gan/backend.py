"""Where programs run. What is fast on a CPU may be slow elsewhere: such choices ask here."""

import jax


def on_cpu() -> bool:
    """Whether the default backend is a CPU; asked when a program is traced or called."""
    return jax.default_backend() == "cpu"
