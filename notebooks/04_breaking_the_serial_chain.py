# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Breaking the serial chain
#
# Of a tanh RNN, the article that `experiments/claims` puts to the test says that "steps cannot be
# skipped, serial evaluation is unavoidable" (claim 7). Notebook 1 ended there too: two tanh steps
# are no tanh step, so a tree has nothing to pass on. It left a back door open, and this story goes
# through it:
#
# 1. the chain, step by step;
# 2. guess **all** states at once, and correct them all at once;
# 3. watch it converge;
# 4. turn up the gain until it does not;
# 5. other ways to correct;
# 6. the way back, which was never serial;
# 7. a layer, evaluated both ways;
# 8. what it costs, and when to reach for it.
#
# Letters are those of notebook 1: $T$ steps, a state $h_t$ of $n$ numbers, inputs $x_t$; *work* is
# the number of operations, *span* the longest chain of operations that wait for one another. All is
# computed in float64, so that there are more digits to watch; nothing here needs it.

# %%
import time
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from IPython.display import Markdown
from jax import lax
from matplotlib.ticker import NullLocator

from experiments.harness.colours import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY
from experiments.harness.figures import STYLE, legend_below, new_figure
from rnnscan import RNN, explain_nonlinear_scan, matrix_scan, nonlinear_scan
from rnnscan.gradients import theory

# %matplotlib inline
mpl.rcParams.update(STYLE)
jax.config.update("jax_enable_x64", True)


