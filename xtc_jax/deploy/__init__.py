"""Writers of what runs without xtc_jax."""
