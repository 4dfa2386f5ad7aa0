"""C++ sources of the backend ``native_cpu``, and what builds them."""