def table(head, *rows):
    """A Markdown table; every column but the first is set to the right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return Markdown("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))


def distance(found, expected):
    """The largest difference, relative to the largest number expected."""
    return float(np.abs(np.asarray(found) - expected).max() / np.abs(expected).max())


# %% [markdown]
# ## 1. The chain
#
# One step is $h_t = f(h_{t-1}, x_t) = \tanh(W h_{t-1} + x_t)$, where $x_t$ is what notebook 1 wrote
# $W_{ih} x_t + b$. Weights are normal with variance $g^2 / n$. The **gain** $g$ will be our knob:
# it says how strongly the state acts on the next one.

# %%
T, n = 256, 32
h0 = jnp.zeros(n)


def step(W, h, x):
    return jnp.tanh(W @ h + x)


def draw(seed, gain):
    """Weights, and inputs of standard deviation 0.5."""
    weights, inputs = jax.random.split(jax.random.key(seed))
    W = gain * jax.random.normal(weights, (n, n)) / n**0.5
    return W, 0.5 * jax.random.normal(inputs, (T, n))


@jax.jit
def loop(W, x):
    """Every state, one after another."""

    def body(h, x_t):
        h = step(W, h, x_t)
        return h, h

    return lax.scan(body, h0, x)[1]


W, x = draw(seed=0, gain=0.9)
h_loop = loop(W, x)
print("states:", h_loop.shape)

# %% [markdown]
# `body` cannot begin before the last one has ended: $T$ steps, span $T$. That is the claim.
#
# ## 2. Guess all states, and correct all at once
#
# Read the recurrence as something else: not as an order to follow, but as $T$ equations for $T$
# unknown states. A guess $h_1 \ldots h_T$, any guess, can be *checked* at all steps at the same
# time. Its **residual** is
#
# $$r_t = h_t - f(h_{t-1}, x_t), \qquad t = 1 \ldots T,$$
#
# and the guess is the trajectory when all $r_t$ are zero. To solve equations one takes Newton's
# method: put a tangent in the place of the function, and solve that. Add a correction $d_t$ to
# every state. To first order, with the Jacobian $J_t = \partial f / \partial h$ at
# $(h_{t-1}, x_t)$, the new residual is
#
# $$r_t + d_t - J_t\,d_{t-1}.$$
#
# Set it to zero. Nothing is to be corrected at $h_0$, which is given, so
#
# $$\boxed{\;d_t = J_t\,d_{t-1} + \big(f(h_{t-1}, x_t) - h_t\big), \qquad d_0 = 0\;}$$
#
# Look at what that is. The guess is known at all steps, so all $J_t$ and all the brackets are
# known, and are computed at the same time. What is left is $A_t\,d_{t-1} + b_t$: a **linear**
# recurrence, which the tree of notebook 1 solves with span $2 \log_2 T$. The tanh is not in the
# way of the tree any more. It is in the Jacobians.


# %%
@jax.jit
def correction(W, x, h):
    before = jnp.concatenate([h0[None], h[:-1]])  # the guess, one step earlier
    at_all_steps = partial(jax.vmap, in_axes=(None, 0, 0))
    f = at_all_steps(step)(W, before, x)
    J = at_all_steps(jax.jacfwd(step, argnums=1))(W, before, x)
    return matrix_scan(J, f - h, method="associative")  # the tree


h = jnp.zeros((T, n))  # nothing is known
rows = []
for k in range(7):
    error = np.abs(h - h_loop).max()
    rows.append([k, f"{error:.0e}"])
    h = h + correction(W, x, h)
assert error < 1e-14
table(["corrections", r"largest error, $\max_t \lvert h_t - h^*_t \rvert$"], *rows)

# %% [markdown]
# $h^*$ is the trajectory of the loop. There are 256 steps in the chain, and six corrections of the
# whole made it right to the last digit. No step was skipped; none had to wait for the exact state
# before it, either. An approximate one is enough to begin with.
#
# ## 3. Watch it converge
#
# This is what `nonlinear_scan(f, h0, xs, method="newton")` does, for any $f$ that JAX can
# differentiate. To see each iteration we allow one at a time, and hand the result back as the next
# `guess`.


# %%
@jax.jit
def iterate(W, x, h):
    f = partial(step, W)
    return nonlinear_scan(f, h0, x, guess=h, method="newton", max_iterations=1)[0]


def watch(W, x, count):
    """The guess h = 0 and the next `count` trajectories."""
    seen = [jnp.zeros((T, n))]
    for _ in range(count):
        seen.append(iterate(W, x, seen[-1]))
    return np.stack(seen)


seen = watch(W, x, 6)
by_hand = correction(W, x, jnp.zeros((T, n)))  # added to h = 0: the first of them
assert distance(seen[1], by_hand) < 1e-12

figure, panels = new_figure(1, 3, size=(8.0, 2.5), sharey=True)
for k, axes in enumerate(panels[0]):
    shown, steps = slice(0, 30), np.arange(1, 31)
    axes.plot(steps, h_loop[shown, 0], color="#c4c4c4", linewidth=4, label="the loop")
    axes.plot(
        steps, seen[k, shown, 0], color=RED, linewidth=1.3, label="the guess, k times corrected"
    )
    axes.set(title=f"k = {k}", xlabel="step t", ylim=(-1.6, 1.6))
panels[0, 0].set_ylabel("first unit of $h_t$ (no unit)")
legend_below(figure)
figure

# %% [markdown]
# The guess knows nothing at first, then the shape, then the digits. How many digits shows only on a
# logarithmic axis. Below, one line for each $k$: the error at every step, the largest of the 32
# units. On the right the same for a larger gain.

# %%
GAINS = (0.5, 0.9, 1.3, 1.5, 1.8, 2.2)


def errors_of(seen, h_loop):
    """(k, t): the largest error of a unit."""
    return np.abs(seen - np.asarray(h_loop)).max(axis=-1)


def log10(error):
    """As digits; what is exact, to the last bit, is drawn at -17."""
    return np.log10(np.maximum(error, 1e-17))


def viridis(count):
    """Colours from dark to light."""
    return mpl.colormaps["viridis"](np.linspace(0, 0.85, count))


def draw_map(axes, values, low, high, bands, top=1):
    """Rows from top to bottom, columns from step 1 on."""
    rows, columns = values.shape
    image = axes.imshow(
        values,
        cmap=mpl.colormaps["viridis"].resampled(bands),
        vmin=low,
        vmax=high,
        aspect="auto",
        interpolation="nearest",
        extent=(0.5, columns + 0.5, rows + top - 0.5, top - 0.5),
    )
    axes.grid(False)
    return image


errors = {0.9: errors_of(seen, h_loop)}
W, x = draw(seed=0, gain=1.3)
errors[1.3] = errors_of(watch(W, x, 14), loop(W, x))

figure, panels = new_figure(1, 2, size=(8.8, 3.6), sharey=True)
for axes, (gain, error), chosen in zip(
    panels[0], errors.items(), (range(7), (0, 4, 8, 10, 12, 13, 14)), strict=True
):
    place = np.inf
    for k, color in zip(chosen, viridis(len(chosen)), strict=True):
        axes.plot(np.arange(1, T + 1), log10(error[k]), color=color, linewidth=1)
        place = min(place - 0.8, log10(error[k, -20:]).mean())  # no label on another
        axes.text(T + 4, place, f"k = {k}", color=color, va="center", fontsize=9)
    axes.set(title=f"gain {gain}", xlabel="step t", xlim=(0, T + 40), ylim=(-17.3, 2))
    axes.set_yticks(range(-15, 1, 3))
panels[0, 0].set_ylabel(r"$\log_{10}$ of the error after k corrections")
figure

# %% [markdown]
# Two things to see, and then to check.
#
# **Digits double.** Near the solution a line lies twice as deep as the one before it: the error
# is squared, as Newton's method has it. (The loop itself is exact to $10^{-16}$, where all lines
# end.)
#
# **There is a front.** At the left each line starts at the bottom: these states are exact already.
# Set $t = 1$ in the box: $h_1 + d_1 = f(h_0, x_1)$, so one correction makes the first state exact.
# From then on $d_1 = 0$, so the next one makes the second state exact, and so on: **after $k$
# corrections at least the first $k$ states are exact**, whatever the guess was, and however bad the
# Jacobians, since they multiply zeros. So $T$ corrections are always enough. That is no comfort: a
# loop needs $T$ steps as well. But at gain 0.9 all is over before the front has gone anywhere, and
# at gain 1.3 the front runs ahead of $t = k$.

# %%
for error in errors.values():
    for k, of_step in enumerate(error):
        assert (of_step[:k] < 1e-13).all(), "the front"
worst = errors[0.9].max(axis=1)
assert (worst[3:] < worst[2:-1] ** 2 + 1e-14).all(), "squared"
exact = {gain: (error > 1e-13).argmax(axis=1) for gain, error in errors.items()}
print("gain 1.3, states that are exact after k corrections:")
print({k: int(exact[1.3][k]) for k in (0, 2, 4, 6, 8, 10, 12)})

# %% [markdown]
# Nobody hands us $h^*$ when we need it, so how would we know that we may stop? By the residual: it
# needs the guess alone. `nonlinear_scan` goes on until it is a few roundings at every step, and
# returns a certificate beside the states.


# %%
@partial(jax.jit, static_argnames="method")
def solve(W, x, method):
    return nonlinear_scan(partial(step, W), h0, x, method=method)


# differs by machine: how many roundings make the residual
W, x = draw(seed=0, gain=0.9)
h, found = solve(W, x, "newton")
off = np.abs(h - loop(W, x)).max()
assert found.converged
assert off < found.error_bound
table(
    ["`Convergence`", "", "meaning"],
    ["`converged`", bool(found.converged), "each residual is within 8 roundings"],
    ["`iterations`", int(found.iterations), "corrections of the whole trajectory"],
    ["`residual`", f"{found.residual:.1f}", "the largest, in roundings"],
    ["`error_bound`", f"{found.error_bound:.0e}", r"an estimate of $\max \lvert h - h^* \rvert$"],
    ["the true error", f"{off:.0e}", "against the loop, which nobody has"],
)

# %% [markdown]
# One correction fewer than before: it does not begin at zero, but at $f(f(0, x_{t-1}), x_t)$, what
# two steps would make of nothing. That is known at all steps at once too, and it is a better guess.
# In training, the trajectory of the epoch before can be a better one still.
#
# ## 4. Turn up the gain
#
# Whether this is fast depends on one number. Disturb the state a little, and go on with the same
# inputs. Does the disturbance die out, or does it grow? After many steps its size changes by about
# $e^{\lambda}$ a step, and $\lambda$ is the **Lyapunov exponent** (the largest one). Below zero the
# network forgets; above zero it is *chaotic*: a butterfly moves its wings, and a month later the
# weather is another. To measure it, take a tangent along with the loop, and write down by how
# much it grows.


# %%
@jax.jit
def lyapunov(W, x):
    def body(carry, x_t):
        h, v = carry  # a state, and a direction of length 1
        h, v = jax.jvp(lambda h: step(W, h, x_t), (h,), (v,))
        growth = jnp.linalg.norm(v)
        return (h, v / growth), jnp.log(growth)

    return lax.scan(body, (h0, jnp.ones(n) / n**0.5), x)[1].mean()


# differs by machine: near chaos a rounding decides
SEEDS = range(3)
points = {}  # of Newton: exponent, iterations, converged
rows = []
for gain in GAINS:
    for seed in SEEDS:
        W, x = draw(seed, gain)
        h, found = solve(W, x, "newton")
        off = np.abs(h - loop(W, x)).max()
        points[gain, seed] = float(lyapunov(W, x)), int(found.iterations), bool(found.converged)
        assert not found.converged or off < found.error_bound
        if seed == 0:
            exponent, iterations, converged = points[gain, seed]
            expected = theory.driven_tanh(gain, 0.5).exponent
            shown = [f"{value:.0e}" for value in (found.residual, found.error_bound, off)]
            rows.append(
                [gain, f"{expected:+.2f}", f"{exponent:+.2f}", iterations, converged, *shown]
            )
table(
    [
        "gain",
        "$\\lambda$, wide network",
        "$\\lambda$, measured",
        "iterations",
        "`converged`",
        "`residual`",
        "`error_bound`",
        "true error",
    ],
    *rows,
)

# %% [markdown]
# The second column is the closed form of notebook 1, for infinitely many units; ours has 32. As
# $\lambda$ comes near zero the iterations become many, and beyond it there is an end: at the limit
# of 128 iterations Newton gives up at gain 2.2, and **says so**. Its states are of no use, the
# residual is astronomical, and `converged` is false. All three seeds in one picture:

# %%
looks = dict(
    zip(
        GAINS,
        zip((SKY, BLUE, GREEN, ORANGE, PINK, RED), ("o", "s", "^", "D", "v", "P"), strict=True),
        strict=True,
    )
)
figure, ((axes,),) = new_figure(size=(7.6, 4.2))
for (gain, seed), (exponent, iterations, converged) in points.items():
    color, marker = looks[gain]
    axes.plot(
        exponent,
        iterations,
        linestyle="none",
        marker=marker,
        markersize=8,
        color=color,
        markerfacecolor=color if converged else "white",
        label=f"g = {gain}" if seed == 0 else None,
    )
axes.axvline(0, color=GREY, linewidth=1.2, linestyle="--")
axes.text(0.012, 3.1, "chaos", color=GREY)
axes.text(-0.012, 3.1, "forgets", color=GREY, ha="right")
axes.set(yscale="log", ylim=(2.7, 200), yticks=[4, 8, 16, 32, 64, 128])
axes.yaxis.set_major_formatter("{x:.0f}")
axes.yaxis.set_minor_locator(NullLocator())
axes.set_xlabel(r"Lyapunov exponent $\lambda$, measured (per step)")
axes.set_ylabel("iterations of Newton's method")
legend_below(figure)
figure

# %% [markdown]
# Open marks did not converge. Here is what happens there: the whole iteration as a map. A row is an
# iteration, from top to bottom; a column is a step of time; dark is exact. The dashed line is
# $t = k$, where the front is at the latest.

# %%
shown_gains = (1.5, 1.8, 2.2)
figure, panels = new_figure(1, 3, size=(9.6, 3.9), sharey=True)
for axes, gain in zip(panels[0], shown_gains, strict=True):
    W, x = draw(seed=0, gain=gain)
    errors[gain] = errors_of(watch(W, x, 160), loop(W, x))
    image = draw_map(axes, log10(errors[gain]), -16, 2, bands=18, top=0)
    axes.plot((0, 160), (0, 160), color="white", linewidth=1.4, linestyle="--")
    axes.set_title(f"gain {gain}, $\\lambda$ = {points[gain, 0][0]:+.2f}")
    axes.set(xlabel="step t", xlim=(0.5, T + 0.5), ylim=(160.5, -0.5))
panels[0, 0].set_ylabel("corrections k")
figure.colorbar(
    image,
    ax=panels[0].tolist(),
    label=r"$\log_{10}$ of the error",
    pad=0.02,
    ticks=range(-16, 3, 3),
)
figure

# %% [markdown]
# At gain 1.5 the front walks for some twenty iterations, and then everything ahead of it falls into
# place at once. In chaos that does not happen. Ahead of the front the error is as large as the
# states, or larger, however often they are corrected. The front gains two or three steps with each
# iteration, and each iteration works on all $T$. A loop gains a step for the price of a step. At
# gain 2.2 some 140 iterations would do, but that is no reason to raise the limit of 128: the loop
# was there long before.
#
# Some details. Beyond $10^2$ the colour stays the same. The first correction overshoots wildly, by
# $10^{76}$ at gain 2.2, since at $h = 0$ the Jacobians are $W$ itself, with no tanh to shrink them;
# the next one takes it back. Gain 1.8 is chaotic as well, but weakly: what counts is $\lambda T$,
# how far a disturbance grows until the end. And the states behind the front at gain 2.2 are less
# and less exact with time. No iteration mends that; we come back to it.
#
# ### Why: the butterfly is in the equations
#
# Written as one matrix, Newton's system has ones on its diagonal and $-J_t$ below it. The block
# $(t, s)$ of its *inverse* is
#
# $$J_t\,J_{t-1} \cdots J_{s+1} = \frac{\partial h_t}{\partial h_s}, \qquad
# \text{so}\quad d_t = -\sum_{s \le t} \frac{\partial h_t}{\partial h_s}\, r_s.$$
#
# A residual at step $s$ is thrown to every later step $t$, by the very product that made gradients
# vanish or explode in notebook 1. Here is its size, for all pairs of the first 128 steps, at the
# trajectory itself.


# %%
def thrown(W, h):
    """log10 of the root mean square singular value of dh_t/dh_s, (t, s)."""
    W, h = np.asarray(W), np.asarray(h)
    size = np.full((len(h), len(h)), np.nan)
    products = np.zeros((len(h), n, n))  # dh_t/dh_s for all s up to t
    for t in range(len(h)):
        products[:t] = (1 - h[t] ** 2)[:, None] * (W @ products[:t])
        products[t] = np.eye(n)
        size[t, : t + 1] = 0.5 * np.log10((products[: t + 1] ** 2).sum(axis=(1, 2)) / n)
    return size


figure, panels = new_figure(1, 2, size=(8.4, 3.7), sharey=True)
for axes, gain in zip(panels[0], (0.9, 2.2), strict=True):
    W, x = draw(seed=0, gain=gain)
    size = thrown(W, loop(W, x)[:128])
    print(f"gain {gain}: largest 10^{np.nanmax(size):.1f}")
    image = draw_map(axes, size, -16, 6, bands=22)
    axes.set(title=f"gain {gain}", xlabel="thrown from step s")
panels[0, 0].set_ylabel("to step t")
label = r"$\log_{10}$ size of $\partial h_t / \partial h_s$"
figure.colorbar(image, ax=panels[0].tolist(), label=label, pad=0.02, ticks=range(-16, 7, 4))
figure

# %% [markdown]
# On the left a residual is felt for a few steps and then forgotten. A correction is a local matter,
# all stretches of the sequence are mended side by side, and the length hardly counts: at gain 0.9
# it takes 5 iterations for any length from 64 to 4,096 (`docs/log.md`). On the right every residual
# is thrown to the end of time, and grows by $e^{\lambda}$ a step on its way. A matrix whose inverse
# has such entries is *ill-conditioned*. And a tangent is the tanh only for *small* corrections: far
# behind a wrong state they are huge, and what they lead to is as wrong as what was there. Only just
# behind the front are they small enough. Hence the front, and nothing else.
#
# This is no weakness of Newton's method alone. Even the loop does not know a chaotic trajectory:
# one rounding at the first step grows as well. `method="auto"` returns right states in any case,
# and its `error_bound` says how many digits anyone could have.


# %%
rows = []
for gain in (0.9, 2.2):
    W, x = draw(seed=0, gain=gain)
    h, found = solve(W, x, "auto")
    h_loop = loop(W, x)
    assert found.converged
    assert np.abs(h - h_loop).max() < found.error_bound
    off = np.abs(loop(W, x.at[0].multiply(1 + 1e-15)) - h_loop).max()  # the butterfly
    rows.append(
        [
            gain,
            bool(found.converged),
            int(found.iterations),
            f"{found.error_bound:.0e}",
            f"{off:.0e}",
        ]
    )
table(
    [
        '`"auto"`, gain',
        "`converged`",
        "`iterations`",
        "`error_bound`",
        "change of the loop if $x_1$ grows by $10^{-15}$ of it",
    ],
    *rows,
)

# %% [markdown]
# At gain 0.9 nothing happens. At gain 2.2 the fifteenth digit of one input decides about the third
# digit of a state; the bound allows for a rounding at every step, and leaves two. (No iterations:
# on a CPU `"auto"` *is* the loop. Where it does iterate, on an accelerator, it stops after 32,
# keeps the states up to the front, and completes the rest step by step.)
#
# ## 5. Other ways to correct
#
# The correction was a choice. Any matrices in the place of $J_t$ leave the solution what it is
# ($d = 0$ if and only if all residuals are zero), and the front with it.
#
# - **`quasi_newton`** keeps the diagonals of $J_t$: an elementwise scan, and $n$ numbers a step
#   instead of $n^2$. It pays where the diagonal says most, as in gated cells. Here it does not.
# - **`chunked_newton`** cuts time into 16 chunks of 16 steps, runs the loop in all chunks side by
#   side, and corrects the 15 states where a chunk begins. Fewer unknowns, fewer iterations, less
#   memory; the span has the 16 steps of a chunk in it.
# - **`damped_newton`** takes $s J_t$ with $0 \le s \le 1$, undoes what made things worse, and
#   learns $s$ from that. Undone iterations count.
#
# Iterations on the same problems; a dash where 128 were not enough:


# %%
# differs by machine: the iterations near chaos, by a rounding
@partial(jax.jit, static_argnames="method")
def count(W, x, method):
    h, found = nonlinear_scan(partial(step, W), h0, x, method=method)
    return h, found.iterations  # the rest of the certificate is not computed


rows = []
for method in ("quasi_newton", "chunked_newton", "damped_newton"):
    counts = []
    for gain in GAINS:
        W, x = draw(seed=0, gain=gain)
        h, iterations = count(W, x, method)
        counts.append(int(iterations) if iterations < 128 else "–")
        assert iterations == 128 or distance(h, loop(W, x)) < 0.05  # all that chaos allows
    rows.append([f"`{method}`", *counts])
newton = [points[gain, 0] for gain in GAINS]
newton = [iterations if converged else "–" for _, iterations, converged in newton]
table(["iterations at gain", *GAINS], ["`newton`", *newton], *rows)

# %% [markdown]
# Chunks look like the winner in chaos. Look again: 15 is their limit, as $T$ is that of `newton`,
# and 15 iterations of 16 steps each, one after another, are the 240 steps of the loop. It *is* the
# loop, at $15\,(n + 1)$ times its work.
#
# ## 6. The way back was never serial
#
# Training needs gradients. With $c_t = \partial L / \partial h_t$, as it comes from above, what
# arrives at $h_t$ in all is
#
# $$p_t = c_t + J_{t+1}^\top\, p_{t+1}, \qquad
# \frac{\partial L}{\partial x_t} = (1 - h_t^2) * p_t, \qquad
# \frac{\partial L}{\partial W} = \sum_t \big((1 - h_t^2) * p_t\big)\, h_{t-1}^\top.$$
#
# The states are known by now, so are all $J_t$, and this is a linear recurrence, from the end to
# the start. **The backward pass of every RNN is one**, the tanh RNN included: one `matrix_scan`, no
# iteration, no certificate. `nonlinear_scan` differentiates like that, at the solution, whichever
# method found it; it does not go back through the iterations. For small gated cells this pays even
# on a CPU (`docs/log.md`).


# %%
# It runs once, so to compile it fast is worth more than to run it fast.
@partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
def gradients(W, x, c):
    def by_newton(W, x):
        return nonlinear_scan(partial(step, W), h0, x, method="newton")[0]

    def of_loss(run):
        return jax.grad(lambda W, x: jnp.sum(c * run(W, x)), argnums=(0, 1))(W, x)

    h = loop(W, x)
    slope = 1 - h**2
    J = slope[:, :, None] * W[None]
    later = jnp.concatenate([J[1:].mT, jnp.zeros((1, n, n))])
    into_tanh = slope * matrix_scan(later, c, reverse=True, method="associative")
    by_hand = into_tanh.T @ jnp.concatenate([h0[None], h[:-1]]), into_tanh
    return of_loss(loop), {"`nonlinear_scan`, newton": of_loss(by_newton), "by hand": by_hand}


W, x = draw(seed=0, gain=0.9)
expected, found = gradients(W, x, jax.random.normal(jax.random.key(9), (T, n)))
rows = [[name, *map(distance, slopes, expected)] for name, slopes in found.items()]
assert all(off < 1e-12 for _, *both in rows for off in both)
table(
    ["`jax.grad` against that of `lax.scan`", "$W$", "$x$"],
    *([name, *(f"{off:.0e}" for off in both)] for name, *both in rows),
)

# %% [markdown]
# ## 7. One layer, two ways
#
# `RNN`, `LSTM` and `GRU` take the same methods. The weights are those of training, step by step or
# not; the numbers are the same. `with_convergence` returns the certificate of every sequence
# beside the call's own results, since a method that is named returns what it ends with, converged
# or not.

# %%
layer = RNN.init(jax.random.key(3), input_size=2, hidden_size=8, dtype=jnp.float64)
sequences = jax.random.normal(jax.random.key(4), (3, T, 2))
y, state, found = layer.with_convergence(sequences, method="newton")
off = distance(y, layer(sequences, method="scan")[0])
assert found.converged.all()
assert off < 1e-14
print(f"iterations of each sequence: {found.iterations[0].tolist()}, distance: {off:.0e}")

# %% [markdown]
# ## 8. What it costs, and when to reach for it
#
# Count. The loop multiplies a matrix by a vector at each step: work $T n^2$, span $T$. One
# correction computes $T$ Jacobians by $n$ tangents each, $T n^3$, and solves the recurrence by a
# tree, $2 T n^3$. Its span is $2 \log_2 T$ products, and one for the Jacobians. With $K$
# iterations,
#
# $$\frac{\text{work of Newton}}{\text{work of the loop}} = 3 n K, \qquad
# \frac{\text{span of the loop}}{\text{span of Newton}} = \frac{T}{K\,(2 \log_2 T + 1)}.$$
#
# At gain 0.9, with $n = 32$ and $K = 5$, this is 480 times the work for a span that is 3 times
# shorter at $T = 256$, and 33 times at $T = 4{,}096$. That is a bargain only where hundreds of
# lanes would be idle otherwise. A CPU has none to give away. One correction by hand against the
# whole loop, on the machine that wrote this page:


# %%
# differs by machine: times
def seconds(run):
    """The least of many, since other programs only add to it."""
    samples = []
    for _ in range(40):
        start = time.perf_counter()
        jax.block_until_ready(run())
        samples.append(time.perf_counter() - start)
    return min(samples)


h = jnp.zeros((T, n))
times = seconds(lambda: correction(W, x, h)) / seconds(lambda: loop(W, x))
times = float(f"{times:.1g}")  # no more than a rough number
print(f"{jax.default_backend()}: one correction takes about {times:g} times as long as the loop")

# %% [markdown]
# And five are needed. So on a CPU, do not: going forward, no width or length that was tried made it
# pay (`docs/log.md`), and `"auto"` takes the loop. For an accelerator it goes by an estimate, from
# counts as above; nothing on this page was measured on one.

# %%
state = jax.ShapeDtypeStruct((32,), jnp.float32)
inputs = jax.ShapeDtypeStruct((65_536, 32), jnp.float32)
weights = jnp.zeros((32, 32), jnp.float32)
rows = []
for platform in ("cpu", "cuda"):
    for row in explain_nonlinear_scan(partial(step, weights), state, inputs, platform=platform):
        rows.append([f"{platform}, {row.method}", "**yes**" if row.chosen else "", row.reason])
table(["platform, method", "chosen", "reason"], *rows)

# %% [markdown]
# | reach for it | leave it |
# |:--|:--|
# | few sequences, and long ones | a batch that fills the machine already |
# | small states, or any where $f$ works elementwise | wide dense states: $n^3$ |
# | a recurrence that forgets, $\lambda < 0$ | chaos, $\lambda > 0$ |
# | an accelerator, once it was measured there | a CPU |
#
# ## The account
#
# - Serial evaluation of a tanh RNN is **not unavoidable**. What is sequential is the way the
#   equations are written down, not the equations themselves.
# - How parallel they are is a property of the dynamics. A network that forgets lets its steps be
#   found side by side, in a number of iterations that hardly grows with $T$. In chaos every method
#   here advances from the front alone, a few steps at a time; there the claim stands.
# - "Not unavoidable" is not "worth it". It trades work for span.
# - An iteration needs a certificate. Without one, the states of gain 2.2 are just numbers.
#
# **Where to go next.**
#
# - `python -m experiments run nonlinear_parallel`: iterations and times against length and gain,
#   and a verdict on the claim;
# - `rnnscan/scan/nonlinear_methods/`: the methods, each a file that opens with its mathematics;
# - give `nonlinear_scan` a cell of your own: any pure function of a state and an input will do.
#
# **Sources.** Lim et al., *Parallelizing non-linear sequential models over the sequence length*
# (2024). Gonzalez et al., *Towards scalable and stable parallelization of nonlinear RNNs* (2024):
# the front, the diagonal and the damping. Bellen & Zennaro, *Parallel algorithms for initial-value
# problems for difference and differential equations* (1989): chunks. Blelloch, *Prefix sums and
# their applications* (1990): the tree.
