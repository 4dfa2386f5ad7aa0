"""Bytes between HBM and the chip that a compiled program moves at least.

Every buffer that lies in HBM is read once by each instruction that uses it, and written once by the one that makes it; a
fusion is one instruction. A gather or a slice reads what it takes, an update in place writes what it changes. Buffers that the
compiler keeps in the chip's own memory count when they are copied from or to HBM. That is the model of XLA's own cost
analysis, but for memory spaces, which that does not tell apart.
"""

from xtc_jax.aot.hlo_text import Computation, Instruction, Module, executed

_FREE = frozenset(
    {"after-all", "bitcast", "call", "conditional", "constant", "get-tuple-element", "iota", "parameter", "partition-id"}
) | {"replica-id", "tuple", "while"}
_FREE_CALLS = ("ConcatBitcast", "AssumeGatherIndicesInBound", "AllocateBuffer")
"""Custom calls that only rename a buffer."""
_TAKE = frozenset({"dynamic-slice", "gather", "slice"})
_UPDATE = frozenset({"dynamic-update-slice", "scatter"})


def hbm_traffic(module: Module) -> int:
    """Bytes that one run of the program on one device reads from HBM and writes to it."""
    return sum(
        each.times * (_read(module, each.computation, each.instruction) + _written(module, each.computation, each.instruction))
        for each in executed(module)
        if not each.fused and not _free(each.instruction)
    )


def _free(instruction: Instruction) -> bool:
    return instruction.opcode in _FREE or any(f'"{name}"' in instruction.attributes for name in _FREE_CALLS)


def _in_hbm(instruction: Instruction) -> int:
    return sum(buffer.bytes for buffer in instruction.results if buffer.space == 0)


def _read(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Of the operands; the second half of an asynchronous pair reads nothing more."""
    if instruction.opcode.endswith("-done"):
        return 0
    operands = dict.fromkeys(instruction.operands)
    found = [(name, _in_hbm(computation[name])) for name in operands if name in computation]
    return sum(min(size, _used(module, instruction, name, size)) for name, size in found if size)


def _used(module: Module, user: Instruction, name: str, size: int) -> int:
    """Bytes that ``user`` takes of its operand ``name``, which has ``size``."""
    taken = [index for index, operand in enumerate(user.operands) if operand == name]
    if user.opcode in _TAKE and taken == [0]:
        return user.bytes
    if user.opcode == "slice-start":
        return user.results[-2].bytes  # ((whole), slice, context)
    if user.opcode in _UPDATE and taken == [0]:
        return 0
    if user.opcode != "fusion":
        return size
    inner = module.computations[user.called[0]]
    return min(size, sum(_parameter_use(module, inner, index, size) for index in taken))


def _parameter_use(module: Module, computation: Computation, index: int, size: int) -> int:
    names = [each.name for each in computation.values() if each.number == index]
    total = 0
    while names:
        name = names.pop()
        for user in computation.values():
            if name not in user.operands:
                continue
            if user.opcode == "bitcast":
                names.append(user.name)
            else:
                total += _used(module, user, name, size)
    return min(total, size)


def _written(module: Module, computation: Computation, instruction: Instruction) -> int:
    """Of the results; the first half of an asynchronous pair has written nothing yet."""
    if instruction.opcode.endswith("-start"):
        return 0
    if instruction.opcode in _UPDATE:
        return _update(computation, instruction) if _in_hbm(instruction) else 0
    if instruction.opcode != "fusion":
        return _in_hbm(instruction)
    inner = module.computations[instruction.called[0]]
    root = next(each for each in inner.values() if each.root)
    parts = [inner[name] for name in root.operands] if root.opcode == "tuple" else [root]
    if len(parts) != len(instruction.results):
        return _in_hbm(instruction)
    pairs = zip(parts, instruction.results, strict=True)
    return sum(_update(inner, part) if part.opcode in _UPDATE else buffer.bytes for part, buffer in pairs if buffer.space == 0)


def _update(computation: Computation, instruction: Instruction) -> int:
    """Bytes of what is put into place: operand 1 of a dynamic-update-slice, the last of a scatter."""
    name = instruction.operands[1 if instruction.opcode == "dynamic-update-slice" else -1]
    return computation[name].bytes
