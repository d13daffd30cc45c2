"""What others publish as Mamba, stated again: channels first, one step after another.

Source: the code beside Gu & Dao (2023), arXiv:2312.00752 (state-spaces/mamba), of which these are
the equations: its scan takes (batch, channels, time), adds the bias of delta and softplus itself,
reads twice the real part of complex states, and gates. In our names, so that one tree of
parameters serves both.
"""

import jax
import jax.numpy as jnp


def scan(u, delta, A, B, C, D=None, z=None, delta_bias=None, *, softplus=False, starts=None):
    """(output, last state): u, delta, z (batch, channels, time), B and C (batch, N, time).

    starts: (time,), true where another sequence begins: its first state is its first drive.
    """
    if delta_bias is not None:
        delta = delta + delta_bias[None, :, None]
    if softplus:
        delta = jnp.logaddexp(delta, 0)
    starts = jnp.zeros(u.shape[-1], bool) if starts is None else starts

    def step(state, at):
        u_t, delta_t, B_t, C_t, start = at
        decay = jnp.exp(delta_t[:, :, None] * A[None])
        drive = (delta_t * u_t)[:, :, None] * B_t[:, None, :]
        state = jnp.where(start, drive, decay * state + drive)
        read = jnp.einsum("bdn,bn->bd", state, C_t)
        return state, 2 * read.real if jnp.iscomplexobj(read) else read

    steps = [jnp.moveaxis(v, -1, 0) for v in (u, delta, B, C)]
    dtype = jnp.result_type(u, A, B)
    state = jnp.zeros((*u.shape[:2], A.shape[1]), dtype)
    last, out = jax.lax.scan(step, state, (*steps, starts))
    out = jnp.moveaxis(out, 0, -1)
    out = out if D is None else out + u * D[None, :, None]
    return (out if z is None else out * silu(z)), last


def silu(v):
    return v / (1 + jnp.exp(-v))


def ssm(p, x, z=None):
    """(y, last state) of x (batch, channels, time), by the parameters of a `SelectiveSSM`."""
    size = p.a_log.shape[1]
    rank = p.w_x.shape[0] - 2 * size
    projected = jnp.einsum("rd,bdl->brl", p.w_x, x)
    r, B, C = projected[:, :rank], projected[:, rank : rank + size], projected[:, rank + size :]
    delta = jnp.einsum("dr,brl->bdl", p.w_dt, r)
    return scan(x, delta, -jnp.exp(p.a_log), B, C, p.d, z, p.b_dt, softplus=True)


def mamba(p, tokens):
    """(y, (the last inputs of the convolution, last state)) of tokens (batch, time, features)."""
    xz = jnp.einsum("ef,blf->bel", p.w_in, tokens)
    x, z = xz[:, : xz.shape[1] // 2], xz[:, xz.shape[1] // 2 :]
    width, length = p.conv.w.shape[0], x.shape[-1]
    padded = jnp.pad(x, [(0, 0), (0, 0), (width - 1, 0)])
    # Published taps are oldest first; ours count backwards from the present.
    taps = p.conv.w[::-1, :, 0]
    mixed = sum(taps[k][None, :, None] * padded[:, :, k : k + length] for k in range(width))
    y, last = ssm(p.ssm, silu(mixed + p.conv.b[None, :, None]), z)
    window = jnp.swapaxes(padded[:, :, length:], 1, 2)
    return jnp.einsum("fd,bdl->blf", p.w_out, y), (window, last)
