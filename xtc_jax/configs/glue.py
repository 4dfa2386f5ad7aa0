"""GLUE with the paper's settings: fine-tune, reduce, distill at 1 or 2 bits, pack.

    xtc compress --config=glue:sst2 --workdir=runs/sst2
    xtc compress --config=glue:cola,layers=5,bits=2 --config.data.path=DIR --workdir=runs/cola

Paper: XTC (Wu et al., NeurIPS 2022). BERT-base, 18 epochs each for reduction and quantization (36 for
reduction on QQP and MNLI), batch 32, length 128, learning rate 5e-5 with one epoch of warm-up (docs/method.md, section 6.2).
Published for the 12-layer W1A8 student on MNLI-m: 84.1 against the teacher's 84.9. Measured here: not yet.
"""

from ml_collections import ConfigDict

from xtc_jax.recipe.schema import base_config, parse_arg, stage_config

_LAYERS = {12: (), 6: (1, 3, 5, 7, 9, 11), 5: (2, 4, 6, 8, 10)}


def get_config(arg: str = "") -> ConfigDict:
    """``TASK,layers=12|6|5,bits=1|2,runlocal``; ``data.path`` is a local copy, "" the hub."""
    options = parse_arg(arg, task="sst2", layers=6, bits=1, runlocal=False)
    config = base_config(runlocal=options.runlocal, model="google-bert/bert-base-uncased", task=options.task)
    # The teacher is not the paper's subject: three epochs at 3e-5, as in the BERT paper.
    config.teacher = stage_config(epochs=3.0, warmup_epochs=0.3, learning_rate=3e-5)
    distilled = {"teacher": "teacher", "learning_rate": 5e-5}
    quantized = {**distilled, "result": "quantized", "weight_bits": options.bits, "epochs": 18.0}
    if options.layers == 12:
        config.stages = ("teacher", "quantize")
        config.quantize = stage_config(init="teacher", **quantized)
        return config
    if options.layers not in _LAYERS:
        raise ValueError(f"layers={options.layers}; use one of {', '.join(map(str, _LAYERS))}")
    config.stages = ("teacher", "reduce", "quantize")
    epochs = 36.0 if options.task in ("mnli", "qqp") else 18.0
    config.reduce = stage_config(result="reduced", init="teacher", layers=_LAYERS[options.layers], epochs=epochs, **distilled)
    config.quantize = stage_config(init="reduce", **quantized)
    return config
