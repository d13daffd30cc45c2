"""How far back a gradient reaches: measured norms, fits to them, and closed forms (`theory`).

A decay of 1/2: two steps back a quarter of the gradient is left.

>>> import jax.numpy as jnp
>>> norms = log_gradient_norms(lambda h, x: 0.5 * h + x, jnp.zeros(3), jnp.ones((2, 3)))
>>> jnp.exp(norms.state).round(3).tolist()
[1.0, 0.5, 0.25]
"""

from rnnscan.gradients import theory as theory
from rnnscan.gradients.decay import LogNorms as LogNorms
from rnnscan.gradients.decay import log_gradient_norms as log_gradient_norms
from rnnscan.gradients.fits import Fit as Fit
from rnnscan.gradients.fits import bootstrap_interval as bootstrap_interval
from rnnscan.gradients.fits import fit_exponential as fit_exponential
from rnnscan.gradients.fits import fit_power_law as fit_power_law
from rnnscan.gradients.fits import half_life as half_life
from rnnscan.gradients.fits import horizon as horizon
