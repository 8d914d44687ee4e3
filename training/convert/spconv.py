"""Kernels of 2-D sparse convolutions: spconv wrote them in three orders of axes, torch's is none of them."""

from __future__ import annotations

from training.convert.reading import State

# Where a kernel has output channels, rows, columns and input channels, by version of spconv (its
# spconv/pytorch/conv.py): what brings them to torch's (out, in, rows, columns).
ORDERS = {
    "2.2 and later: (out, rows, columns, in)": (0, 3, 1, 2),
    "1.x, 2.0 and 2.1: (rows, columns, in, out)": (3, 2, 0, 1),
    "2.0 and 2.1: (rows, columns, out, in)": (2, 3, 0, 1),
}
OUT, IN = 64, 32  # of the kernel that tells the orders apart


def dense_kernels(kernels: State, probe: str) -> State:
    """Kernels by name -> the same in torch's order. probe: a kernel of 3x3 from 32 to 64 channels.

    A file has one order. Raises ValueError when it is none of the known ones.
    """
    shape = tuple(kernels[probe].shape)
    for order in ORDERS.values():
        if tuple(shape[axis] for axis in order) == (OUT, IN, 3, 3):
            return {name: kernel.permute(order).contiguous() for name, kernel in kernels.items()}
    raise ValueError(
        f"{probe} has the shape {shape}, expected a 3x3 kernel from {IN} to {OUT} channels in the order of spconv "
        f"{'; '.join(ORDERS)}"
    )
