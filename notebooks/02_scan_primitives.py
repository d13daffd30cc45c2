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
# # 2. Five ways to compute one recurrence
#
# Linear recurrent layers, state-space models, moving averages and discounted returns all come down
# to one line,
#
# $$h_t = a_t\,h_{t-1} + b_t, \qquad t = 1 \ldots T,$$
#
# elementwise, with a **decay** $a_t$ and a **drive** $b_t$. The line says what to compute. It does
# not say in which order, and there are at least five ways. They give the same numbers. They differ
# in how much they compute, how long they wait, and how often they go to memory:
#
# 1. one step after another;
# 2. a tree that computes things again;
# 3. a tree that does not;
# 4. blocks, side by side;
# 5. a kernel, with lanes across channels and time in segments.
#
# After that: what a reset does to all of them, why the backward pass is the same scan reversed, how
# long each takes on your machine, and how to use the scan inside a Flax and an Equinox model.
#
# *Work* is the number of products, *span* the longest chain of products that wait for one another.
# Where the rule for joining two steps comes from is the story of `01_the_recurrence`; here it is
# used.

# %%
import math
from functools import cache, partial
from importlib.util import find_spec
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from IPython.display import Markdown
from jax import lax
from jax.nn.initializers import constant
from matplotlib.lines import Line2D
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import LogLocator, NullLocator

from experiments.harness import limits
from experiments.harness.colours import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY
from experiments.harness.figures import STYLE, legend_below, new_figure, short_seconds
from experiments.harness.race import with_gradients
from experiments.harness.timing import Contender, compare
from experiments.scan_limits.contenders import make_task
from experiments.scan_limits.shapes import BOTH, BY_NAME, FORWARD
from rnnscan import explain_linear_scan, linear_scan

# %matplotlib inline
mpl.rcParams.update(STYLE)


