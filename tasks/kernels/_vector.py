"""An inner loop that numba leaves to single numbers, written as vector instructions."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core.typing import signature
from numba.extending import intrinsic

LANES = 8
"""Pixels that are worked on together; LLVM splits them where a processor's vectors are shorter."""
_FAST = ("reassoc", "contract", "nsz", "arcp")


def _separable_sum(
    _context: Any, pixels: Any, first: Any, width: Any, weights: Any, across: Any, along: Any
) -> Any:
    """The signature, and what writes the instructions."""
    return signature(types.float32, pixels, first, width, weights, across, along), _emit


def _emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """The eight rows are summed with the weights along y, and that sum with those across x."""
    single, index = ir.FloatType(), ir.IntType(64)
    eight = ir.VectorType(single, LANES)
    image, first, width, table, across, along = arguments
    pixels = context.make_array(signature.args[0])(context, builder, image).data
    weights = context.make_array(signature.args[3])(context, builder, table).data

    def load(base: Any, offset: Any) -> Any:
        address = builder.bitcast(builder.gep(base, [offset]), eight.as_pointer())
        return builder.load(address, align=4)

    def shuffled(vector: Any, lanes: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes)
        return builder.shuffle_vector(vector, ir.Constant(vector.type, ir.Undefined), mask)

    weight_along = load(weights, along)
    total = ir.Constant(eight, [0.0] * LANES)
    for j in range(LANES):
        row = load(pixels, builder.add(first, builder.mul(width, ir.Constant(index, j))))
        weight = shuffled(weight_along, [j] * LANES)
        total = builder.fadd(total, builder.fmul(row, weight, flags=_FAST), flags=_FAST)
    total = builder.fmul(total, load(weights, across), flags=_FAST)
    for n in (LANES // 2, LANES // 4, LANES // 8):
        low, high = shuffled(total, list(range(n))), shuffled(total, list(range(n, 2 * n)))
        total = builder.fadd(low, high, flags=_FAST)
    return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))


separable_sum: Callable[..., Any] = intrinsic(_separable_sum)
"""Sum of 8 x 8 float32 pixels times 8 weights along y times 8 weights across x, in a kernel.

``separable_sum(pixels, first, width, weights, across, along)``: ``pixels`` is an image with rows
of ``width``, flattened, and ``first`` the index of the lowest pixel; the weights are
``weights[across : across + 8]`` and ``weights[along : along + 8]``. Indices are 64-bit integers;
none is checked.
"""
