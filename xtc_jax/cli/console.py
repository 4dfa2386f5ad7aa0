"""What several commands share: lines of progress on standard error, and the cache of compiled programs."""

from collections.abc import Callable


def progress_lines() -> Callable[[str], None]:
    """A callback that prints one line of text on standard error, without markup."""
    from rich.console import Console

    output = Console(stderr=True, highlight=False).print
    return lambda line: output(line, markup=False, soft_wrap=True)


def keep_executables() -> None:
    """Turn on JAX's cache of compiled programs, unless the user has: once on a machine, not at every call."""
    import jax

    from xtc_jax.data import cache_directory

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(cache_directory() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
