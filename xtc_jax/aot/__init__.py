"""``xtc aot``: the training step compiled for devices that are not there, and what it takes."""
