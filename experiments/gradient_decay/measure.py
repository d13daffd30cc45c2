"""Draws layers and inputs, measures the norms of their gradients, and what a curve says."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from experiments.harness.kinds import KINDS
from experiments.harness.layer_configs import Layer, LayerConfig, build
from experiments.harness.reach import log_norms, output_log_norms
from rnnscan.gradients import LogNorms, fit_exponential, fit_power_law, half_life, horizon

FLOAT32_TINY = 2.0**-126  # the smallest normal number: below it a plain norm reads 0
READOUTS = 8  # random ones of the last output, whose root mean square is taken


def curves(
    config: LayerConfig,
    *,
    seeds: int,
    sequences: int,
    length: int,
    hidden: int,
    input_size: int,
    input_std: float,
) -> tuple[np.ndarray | None, np.ndarray]:
    """Mean over sequences of ln norms, for each seed: state (seeds, T + 1), input (seeds, T).

    Without a recurrent state there is no first one. Weights and inputs are drawn from the seed
    alone, so that layers meet the same inputs.
    """
    keys = [jax.random.split(jax.random.key(seed)) for seed in range(seeds)]
    sizes = {"input_size": input_size, "hidden": hidden, "length": length}
    drawn = [build(config, key, **sizes) for key, _ in keys]
    layers = jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)
    shape = (sequences, length, input_size)
    x = jnp.stack([input_std * jax.random.normal(key, shape) for _, key in keys])
    # In float64 from here on: a mean of logarithms in the hundreds.
    if KINDS[config.kind].recurrent:
        norms = jax.block_until_ready(_by_step(layers, x))
        state, by_input = (np.asarray(part, np.float64).mean(axis=1) for part in norms)
        return state, by_input
    shape = (sequences, READOUTS, drawn[0].output_size)
    rows = jnp.stack([jax.random.normal(jax.random.fold_in(key, 1), shape) for _, key in keys])
    return None, np.asarray(_by_call(layers, x, rows), np.float64).mean(axis=1)


@jax.jit  # one compiled program for all initialisations of a kind of layer
def _by_step(layers: Layer, x: jax.Array) -> LogNorms:
    return jax.vmap(lambda layer, x: jax.vmap(lambda one: log_norms(layer, one))(x))(layers, x)


@jax.jit
def _by_call(layers: Layer, x: jax.Array, rows: jax.Array) -> jax.Array:
    """One sequence after another: attention's memory grows with the square of the length."""

    def of_layer(layer_and_inputs):
        layer, *inputs = layer_and_inputs
        return lax.map(lambda one: output_log_norms(layer, *one), tuple(inputs))

    return lax.map(of_layer, (layers, x, rows))


def numbers(log_norms: np.ndarray, eps: float, fit_lags: int) -> dict[str, Any]:
    """What one curve says: half-life, horizon, and the law that describes its beginning better.

    A curve that is exactly 0 somewhere, as beyond a window, follows neither law.
    """
    lags = np.arange(min(len(log_norms), fit_lags + 1))
    found = {
        "fit_lags": int(lags[-1]),
        "half_life": float(half_life(log_norms)),
        "horizon": float(horizon(log_norms, eps)),
        "float32_lag": float(horizon(log_norms, FLOAT32_TINY)),
    }
    if not np.isfinite(log_norms[lags]).all():
        return {**found, "rate": np.nan, "power": np.nan, "law": None}
    fits = [fit(lags, log_norms[lags]) for fit in (fit_exponential, fit_power_law)]
    exponential, power = fits
    law = min(fits, key=lambda fit: fit.aic).law
    return {**found, "rate": exponential.rate, "power": power.rate, "law": law}


def share_of_newest(log_norms: np.ndarray, count: int) -> float:
    """The sum of the norms at so many newest lags, as a share of the sum over all."""
    of_newest, of_all = (np.logaddexp.reduce(part) for part in (log_norms[:count], log_norms))
    return float(np.exp(of_newest - of_all))
