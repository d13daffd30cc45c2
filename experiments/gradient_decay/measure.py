"""Draws layers and inputs, measures the norms of their gradients, and sets closed forms beside."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.harness.layer_configs import TORCH_GAIN, Dense, Diagonal, Layer, build
from experiments.harness.reach import log_norms
from rnnscan.gradients import LogNorms, fit_exponential, fit_power_law, half_life, horizon, theory

FLOAT32_TINY = 2.0**-126  # the smallest normal number: below it a plain norm reads 0


def curves(
    config: Dense | Diagonal,
    *,
    seeds: int,
    sequences: int,
    length: int,
    hidden: int,
    input_size: int,
    input_std: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean over sequences of ln norms, for each seed: state (seeds, T + 1), input (seeds, T).

    Weights and inputs are drawn from the seed alone, so that layers meet the same inputs.
    """
    keys = [jax.random.split(jax.random.key(seed)) for seed in range(seeds)]
    drawn = [build(config, key, input_size=input_size, hidden=hidden) for key, _ in keys]
    layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    shape = (sequences, length, input_size)
    x = jnp.stack([input_std * jax.random.normal(key, shape) for _, key in keys])
    norms = jax.block_until_ready(_log_norms(layers, x))
    # In float64 from here on: a mean of logarithms in the hundreds.
    state, by_input = (np.asarray(part, np.float64).mean(axis=1) for part in norms)
    return state, by_input


@jax.jit  # one compiled program for all initialisations of a kind of layer
def _log_norms(layers: Layer, x: jax.Array) -> LogNorms:
    return jax.vmap(lambda layer, x: jax.vmap(lambda one: log_norms(layer, one))(x))(layers, x)


def numbers(log_norms: np.ndarray, eps: float, fit_lags: int) -> dict[str, Any]:
    """What one curve says: half-life, horizon, and the law that describes its beginning better."""
    lags = np.arange(min(len(log_norms), fit_lags + 1))
    fits = [fit(lags, log_norms[lags]) for fit in (fit_exponential, fit_power_law)]
    exponential, power = fits
    return {
        "fit_lags": int(lags[-1]),
        "half_life": float(half_life(log_norms)),
        "horizon": float(horizon(log_norms, eps)),
        "float32_lag": float(horizon(log_norms, FLOAT32_TINY)),
        "rate": exponential.rate,
        "power": power.rate,
        "law": min(fits, key=lambda fit: fit.aic).law,
    }


def closed_forms(
    config: Dense | Diagonal,
    lags: np.ndarray,
    *,
    hidden: int,
    input_size: int,
    input_std: float,
) -> tuple[str, np.ndarray, np.ndarray]:
    """Name and curves (state, and input relative to lag 0) that theory expects."""
    if isinstance(config, Diagonal):
        ring = (config.r_min, config.r_max)
        by_state = theory.lru_ring_log_norm(lags, *ring)
        return "mean over the ring", by_state, theory.lru_ring_input_log_norm(lags, *ring)
    if config.kind == "LinearRNN":
        name = "gain^k" if config.recurrent == "orthogonal" else "gain^k, k² well below n"
        curve = theory.gaussian_log_norm(lags, gain_of(config))
        return name, curve, curve
    exponent = tanh_exponent(
        gain_of(config), hidden=hidden, input_size=input_size, input_std=input_std
    )
    return "mean field", exponent * lags, exponent * lags


def gain_of(config: Dense) -> float:
    return TORCH_GAIN if config.gain is None else config.gain


def drive_std(*, hidden: int, input_size: int, input_std: float) -> float:
    """Standard deviation of W_ih x_t + b_ih + b_hh, all weights uniform on ±1/sqrt(hidden)."""
    return math.sqrt((input_size * input_std**2 + 2) / (3 * hidden))


def tanh_exponent(gain: float, *, hidden: int, input_size: int, input_std: float) -> float:
    """The mean field's ln of the gradient's factor per step."""
    drive = drive_std(hidden=hidden, input_size=input_size, input_std=input_std)
    return theory.driven_tanh(gain, drive).exponent
