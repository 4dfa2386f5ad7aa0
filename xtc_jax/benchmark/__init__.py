"""``xtc benchmark``: what packed kernels, packed models and int8 training cost, side by side with their rivals."""
