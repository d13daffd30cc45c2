"""What each method costs, counted: multiplications and the longest chain of products.

For one state of width n that is moved on T times by the same real matrix. A product of two n x n
matrices is n^3 multiplications, of a matrix and a vector n^2.

| method | work | span, in dependent products |
|---|---|---|
| sequential | T n^2 | T |
| associative | about 2 T compositions of n^3 + n^2 | 2 log2 T |
| blocked | T n^2 (1 + 7/8) and 3 n^3 a level, with an eighth of the steps | 11 a level |
| diagonal | 4 T n^2 to and from the eigenvectors, 4 T n among them, 17 n^3 | 2 + 2 log2 T |

The 17 n^3 of the eigenvectors: about 12.5 n^3 for the QR iteration with vectors (Golub & Van Loan
2013, section 7.5.6: 25 n^3 operations) and some 4 n^3 for the complex inverse. The chain among them
is that of a tree; the CPU kernel goes through T multiply-adds of n numbers instead.

The test counts the products in the programs themselves.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from experiments.harness.limits import Work
from experiments.harness.race import BOTH

METHODS = ("sequential", "associative", "blocked", "diagonal")
BLOCK = 8
_WORD = 4


class Cost(NamedTuple):
    """Multiplications, and products that wait for each other."""

    work: float
    span: int


def cost(method: str, length: int, width: int) -> Cost:
    """Of one forward evaluation."""
    n, T = width, length
    if method == "sequential":
        return Cost(T * n**2, T)
    if method == "associative":
        compositions, span = _tree(T)
        # h0 enters by a product of its own.
        return Cost(compositions * (n**3 + n**2) + n**2, span + 1)
    if method == "blocked":
        return _blocks(T, n)
    return Cost(4 * (T + 1) * n**2 + 4 * T * n + 17 * n**3, 2 + 2 * math.ceil(math.log2(max(T, 1))))


def _tree(length: int) -> tuple[int, int]:
    """Compositions of `jax.lax.associative_scan`, and the longest chain of them."""
    if length < 2:
        return 0, 0
    inner, chain = _tree(length // 2)
    after = (length - 1) // 2
    return length // 2 + inner + after, 1 + chain + (after > 0)


def _blocks(length: int, width: int) -> Cost:
    """Of `rnnscan/scan/matrix_methods/blocked.py`, level by level."""
    size = min(BLOCK, length)
    count = -(-length // size)
    work, span = count * size * width**2, size
    if count == 1:
        return Cost(work, span)
    inner = _blocks(count - 1, width)
    halves = (count - 1) * (BLOCK - 1)  # 4 + 2 + 1 products a block
    return Cost(work + halves * width**2 + 3 * width**3 + inner.work, span + 3 + inner.span)


def least(direction: str, length: int, width: int) -> Work:
    """Bytes and operations that no method avoids, for float32.

    Forward: b is read and h written, 2 n^2 operations a step. With the backward pass: h and g are
    read, db is written; A' l and the gradient of A are 2 n^2 operations each.
    """
    words, passes = (5, 3) if direction == BOTH else (2, 1)
    return Work(_WORD * words * length * width, passes * 2 * length * width**2)


def predicted_bytes(method: str, direction: str, length: int, width: int) -> int:
    """What a program will hold at its peak beside its arguments, generously."""
    backward = direction == BOTH
    words = (16 if backward else 8) * length * width
    if method == "associative":
        words += (4 if backward else 2.5) * length * width**2
    return int(_WORD * words)


def predicted_multiplications(method: str, direction: str, length: int, width: int) -> float:
    """The backward pass is one more evaluation, and the gradient of A."""
    work = cost(method, length, width).work
    return 2 * work + length * width**2 if direction == BOTH else work
