"""What `MinGRU` and `MinLSTM` share: a state that is a mean of the one before and a candidate.

    h_t = (1 - p_t) * h_{t-1} + p_t * g(c_t)                        (1)
    p_t = sigmoid(l_t), and l_t, c_t depend on x_t alone

    g(c) = c + 1/2 where c >= 0, else sigmoid(c)                    (2)

No gate reads the state, so (1) is linear in it and every step can be computed at once. The two
differ in the logit l alone. Both factors come from it, 1 - p as sigmoid(-l): neither loses digits
where it is small, and no quotient of gates is ever 0 / 0.

g is continuous and positive, so that from a state >= 0 every state is positive. The paper needs
that because it scans logarithms. Here the factors are summed as they are: each is in (0, 1), so a
product of decays can underflow, which is what forgetting is, but never overflow.

With signed=True the decay in (0, 1) is stretched to one in (-1, 1), and the drive is what keeps (1)
a mean, of states and candidates up to their signs:

    h_t = a_t * h_{t-1} + (1 - |a_t|) * g(c_t),    a_t = 2 (1 - p_t) - 1 = -tanh(l_t / 2)    (3)

|h_t| is then at most the largest of |h_0| and all g. A state can change its sign from step to step,
as counting modulo 2 needs and no product of positive decays can do; and it is replaced as a whole
where l_t = 0, at a kink of |a|, not where l_t is large. Both factors come from l again, and so do
their slopes: 1 - |a| = 2 sigmoid(-|l|), and |da/dl| is half of that times 1 + |a|.

Sources: Feng et al., "Were RNNs all we needed?" (2024), arXiv:2410.01201, Appendix B; of (3) the
decay: Grazzi et al., "Unlocking state-tracking in linear RNNs through negative eigenvalues" (2024),
arXiv:2411.12537, table 2.
"""

from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar, Self

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from rnnscan.layer_parts.affine import affine
from rnnscan.layer_parts.arguments import flag, floating, positive, random_key
from rnnscan.layer_parts.draws import uniform
from rnnscan.layer_parts.layer import Given, ScanLayer
from rnnscan.layer_parts.state import Slot, Slots
from rnnscan.scan import AxisName, LinearMethodName, linear_scan, linear_table, scans_saveable

# What the backward pass keeps: the products and h; gates and candidates are cheap to redo.
_keep = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_saveable, scans_saveable
)


@dataclass(frozen=True, eq=False)
class Minimal(ScanLayer):
    """Base of the minimal layers, which say how many gates there are and what the logit is."""

    table = linear_table
    blocks: ClassVar[int]  # G, the gates and the candidate that are stacked in w

    w: jax.Array  # (G * hidden, features): the gates, then the candidate
    b: jax.Array | None  # (G * hidden,); None without biases
    method: LinearMethodName = field(default="auto", metadata={"static": True})
    signed: bool = field(default=False, metadata={"static": True})

    def __post_init__(self) -> None:
        super().__post_init__()
        flag(signed=self.signed)

    @classmethod
    def init(
        cls,
        key: jax.Array,
        input_size: int,
        hidden_size: int,
        *,
        bias: bool = True,
        signed: bool = False,
        method: LinearMethodName = "auto",
        dtype: DTypeLike = jnp.float32,
    ) -> Self:
        """Every weight uniform in (-1/sqrt(input_size), 1/sqrt(input_size)).

        That is a `torch.nn.Linear`, as in the paper's code. The decay is then close to 1/2: a state
        is forgotten in a few steps; the class says which bias makes it remember for longer. With
        `signed` it is close to 0, equation (3), and the state forgotten at once.

        Raises ValueError for sizes below 1 and an unknown method, TypeError for a dtype that is not
        real floating and a `signed` that is not True or False.

        >>> import jax
        >>> from rnnscan import MinGRU
        >>> layer = MinGRU.init(jax.random.key(0), 3, 8)
        >>> layer.w.shape, layer.b.shape
        ((16, 3), (16,))
        """
        key = random_key(key)
        positive(input_size=input_size, hidden_size=hidden_size)
        dtype = floating("dtype", dtype)
        rows = cls.blocks * hidden_size
        shapes = ((rows, input_size), *([(rows,)] if bias else []))
        bound = input_size**-0.5
        w, *b = uniform(key, shapes, -bound, bound, dtype)
        return cls(w, b[0] if bias else None, method, signed)

    @property
    def input_size(self) -> int:
        """Features of x."""
        return self.w.shape[-1]

    @property
    def hidden_size(self) -> int:
        """Width of the state."""
        return self.w.shape[-2] // self.blocks

    @property
    def output_size(self) -> int:
        """Features of y."""
        return self.hidden_size

    def _slots(self, batch: tuple[int, ...]) -> Slots:
        return Slot((*batch, self.hidden_size))

    def _evaluate(self, given: Given) -> tuple[jax.Array, jax.Array]:
        h = self._states(given.x, given.state, given.reset, given.axis_name)
        return h, given.last(h)

    def _step(self, x_t: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        decay, drive = self._coefficients(x_t)
        h = decay * state + drive
        return h, h

    @partial(jax.checkpoint, policy=_keep, static_argnums=4)
    def _states(
        self,
        x: jax.Array,
        state: jax.Array,
        reset: jax.Array | None,
        axis_name: AxisName | None,
    ) -> jax.Array:
        decay, drive = self._coefficients(x)
        scan = partial(linear_scan, axis=-2, method=self.method, axis_name=axis_name)
        return scan(decay, drive, state, reset=reset)

    def _coefficients(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Decay and drive, of equation (1) or (3)."""
        *gates, candidate = jnp.split(affine(x, self.w, self.b), self.blocks, axis=-1)
        logit = self._logit(gates)
        if self.signed:
            decay, share = signed_decay(logit)
        else:
            decay, share = jax.nn.sigmoid(-logit), jax.nn.sigmoid(logit)
        return decay, share * positive_part(candidate)

    def _logit(self, gates: list[jax.Array]) -> jax.Array:
        """l_t of equation (1) from the gates before their sigmoid."""
        raise NotImplementedError


def positive_part(c: jax.Array) -> jax.Array:
    """g, equation (2)."""
    return jnp.where(c >= 0, c + 0.5, jax.nn.sigmoid(c))


@jax.custom_jvp
def signed_decay(logit: jax.Array) -> tuple[jax.Array, jax.Array]:
    """a and 1 - |a| of equation (3).

    Where |a| rounds to 1, the derivative of tanh, 1 - a^2, would be 0 and that of 1 - |a| not. At
    l = 0 the slope of 1 - |a| is 0, the mean of those on both sides.
    """
    return -jnp.tanh(logit / 2), 2 * jax.nn.sigmoid(-jnp.abs(logit))


@signed_decay.defjvp
def _signed_decay_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    (logit,), (d_logit,) = primals, tangents
    decay, share = signed_decay(logit)
    d_decay = -share * (2 - share) / 2 * d_logit
    return (decay, share), (d_decay, -jnp.sign(decay) * d_decay)
