"""Compression by hand: pure functions on a pytree of parameters, without recipe, files or command.

  python examples/pack_in_python.py

A teacher with random weights, its 4 layers reduced to 2; the student learns the teacher's logits with 1-bit weights in every
forward pass; its weights are packed, and the packed model's logits are compared with the student's. Seconds on a CPU.
"""

import jax
import jax.numpy as jnp
import optax

from xtc_jax.bert import BertConfig, apply, init
from xtc_jax.compress import float32_bytes, layer_map, pack, ready, reduce_layers, size_account
from xtc_jax.quantize import fake_quantize, named_rules

LARGE = BertConfig(
    vocab_size=256,
    hidden_size=64,
    num_hidden_layers=4,
    num_attention_heads=4,
    intermediate_size=256,
    max_position_embeddings=32,
    initializer_range=0.2,
)
RULES = named_rules("paper-50x", weight_bits=1)


def logits(layers: int, params: dict, ids: jax.Array) -> jax.Array:
    """Logits ``(batch, classes)`` of token ids ``(batch, length)``; what stands in ``params`` decides what multiplies."""
    config = LARGE if layers == 4 else LARGE.__class__(**{**LARGE.__dict__, "num_hidden_layers": layers})
    return apply(config, params, ids, jnp.zeros_like(ids), jnp.ones_like(ids)).logits


def loss(student: dict, teacher: dict, ids: jax.Array) -> jax.Array:
    """Squared distance of the 1-bit student's logits from the teacher's; its gradient goes straight through the signs."""
    return jnp.mean((logits(2, fake_quantize(student, RULES), ids) - logits(4, teacher, ids)) ** 2)


def main(steps: int = 60) -> None:
    """Reduce, train, pack, compare."""
    key = jax.random.key(0)
    teacher = init(LARGE, key)
    student = reduce_layers(teacher, layer_map((1, 3), LARGE.num_hidden_layers))

    optimizer = optax.adam(3e-3)
    state = optimizer.init(student)

    @jax.jit
    def step(student: dict, state: optax.OptState, ids: jax.Array) -> tuple[dict, optax.OptState, jax.Array]:
        value, gradients = jax.value_and_grad(loss)(student, teacher, ids)
        updates, state = optimizer.update(gradients, state)
        return optax.apply_updates(student, updates), state, value

    losses = []
    for i in range(steps):
        ids = jax.random.randint(jax.random.fold_in(key, i), (16, 16), 0, LARGE.vocab_size)
        student, state, value = step(student, state, ids)
        losses.append(float(value))
    print(f"loss: {losses[0]:.4f} at first, {losses[-1]:.4f} after {steps} steps")

    packed = pack(student, RULES)  # the same integers, eight to a byte
    size = sum(entry.total for entry in size_account(packed))
    print(f"bytes: {float32_bytes(teacher):,} of the teacher, {size:,} packed: {float32_bytes(teacher) / size:.1f} times fewer")

    run = jax.jit(logits, static_argnums=0)
    fake = jax.jit(lambda params, ids: logits(2, fake_quantize(params, RULES), ids))(student, ids)
    by_xla = ready(packed, backend="xla")  # as the student was computed; the default, where it is built, is the native kernel
    difference = jnp.abs(run(2, by_xla, ids) - fake).max()
    print(f"packed and fake-quantized logits differ by at most {float(difference):.1e}")


if __name__ == "__main__":
    main()
