"""XTC in JAX: a BERT fifty times smaller, honestly packed."""

__version__ = "0.1.0"
