"""``xtc serve``: a packed model, or its ONNX export, over HTTP."""