def table(head, *rows):
    """A Markdown table; every column but the first is set to the right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return Markdown("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))


def distance(found, expected):
    """The largest difference, relative to the largest number expected."""
    return f"{np.abs(np.asarray(found) - expected).max() / np.abs(expected).max():.0e}"


# %% [markdown]
# ## The rule that makes it possible
#
# A step is the map $h \mapsto a h + b$. Two steps in a row are again such a map, so a run of steps,
# however long, is a pair of numbers:
#
# $$(a_1, b_1) \;\text{then}\; (a_2, b_2) \;=\; (a_2 a_1,\; a_2 b_1 + b_2).$$
#
# This product is **associative**: of three neighbours, it does not matter which two are joined
# first. It is not commutative: who comes first in time does matter. Every way below is some order
# of joining neighbours, and this is the only fact that all of them rest on. Let us check it on a
# hundred thousand random triples. Floating-point numbers are rounded, so the two sides may differ
# by a few units $u$ of the last digit, measured against the size of the three terms in the sum.


# %%
def then(earlier, later):
    (a1, b1), (a2, b2) = earlier, later
    return a2 * a1, a2 * b1 + b2


rng = np.random.default_rng(0)
rows = []
for dtype in (np.float32, np.float64):
    a = rng.uniform(-1, 1, (3, 100_000)).astype(dtype)
    b = rng.standard_normal((3, 100_000)).astype(dtype)
    x, y, z = zip(a, b, strict=True)
    size = abs(a[2] * a[1] * b[0]) + abs(a[2] * b[1]) + abs(b[2])  # of the three terms
    u = np.finfo(dtype).eps / 2
    left = then(then(x, y), z)[1]
    right, swapped = then(x, then(y, z))[1], then(then(y, x), z)[1]
    bracketed, exchanged = (abs((left - other) / size).max() for other in (right, swapped))
    rows.append([dtype.__name__, f"{bracketed / u:.1f} u", f"{u:.0e}", f"{exchanged:.1f}"])
table(["", "(x then y) then z, against x then (y then z)", "u", "x and y swapped"], *rows)

# %% [markdown]
# A few roundings apart, however they are bracketed; and plainly different numbers once two of them
# change places.

# %% [markdown]
# ## How the pictures and the counts are made
#
# Each way is written once, as a function of the steps and of the rule that joins them. Given pairs
# of numbers it computes. Given *runs*, which only know the first and last step that they cover and
# the round in which they can be ready at the earliest, it draws its own picture and counts its own
# work. A run that begins with step 1 is a state: $h_0$ is taken into the first drive,
# $b_1 + a_1 h_0$.


# %%
class Run(NamedTuple):
    """Many runs of steps, as arrays."""

    first: np.ndarray
    last: np.ndarray
    round: np.ndarray


def pick(x, *index):
    return jax.tree.map(lambda leaf: leaf[index], x)


def join(*parts):
    return jax.tree.map(lambda *leaves: leaves[0].__array_namespace__().concat(leaves), *parts)


@cache
def trace(way, T):
    """All products that a way makes of T steps: (earlier, later, result)."""
    made = []

    def compose(earlier, later):
        earlier, later = jax.tree.map(np.asarray, (earlier, later))
        assert (later.first == earlier.last + 1).all(), "only neighbours can be joined"
        ready = np.maximum(earlier.round, later.round) + 1
        made.append((earlier, later, Run(earlier.first, later.last, ready)))
        return made[-1][2]

    steps = np.arange(1, T + 1, dtype=np.int32)
    result = way(Run(steps, steps, 0 * steps), compose)
    assert (np.asarray(result.first) == 1).all()
    assert (np.asarray(result.last) == steps).all()
    return made


def count(made):
    """Work and span."""
    return sum(len(run.last) for *_, run in made), max(run.round.max(initial=0) for *_, run in made)


STATE = {"color": BLUE, "marker": "o", "label": "a state, $h_t$"}
AHEAD = {"color": ORANGE, "marker": "s", "label": "steps joined ahead of time"}
EARLIER = {"color": GREY, "linewidth": 1.1, "label": "from the earlier part"}
LATER = {"color": "#c4c4c4", "linewidth": 1.1, "label": "from the later part"}


def draw(axes, way, name, T=16, block=16):
    made = trace(way, T)
    steps = np.arange(1, T + 1)
    for earlier, later, result in made:
        for part, look in ((earlier, EARLIER), (later, LATER)):  # it waits, and then it is used
            path = np.stack([part.last, part.last, result.last])
            rounds = np.stack([part.round, result.round - 1, result.round])
            axes.plot(path, rounds, **look | {"label": None}, zorder=1)
    for run in [Run(steps, steps, 0 * steps), *(result for *_, result in made)]:
        for look, chosen in ((STATE, run.first == 1), (AHEAD, run.first != 1)):
            dots = look | {"linestyle": "none", "markersize": 6.5, "label": None}
            axes.plot(run.last[chosen], run.round[chosen], **dots, zorder=3)
    for edge in range(block, T, 2 * block):  # every other block is shaded
        axes.axvspan(edge + 0.5, edge + block + 0.5, color="#eeeeee", zorder=0)
    work, span = count(made)
    axes.set_title(f"{name}: work {work}, span {span}")
    axes.set(xlabel="step t", xlim=(0.4, T + 0.6), ylim=(-0.6, span + 0.6))
    axes.set_xticks(steps if T <= 16 else [1, *steps[3::4]])
    axes.set(ylabel="round", yticks=range(0, span + 1, 1 if span < 10 else 3))
    axes.grid(False)


def explain_marks(figure, marks=(STATE, AHEAD, EARLIER, LATER)):
    handles = [Line2D([], [], **{"linestyle": "none" if "marker" in m else "-"} | m) for m in marks]
    look = {"loc": "outside lower center", "ncols": len(handles), "fontsize": 9}
    figure.legend(handles=handles, **look)


# %% [markdown]
# ## 1. One step after another
#
# The line as it stands: keep the state, apply the next step, write the state down. $T - 1$ products
# after the first step, each of which waits for the one before. Nothing is computed that is not a
# result, and memory is touched as little as can be: read $a$ and $b$, write $h$. In `linear_scan`
# this is `method="sequential"`.


# %%
def chain(x, compose):
    states = [pick(x, slice(0, 1))]
    for t in range(1, len(jax.tree.leaves(x)[0])):
        states.append(compose(states[-1], pick(x, slice(t, t + 1))))
    return join(*states)


figure, axes = new_figure(size=(7.6, 3.6))
draw(axes[0, 0], chain, "One after another")
explain_marks(figure)
figure

# %% [markdown]
# Each dot is a partial result, each pair of lines a product. A row is a moment in time: all dots in
# it can be computed at once. Here there is one a row.

# %% [markdown]
# ## 2. A tree that computes things again
#
# In round $k$ every step takes in the run that ends $2^k$ steps before it (Hillis & Steele, 1986).
# Runs double in length, so $\log_2 T$ rounds are enough, and no way is shorter. The price is work:
# nearly every step takes part in nearly every round, and neighbours compute almost the same thing.
# It takes six lines, and no more than slices and the rule.


# %%
def doubling(x, compose):
    reach = 1
    while reach < len(jax.tree.leaves(x)[0]):
        joined = compose(pick(x, slice(None, -reach)), pick(x, slice(reach, None)))
        x, reach = join(pick(x, slice(None, reach)), joined), 2 * reach
    return x


figure, axes = new_figure(size=(7.6, 2.8))
draw(axes[0, 0], doubling, "Doubling")
explain_marks(figure)
figure

# %% [markdown]
# ## 3. A tree that does not
#
# Join pairs of neighbours, solve the half as long problem, and fill in the steps between (Blelloch,
# 1990). Each level of the tree has half as many products as the one below it, so the work stays
# below $2T$, whatever $T$; going up and down again takes twice the rounds. This is
# `method="associative"`, and `jax.lax.associative_scan`, which draws the picture: it is handed our
# runs instead of numbers.


# %%
def tree(x, compose):
    return lax.associative_scan(compose, x)


figure, axes = new_figure(size=(7.6, 3.3))
draw(axes[0, 0], tree, "Tree")
explain_marks(figure)
figure

# %% [markdown]
# ## 4. Blocks, side by side
#
# Cut time into blocks. *Reduce*: every block but the last becomes one pair, step by step, all
# blocks at the same time. A small tree over these pairs gives the state that enters each block.
# *Scan*: every block runs again, now from the right state, and writes $h$. The work is that of the
# tree, below $2T$; the span is two blocks and a small tree. But the partial results of a block do
# not go to memory, which sees $a$ and $b$ twice and $h$ once. This is `method="blocked"`, with
# blocks of about $\sqrt T$ steps.


# %%
def blocks(x, compose, count=None, across=tree):
    """Reduce, then scan; `across` joins the pairs of the blocks."""
    T = len(jax.tree.leaves(x)[0])
    count = count or math.isqrt(T)
    x = jax.tree.map(lambda leaf: leaf.reshape(count, T // count, *leaf.shape[1:]), x)
    whole = pick(x, slice(0, count - 1), 0)
    for c in range(1, T // count):
        whole = compose(whole, pick(x, slice(0, count - 1), c))
    entered = compose(across(whole, compose), pick(x, slice(1, None), 0))
    states = [join(pick(x, slice(0, 1), 0), entered)]
    for c in range(1, T // count):
        states.append(compose(states[-1], pick(x, slice(None), c)))
    states = jax.tree.map(lambda *leaves: leaves[0].__array_namespace__().stack(leaves, 1), *states)
    return jax.tree.map(lambda leaf: leaf.reshape(T, *leaf.shape[2:]), states)


figure, axes = new_figure(size=(7.6, 4.0))
eight = partial(blocks, count=8)
draw(axes[0, 0], eight, "Eight blocks of four steps", T=32, block=4)
explain_marks(figure)
figure

# %% [markdown]
# Every other block is shaded. The first block needs no help, its states are right the first time;
# it is scanned again because the others are, at the same moment.

# %% [markdown]
# ## 5. A kernel: lanes across channels, time in segments
#
# A recurrence rarely comes alone: $h_t$ has channels, and there is a batch. They do not depend on
# one another, so they fill the vector units and the cores with no tree at all. A core takes a
# vector of neighbouring channels (a *lane* each), and goes through time with the states in
# registers: way 1, many times over, three words of memory a step. That is the plan of
# `method="native"`, a C++ loop for CPUs.
#
# Only where there are too few channels to go round does it split time, into segments as in way 4.
# Each segment is reduced to its pair. Pairs are handed on in a chain: a segment needs no more than
# the state that its predecessor ends with, the *carry* (Merrill & Garland, 2016). Here there are at
# most 16 segments: two threads with vectors of eight lanes.


# %%
def segments(x, compose):
    lanes = min(16, math.isqrt(len(jax.tree.leaves(x)[0])))
    return blocks(x, compose, lanes, across=chain)


channels, T = 16, 16
figure, panels = new_figure(1, 2, size=(9.2, 3.9))
axes = panels[0, 0]
threads = (STATE, STATE | {"color": GREEN, "marker": "D"})
for channel in range(1, channels + 1):
    look = threads[channel > 8] | {"label": None, "linewidth": 1, "markersize": 5}
    axes.plot(range(1, T + 1), [channel] * T, **look)
for low, look in zip((1, 9), threads, strict=True):
    vector = FancyBboxPatch((6, low), 0, 7, boxstyle="round,pad=0.4", facecolor="none", zorder=4)
    vector.set(edgecolor=look["color"], linewidth=1.8)
    axes.add_patch(vector)
axes.set_title(f"Many channels, a lane each: span {T - 1}")
axes.set(xlabel="step t, and round", ylabel="channel", xlim=(0.4, T + 0.6), ylim=(0.2, 16.8))
axes.set(xticks=range(1, T + 1), yticks=(1, 4, 8, 9, 12, 16))
axes.grid(False)
draw(panels[0, 1], segments, "One channel, four segments", block=4)
explain_marks(
    figure, (STATE, threads[1] | {"label": "a state, second thread"}, AHEAD, EARLIER, LATER)
)
figure

# %% [markdown]
# On the left a frame is a vector: eight channels that one instruction takes a step further. On the
# right the segments are the lanes: three of them are reduced at once, their pairs are chained, and
# all four run again.

# %% [markdown]
# ## What they cost, and how exact they are
#
# Before counting, a check that these functions compute what they should: here they are on numbers,
# against a loop in float64.


# %%
def loop(a, b):
    """Every state, one step after another, in float64."""
    h, states = np.zeros(b.shape[1:]), []
    for a_t, b_t in zip(np.asarray(a, np.float64), np.asarray(b, np.float64), strict=True):
        h = a_t * h + b_t
        states.append(h)
    return np.array(states)


ways = {
    "1. one after another": chain,
    "2. doubling": doubling,
    "3. tree": tree,
    "4. blocks": blocks,
    "5. kernel, segments": segments,
}
a = rng.uniform(0.9, 1, (64, 3)).astype(np.float32)
b = rng.standard_normal((64, 3)).astype(np.float32)
states = jax.jit(lambda *steps: {name: way(steps, then)[1] for name, way in ways.items()})(a, b)
for name, h in states.items():
    print(f"{name:21s} {distance(h, loop(a, b))}")

# %% [markdown]
# Now the counts, for a short and a longer sequence. *Words* are the numbers that must come from
# memory or go there, for each step: a tree reads two pairs and writes one for every product, six
# words, as one round has to be over before the next begins. The others keep partial results in
# registers: three words for one sweep, five where $a$ and $b$ are read twice (the kernel reads them
# from the cache the second time). The last column is what `linear_scan` and the six lines of way 2
# really do in float32, with 1,024 steps and 64 channels.

# %%
T, D = 1024, 64
a = jnp.asarray(rng.uniform(0.9, 1, (T, D)), jnp.float32)
b = jnp.asarray(rng.standard_normal((T, D)), jnp.float32)
methods = [row.method for row in explain_linear_scan(a, b) if row.available]


@jax.jit
def all_ways(a, b):
    found = {method: linear_scan(a, b, method=method) for method in methods}
    return found | {"doubling": doubling((a, b), then)[1]}


found, expected = all_ways(a, b), loop(a, b)
products = {name: count(trace(way, T)) for name, way in ways.items()}
words = [3, 6 * products["2. doubling"][0] / T, 6 * products["3. tree"][0] / T, 5, 3]
rows = []
for (name, way), method, moved in zip(
    ways.items(), ("sequential", "doubling", "associative", "blocked", "native"), words, strict=True
):
    small, large = count(trace(way, 16)), products[name]
    error = distance(found[method], expected) if method in found else "not available here"
    rows.append([name, *small, f"{large[0]:,}", f"{large[1]:,}", f"{moved:.0f}", error])
table(["", "T = 16: work", "span", "T = 1024: work", "span", "words a step", "error"], *rows)

# %% [markdown]
# All are right to a few roundings. None is best in every column. The shortest span has by far the
# most work, and the least work has the longest span. Blocks are the compromise: the work of a tree,
# a span near $2\sqrt T$, and memory touched little more than by the loop.
#
# One caution. All but the first multiply decays with one another. Where $|a| > 1$, such a product
# may overflow though the state does not; `sequential` never forms it, and `native` notices and
# begins again step by step.

# %% [markdown]
# ## A reset changes the rule
#
# Sequences are often packed behind one another, and the state must not pass from one to the next.
# At a reset, $h_t = b_t$. It is tempting to say so with $a_t = 0$. But $0 \cdot \infty$ is not a
# number: if the past has overflowed, a decay of zero lets it through as nan. A loop can select
# $b_t$ when it comes to that step. A tree joins runs ahead of time, across the reset, so a run has
# to remember that there was one: it carries a **flag**, and the rule selects.
#
# $$(f_1, a_1, b_1) \;\text{then}\; (f_2, a_2, b_2) \;=\;
# (f_1 \lor f_2,\; a_2 a_1,\; b_2 \;\text{if}\; f_2 \;\text{else}\; a_2 b_1 + b_2).$$
#
# It is associative as well (on whole numbers, which are not rounded, both sides are the same), so
# every way works as before. Eight steps, an infinite drive at the fourth, a new sequence at the
# fifth:


# %%
def then_flagged(earlier, later):
    (f1, a1, b1), (f2, a2, b2) = earlier, later
    return f1 | f2, a2 * a1, jnp.where(f2, b2, a2 * b1 + b2)


whole = (rng.integers(-3, 4, (3, 1000)).astype(np.float32) for _ in range(2))
x, y, z = zip(rng.random((3, 1000)) < 0.3, *whole, strict=True)
left = then_flagged(then_flagged(x, y), z)
right = then_flagged(x, then_flagged(y, z))
print("associative:", all(np.array_equal(*both) for both in zip(left, right, strict=True)))

starts = jnp.arange(1, 9) == 5
a, b = jnp.full(8, 0.5), jnp.ones(8).at[3].set(jnp.inf)


def folded(a, b, method):
    return linear_scan(jnp.where(starts, 0, a), b, method=method)


def flagged(a, b):
    return tree((starts, a, b), then_flagged)[2]


def cut(a, b, method):
    return linear_scan(a, b, reset=starts, method=method)


resets = {
    "a = 0, one after another": partial(folded, method="sequential"),
    "a = 0, tree": partial(folded, method="associative"),
    "flags, tree": flagged,
} | {f"`reset=`, {method}": partial(cut, method=method) for method in methods}
found = jax.jit(lambda a, b: {name: run(a, b) for name, run in resets.items()})(a, b)
table(
    ["", *(f"$h_{t}$" for t in range(1, 9))],
    *([name, *(f"{h:g}" for h in found[name])] for name in resets),
)

# %% [markdown]
# Gradients need the same care. The rule selects, but the way back goes through both branches, and
# multiplies the infinity that was not selected by a zero. `linear_scan` puts it aside before it
# enters any product. Here the last state depends on the decays behind the reset, and on no other:


# %%
def last_state(a, run):
    return run(a, b)[-1]


slopes = jax.jit(lambda a: {name: jax.grad(last_state)(a, resets[name]) for name in resets})(a)
table(
    ["gradient of $h_8$", *(f"$a_{t}$" for t in range(1, 9))],
    *([name, *(f"{slope:g}" for slope in slopes[name])] for name in resets),
)

# %% [markdown]
# ## The backward pass is the same scan, reversed
#
# Let $g_t$ be the gradient of the loss with respect to $h_t$, as later layers send it. A change of
# $h_t$ acts directly, and through $h_{t+1}$ by the factor $a_{t+1}$. So what arrives in all is
#
# $$\lambda_t = g_t + a_{t+1}\,\lambda_{t+1}, \qquad
# \frac{\partial L}{\partial b_t} = \lambda_t, \qquad
# \frac{\partial L}{\partial a_t} = \lambda_t\,h_{t-1}.$$
#
# That is our recurrence again, from the end to the start, with $g$ for the drive and the decays one
# step late. All five ways compute it. By hand, against `jax.grad`:


# %%
def by_hand(a, h, g):
    later = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
    adjoint = linear_scan(later, g, reverse=True)
    before = jnp.concatenate([jnp.zeros_like(h[:1]), h[:-1]])
    return adjoint * before, adjoint


T, D = 1000, 8
a = jnp.asarray(rng.uniform(0.9, 1, (T, D)), jnp.float32)
b, g = (jnp.asarray(rng.standard_normal((T, D)), jnp.float32) for _ in range(2))


@jax.jit
def gradients(a, b, g):
    def loss(a, b, method):
        return (g * linear_scan(a, b, method=method)).sum()

    by_jax = {method: jax.grad(loss, argnums=(0, 1))(a, b, method) for method in methods}
    return by_jax, by_hand(a, linear_scan(a, b), g)


by_jax, (da, db) = gradients(a, b, g)
table(
    ["`jax.grad` against the reversed scan", "da", "db"],
    *([name, distance(by_jax[name][0], da), distance(by_jax[name][1], db)] for name in methods),
)

# %% [markdown]
# Two things follow. To go back one needs $a$ and $h$, and nothing else: no partial results of any
# tree. And memory moves **three** words a step forward ($a$, $b$ come in, $h$ goes out), **five**
# backward ($g$, $a$ and $h$ come in, $\partial a$ and $\partial b$ go out). Both can be read off
# what JAX records. The last row is plain `lax.associative_scan`, differentiated by JAX, which knows
# nothing of this and keeps its partial results.


# %%
def full_size(variables):
    return sum(v.aval.shape == b.shape for v in variables)


def traffic(function, *arguments):
    """Arrays as large as b that go into the scan and come out of it."""
    steps = jax.make_jaxpr(function)(*arguments).eqns
    scan = max(steps, key=lambda step: full_size(step.invars))
    return f"{full_size(scan.invars)} in, {full_size(scan.outvars)} out"


def kept(function):
    """Words a step that go from the forward pass to the backward pass."""
    pullback = jax.eval_shape(lambda a, b: jax.vjp(function, a, b)[1], a, b)
    return f"{sum(leaf.size for leaf in jax.tree.leaves(pullback)) / b.size:.1f}"


def plain(a, b):
    return tree((a, b), then)[1]


h, pullback = jax.vjp(linear_scan, a, b)
names = {np.asarray(array).tobytes(): name for name, array in (("a", a), ("h", h))}
large = [np.asarray(leaf) for leaf in jax.tree.leaves(pullback) if leaf.shape == b.shape]
print("kept by linear_scan:", *(names.get(leaf.tobytes(), "something else") for leaf in large))
table(
    ["words a step", "forward", "backward", "kept between"],
    ["`linear_scan`", traffic(linear_scan, a, b), traffic(pullback, g), kept(linear_scan)],
    ["plain `lax.associative_scan`", "", "", kept(plain)],
)

# %% [markdown]
# ## What is fastest where
#
# A rough model of the time has two terms: what passes through memory, and what has to wait,
#
# $$\text{time} \approx \frac{\text{words}}{\text{bandwidth}}
# \;+\; \text{span} \times \text{time of a round}.$$
#
# On a CPU a round is cheap, a few cycles within a loop, and there are few lanes to fill. So words
# decide: the fewer sweeps over memory the better, and a tree pays for its short span with sweeps
# that nobody needed. On an accelerator a round costs a kernel launch or a synchronisation, and
# thousands of lanes want work; there a short span, or blocks, can win. A model is not a
# measurement, so let us measure. The unit is the time in which this machine *streams* as many
# words as no way can avoid, three a step forward, eight with the backward pass: the best of three
# plain kernels such as `a + b`, in the same run. A ratio of 1 is the speed of memory. A time counts
# only if its result was right.


# %%
def by_doubling(a, b):
    return jax.vmap(lambda *steps: doubling(steps, then)[1])(a, b)


programs = {method: partial(linear_scan, axis=1, method=method) for method in methods}
programs["doubling"] = by_doubling
ratios, unit = {}, {}
for shape, direction in (
    ("1x16384x16", FORWARD),
    ("256x2048x1", FORWARD),
    ("1x1024x1024", FORWARD),
    ("1x1024x1024", BOTH),
):
    shape = BY_NAME[shape]
    task = make_task(shape, seed=0)
    contenders = [
        Contender(name, program, task.arguments[:2], task.check)
        if direction == FORWARD
        else Contender(name, with_gradients(program), task.arguments, task.check)
        for name, program in programs.items()
        if direction == FORWARD or name != "doubling"  # it would keep every round
    ]
    contenders += limits.streams(shape.b_shape)
    timings = compare(contenders, rounds=5, sample_seconds=1e-3, budget_seconds=0.1, in_loop=True)
    point = f"{shape.name}, {direction}"
    unit[point] = limits.stream_seconds(timings) * shape.words(direction) / 3
    for timing in timings:
        if timing.name in programs and timing.counts:
            ratios[timing.name, point] = float(np.median(timing.samples)) / unit[point]

LOOKS = {
    "sequential": {"color": ORANGE, "marker": "s"},
    "doubling": {"color": GREEN, "marker": "P"},
    "associative": {"color": RED, "marker": "^"},
    "blocked": {"color": PINK, "marker": "v"},
    "native": {"color": SKY, "marker": "D"},
}
figure, axes = new_figure(size=(7.6, 3.2))
axes = axes[0, 0]
height = {point: -row for row, point in enumerate(unit)}
axes.axvline(1, color=GREY, linestyle=(0, (1, 1.5)), label="streaming the same words")
for name, look in LOOKS.items():
    shown = [(ratios[name, point], height[point]) for point in unit if (name, point) in ratios]
    if shown:
        look = look | {"markersize": 8, "markeredgecolor": "black", "markeredgewidth": 0.6}
        axes.plot(*zip(*shown, strict=True), linestyle="none", label=name, zorder=3, **look)
axes.set(xscale="log", xlabel="time / time of streaming (left is faster)")
axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
axes.xaxis.set_minor_locator(NullLocator())
axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
axes.set_yticks(list(height.values()), list(height))
axes.set(ylim=(-3.6, 0.6), ylabel="outer x T x inner")
legend_below(figure)
figure

# %%
# differs by machine: times
table(
    ["time / time of streaming", *unit],
    *(
        [name, *(f"{ratios[name, p]:.1f}" if (name, p) in ratios else "–" for p in unit)]
        for name in LOOKS
    ),
    ["streaming the same words", *map(short_seconds, unit.values())],
)

# %% [markdown]
# The shapes are a few channels over a long time, a batch of rows with time innermost, and many
# channels. Hold the table against the column *words a step* above, divided by three. Where many
# channels lie side by side (the last two columns), expect the ways in the order of their words on a
# CPU, and doubling worse than counted, since its program also copies what it cuts and joins. With
# few channels, or with time innermost, the numbers of one round lie far apart in memory: the plain
# loop and the blocks pay for that, while the kernel turns tiles around in the cache. Small arrays
# stay in a cache, and there a ratio can fall below 1. These are the times of the machine that wrote
# this page; the experiment `scan_limits` measures yours, on more shapes and beside other packages.
#
# `method="auto"` chooses by platform and shape, and `explain_linear_scan` shows the rows that it
# reads. The kernel for CPUs is compiled when the package is installed, that for NVIDIA's GPUs when
# a program is; where that is not possible the row says why and what to do, and `auto` takes the
# next best.

# %%
a, b = (jax.ShapeDtypeStruct((16, 1024, 256), jnp.float32) for _ in range(2))
rows = []
for platform in ("cpu", "cuda"):
    for row in explain_linear_scan(a, b, axis=1, platform=platform):
        state = "**chosen**" if row.chosen else "available" if row.available else "not available"
        rows.append([f"{platform}, {row.method}", state, row.reason])
table(["platform, method", "", "reason"], *rows)

# %% [markdown]
# ## Inside a model: Flax and Equinox
#
# To use the scan in a model is to call it. The layer here is a minimal gated unit (Feng et al.,
# 2024): a gate $z_t$ and a candidate $c_t$ that depend on the input alone, and not on the state, so
# that the recurrence is linear,
#
# $$h_t = (1 - z_t)\,h_{t-1} + z_t\,c_t.$$
#
# The task is to remember the first symbol. It is one of eight; then come 63 others that mean
# nothing; at the end the model says which one came first. To solve it the gate has to learn to open
# once and then stay shut. First without any framework: parameters in a dictionary, and a function.

# %%
SYMBOLS, LENGTH, WIDTH, STEPS = 8, 64, 32, 150


def draw_weights(key):
    keys = jax.random.split(key, 5)
    square, scale = (WIDTH, WIDTH), WIDTH**-0.5
    return {
        "embedding": jax.random.normal(keys[0], (2 * SYMBOLS, WIDTH)),
        "gate": scale * jax.random.normal(keys[1], square),
        # Gates that let the state live for 1 to LENGTH steps (Tallec & Ollivier, 2018).
        "gate_bias": -jnp.log(jax.random.uniform(keys[2], (WIDTH,), minval=1, maxval=LENGTH)),
        "candidate": scale * jax.random.normal(keys[3], square),
        "readout": scale * jax.random.normal(keys[4], (WIDTH, SYMBOLS)),
    }


def sequences(key, batch=32):
    """Symbols (batch, LENGTH), and the first of each, which is to be remembered."""
    key, other = jax.random.split(key)
    first = jax.random.randint(key, (batch,), 0, SYMBOLS)
    rest = jax.random.randint(other, (batch, LENGTH - 1), SYMBOLS, 2 * SYMBOLS)
    return jnp.concatenate([first[:, None], rest], axis=1), first


def plain_model(weights, symbols):
    x = weights["embedding"][symbols]  # (batch, time, width)
    z = jax.nn.sigmoid(x @ weights["gate"] + weights["gate_bias"][None, None])
    h = linear_scan(1 - z, z * (x @ weights["candidate"]), axis=1)
    return h[:, -1] @ weights["readout"]


weights = draw_weights(jax.random.key(0))
models = {"plain JAX": (plain_model, weights)}  # what computes, and what is trained
print("parameters:", sum(p.size for p in jax.tree.leaves(weights)))

# %% [markdown]
# The same in Flax. Modules there take a batch as it is, so time is axis 1. `nnx.split` takes the
# parameters out, for the training loop below. Both frameworks are optional: without them the cell
# says so, and the story goes on.

# %%
if find_spec("flax"):
    from flax import nnx

    class FlaxModel(nnx.Module):
        def __init__(self, weights, rngs):
            def linear(name, outputs=WIDTH, **options):
                kernel_init = constant(weights[name])
                return nnx.Linear(WIDTH, outputs, kernel_init=kernel_init, rngs=rngs, **options)

            embedding_init = constant(weights["embedding"])
            self.embed = nnx.Embed(2 * SYMBOLS, WIDTH, embedding_init=embedding_init, rngs=rngs)
            self.gate = linear("gate", bias_init=constant(weights["gate_bias"]))
            self.candidate = linear("candidate", use_bias=False)
            self.readout = linear("readout", SYMBOLS, use_bias=False)

        def __call__(self, symbols):
            x = self.embed(symbols)
            z = nnx.sigmoid(self.gate(x))
            h = linear_scan(1 - z, z * self.candidate(x), axis=1)
            return self.readout(h[:, -1])

    definition, parameters = nnx.split(FlaxModel(weights, nnx.Rngs(0)))

    def flax_model(parameters, symbols):
        return nnx.merge(definition, parameters)(symbols)

    models["Flax"] = flax_model, parameters
    print("Flax: parameters:", sum(p.size for p in jax.tree.leaves(parameters)))
else:
    print("Flax: not installed, left out")

# %% [markdown]
# And in Equinox. Modules there take one example, time is axis 0, and `jax.vmap` makes the batch.
# The scan under `vmap` is again one call of one method, not a loop.

# %%
if find_spec("equinox"):
    import equinox as eqx

    class EquinoxModel(eqx.Module):
        embed: eqx.nn.Embedding
        gate: eqx.nn.Linear
        candidate: eqx.nn.Linear
        readout: eqx.nn.Linear

        def __init__(self, weights, key):
            def linear(name, outputs=WIDTH):
                bias = weights.get(f"{name}_bias")
                layer = eqx.nn.Linear(WIDTH, outputs, use_bias=bias is not None, key=key)
                fields, values = lambda it: (it.weight, it.bias), (weights[name].T, bias)
                return eqx.tree_at(fields, layer, values, is_leaf=lambda it: it is None)

            self.embed = eqx.nn.Embedding(weight=weights["embedding"])
            self.gate, self.candidate = linear("gate"), linear("candidate")
            self.readout = linear("readout", SYMBOLS)

        def __call__(self, symbols):
            x = jax.vmap(self.embed)(symbols)
            z = jax.nn.sigmoid(jax.vmap(self.gate)(x))
            h = linear_scan(1 - z, z * jax.vmap(self.candidate)(x))
            return self.readout(h[-1])

    parameters, static = eqx.partition(EquinoxModel(weights, jax.random.key(0)), eqx.is_array)

    def equinox_model(parameters, symbols):
        return jax.vmap(eqx.combine(parameters, static))(symbols)

    models["Equinox"] = equinox_model, parameters
    print("Equinox: parameters:", sum(p.size for p in jax.tree.leaves(parameters)))
else:
    print("Equinox: not installed, left out")

# %% [markdown]
# All begin with the same weights and see the same sequences, so their losses should be equal, up to
# rounding, from the first step of the training to the last.


# %%
@partial(jax.jit, static_argnums=0)
def train(model, parameters):
    """The loss at each step, and the share of new sequences whose first symbol is remembered."""
    optimizer = optax.adam(1e-2)
    keys = jax.random.split(jax.random.key(1), STEPS + 1)

    def loss(parameters, key):
        symbols, first = sequences(key)
        logits = model(parameters, symbols)
        return optax.softmax_cross_entropy_with_integer_labels(logits, first).mean()

    def step(carry, key):
        parameters, state = carry
        value, slopes = jax.value_and_grad(loss)(parameters, key)
        with jax.numpy_dtype_promotion("standard"):  # optax counts on it
            updates, state = optimizer.update(slopes, state)
        return (optax.apply_updates(parameters, updates), state), value

    carry = parameters, optimizer.init(parameters)
    (parameters, _), losses = lax.scan(step, carry, keys[1:])
    symbols, first = sequences(keys[0], batch=1000)
    return losses, (model(parameters, symbols).argmax(axis=1) == first).mean()


results = {name: train(*model) for name, model in models.items()}
reference = np.asarray(results["plain JAX"][0])
rows = []
for name in ("plain JAX", "Flax", "Equinox"):
    if name in results:
        losses, right = results[name]
        shown = [f"{losses[step]:.4f}" for step in (0, 49, 99, STEPS - 1)]
        apart = np.abs(np.asarray(losses) - reference).max()
        rows.append([name, *shown, f"{right:.1%}", f"{apart:.0e}"])
    else:
        rows.append([name, *["left out"] * 6])
table(
    ["", "loss: step 1", "50", "100", f"{STEPS}", "remembered", "largest difference of losses"],
    *rows,
)

# %% [markdown]
# A loss of $\ln 8 \approx 2.08$ is guessing. The backward pass of every step went through a
# reversed scan, and none of the three had to know: `linear_scan` is a primitive of JAX like a
# matrix product, with rules for `grad`, `vmap` and `jit`.
#
# ## The account
#
# | | work | span | where it belongs |
# |:--|:--|:--|:--|
# | one after another | $T$ | $T$ | CPUs without the kernel; short sequences |
# | doubling | $T \log_2 T$ | $\log_2 T$ | a few steps within one vector or warp |
# | tree | $2T$ | $2 \log_2 T$ | accelerators, in plain JAX |
# | blocks | $2T$ | $2\sqrt T$, and a small tree | accelerators, where memory is the limit |
# | kernel | $T$, with segments $2T$ | $T$, with $S$ segments $2T/S + S$ | CPUs, NVIDIA's GPUs |
#
# What this says about accelerators follows from the model above, and not from a measurement on this
# page. Measure before you believe it.
#
# **Where to go next.** `python -m experiments run scan_limits` sets every method against the speed
# of memory. `rnnscan/scan/linear_methods/` has a file for each of them, which opens with its
# mathematics, and `rnnscan/scan/linear_rules.py` has the rules of differentiation.
#
# **Sources.** Hillis & Steele, *Data parallel algorithms* (1986). Blelloch, *Prefix sums and their
# applications* (1990), sections 1.2 and 1.4. Merrill & Garland, *Single-pass parallel prefix scan
# with decoupled look-back* (2016). Martin & Cundy, *Parallelizing linear recurrent neural nets over
# sequence length* (2018). Tallec & Ollivier, *Can recurrent neural networks warp time?* (2018).
# Feng et al., *Were RNNs all we needed?* (2024).
