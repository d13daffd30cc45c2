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
# # 1. The recurrence
#
# A recurrent network reads a sequence step by step and folds all it has read into one vector, the
# **hidden state**. That makes it cheap to run at any length, and it makes step $t$ wait for step
# $t-1$. This story follows the state from the classic tanh network to the **linear recurrence**,
# whose steps can be computed in parallel:
#
# 1. one state, the same weights at every step;
# 2. the network, unrolled;
# 3. without the tanh: a closed form;
# 4. why associativity gives parallelism, and what it costs;
# 5. how far back a gradient reaches;
# 6. what the tanh costs, and where to go next.
#
# It runs in well under a minute on a laptop. Letters: $T$ length, $x_t$ input, $h_t$ state, $n$
# its width. *Work* is the number of operations, *span* the longest chain of operations that wait
# for one another.

# %%
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
from IPython.display import Markdown

from experiments.harness.colours import BLUE, GREEN, GREY, ORANGE, RED
from experiments.harness.figures import (
    STYLE,
    draw_band,
    legend_below,
    line_style,
    new_figure,
    short_seconds,
)
from rnnscan import (
    LRU,
    RNN,
    LinearRNN,
    explain_linear_scan,
    linear_scan,
    matrix_scan,
)
from rnnscan.gradients import half_life, horizon, log_gradient_norms, theory

# %matplotlib inline
mpl.rcParams.update(STYLE)


def table(head, *rows):
    """A Markdown table; every column but the first is set to the right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return Markdown("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))


def distance(h, expected):
    """The largest difference, relative to the largest number expected."""
    return f"{np.abs(np.asarray(h) - expected).max() / np.abs(expected).max():.0e}"


# %% [markdown]
# ## 1. One state, the same weights at every step
#
# The plain recurrent network (Elman, 1990) updates its state by
#
# $$h_t = \tanh(W_{ih}\,x_t + b_{ih} + W_{hh}\,h_{t-1} + b_{hh}), \qquad t = 1 \ldots T.$$
#
# $W_{ih}$ lets the new input in, $W_{hh}$ carries the past on, and tanh keeps every number between
# −1 and 1. No weight has an index $t$. So the number of parameters, $n\,(n_x + n + 2)$ for inputs
# of width $n_x$, says nothing about the length, and one layer reads 10 steps or 10,000.

# %%
layer = RNN.init(jax.random.key(0), input_size=3, hidden_size=8)
x = jax.random.normal(jax.random.key(1), (10_000, 3))

h, last = layer(x)  # every state, and the one after the end
print("parameters:", sum(p.size for p in jax.tree.leaves(layer)), "=", 8 * (3 + 8 + 2))
for T in (10, 10_000):
    print(f"T = {T:6d}: states {layer(x[:T])[0].shape}")

# %% [markdown]
# Underneath is a loop. Written out in NumPy, in float64, it gives the same states.

# %%
(cell,) = layer.cells[0]
W_ih, W_hh, b_ih, b_hh = (np.asarray(p, np.float64) for p in jax.tree.leaves(cell))

state, states = np.zeros(8), []
for x_t in np.asarray(x, np.float64):
    state = np.tanh(W_ih @ x_t + b_ih + W_hh @ state + b_hh)
    states.append(state)

print("loop against layer, largest relative difference:", distance(h, np.array(states)))

# %% [markdown]
# The state is all that later steps will ever know of the past. Here are its eight numbers over
# sixty steps. The input stops after step 30; the state forgets it within a few steps and settles.

# %%
silent = x[:60].at[30:].set(0)
figure, axes = new_figure(size=(8.4, 2.6))
axes = axes[0, 0]
image = axes.imshow(
    layer(silent)[0].T,
    cmap="PuOr",
    vmin=-1,
    vmax=1,
    aspect="auto",
    interpolation="nearest",
    extent=(0.5, 60.5, 8.5, 0.5),
)
axes.axvline(30.5, color="black", linewidth=1.2, linestyle="--")
axes.text(31, 1.0, "input stops", va="center", fontsize=9)
axes.set(xlabel="step t", ylabel="unit of the state", yticks=range(1, 9))
axes.set_title("The hidden state of a tanh RNN")
axes.grid(False)
figure.colorbar(image, label="$h_t$ (no unit)", ticks=[-1, -0.5, 0, 0.5, 1], pad=0.02)
figure

# %% [markdown]
# ## 2. The network, unrolled
#
# Draw every step and the loop becomes a deep feed-forward network: as many layers as steps, all
# with the same weights.

# %%
STEPS = 5


def node(axes, x, y, label, color):
    circle = {"boxstyle": "circle,pad=0.32", "facecolor": "white", "edgecolor": color, "lw": 1.8}
    axes.text(x, y, label, ha="center", va="center", fontsize=11, bbox=circle)


def arrow(axes, start, end, color, label="", offset=(0, 0), shape="arc3", shrink=19):
    look = {"arrowstyle": "-|>", "color": color, "lw": 1.8, "connectionstyle": shape}
    look |= {"shrinkA": shrink, "shrinkB": shrink}
    axes.annotate("", xy=end, xytext=start, arrowprops=look)
    middle = [(a + b) / 2 + shift for a, b, shift in zip(start, end, offset, strict=True)]
    axes.text(*middle, label, color=color, ha="center", va="center", fontsize=10)


figure, axes = new_figure(size=(9.2, 3.1))
axes = axes[0, 0]
axes.axis("off")
axes.set(xlim=(-2.6, STEPS + 0.6), ylim=(-1.35, 1.25))

axes.text(-1.8, 1.15, "folded", ha="center", weight="bold")
arrow(axes, (-1.8, -1), (-1.8, 0), BLUE, "$W_{ih}$", (-0.3, -0.02))
arrow(axes, (-1.6, 0.02), (-2.0, 0.02), RED, "$W_{hh}$", (0, 0.68), "arc3,rad=2.6", 11)
node(axes, -1.8, 0, "$h_t$", "black")
node(axes, -1.8, -1, "$x_t$", GREY)

axes.text(2.5, 1.15, "unrolled", ha="center", weight="bold")
for t in range(STEPS + 1):
    if t:
        arrow(axes, (t, -1), (t, 0), BLUE, "$W_{ih}$", (-0.27, -0.02))
        arrow(axes, (t - 1, 0), (t, 0), RED, "$W_{hh}$", (0, 0.22))
        node(axes, t, -1, f"$x_{t}$", GREY)
    node(axes, t, 0, f"$h_{t}$", "black")
axes.annotate(
    "",
    xy=(STEPS + 0.3, 0.66),
    xytext=(-0.3, 0.66),
    arrowprops={"arrowstyle": "-|>", "color": GREY, "linestyle": "--"},
)
axes.text(2.5, 0.8, "each step waits for the one before: span T", ha="center", color=GREY)
figure

# %% [markdown]
# Blue arrows do not wait: $W_{ih}\,x_t$ for all $t$ is one matrix product ahead of the loop. Red
# arrows do: they form one chain of $T$ dependent steps, however many cores there are. Gradients
# travel the same chain backwards.

# %% [markdown]
# ## 3. Without the tanh: a closed form
#
# Leave the tanh out, and write $W$ for $W_{hh}$ and $b$ for the bias:
#
# $$h_t = W h_{t-1} + W_{ih}\,x_t + b.$$
#
# Put $h_1$ into $h_2$, that into $h_3$, and so on. Nothing hides inside a nonlinearity, so the
# past unfolds into a sum:
#
# $$h_t = W^t h_0 + \sum_{k=1}^{t} W^{t-k}\,(W_{ih}\,x_k + b).$$
#
# Every $h_t$ stands there on its own: no state on the right but $h_0$. Let us evaluate it as
# written, and set it against a loop and against the toolkit.

# %%
T, n = 64, 8
linear = LinearRNN.init(jax.random.key(2), input_size=3, hidden_size=n)
x = jax.random.normal(jax.random.key(3), (T, 3))
h0 = jax.random.normal(jax.random.key(4), (n,))

W, W_ih, b = (np.asarray(p, np.float64) for p in (linear.w_hh, linear.w_ih, linear.b))
u = np.asarray(x, np.float64) @ W_ih.T + b  # W_ih x_t + b, all steps at once

power = [np.linalg.matrix_power(W, k) for k in range(T + 1)]
closed = np.array(
    [
        power[t] @ np.asarray(h0) + sum(power[t - k] @ u[k - 1] for k in range(1, t + 1))
        for t in range(1, T + 1)
    ]
)

state, loop = np.asarray(h0, np.float64), []
for u_t in u:
    state = W @ state + u_t
    loop.append(state)

drive = x @ linear.w_ih.T + linear.b[None]
table(
    ["against the closed form (float64)", "largest relative difference"],
    ["Python loop, float64", distance(loop, closed)],
    ["`LinearRNN`, float32", distance(linear(x, h0)[0], closed)],
    *(
        [
            f"`matrix_scan`, {method}, float32",
            distance(matrix_scan(linear.w_hh, drive, h0, method=method), closed),
        ]
        for method in ("sequential", "associative")
    ),
)

# %% [markdown]
# All agree to rounding. The closed form lets every step be computed at the same time, but as
# written it is wasteful: $T(T+1)/2$ products where the loop needs $T$. Most of them are computed
# again and again for neighbouring $t$. The question is how to share them without waiting for one
# another.

# %% [markdown]
# ## 4. Two steps are one step
#
# From here on the transition may change with time, $h_t = A_t h_{t-1} + b_t$, with $b_t$ the
# *drive*, all that does not depend on the state. Two steps in a row are
#
# $$A_2\,(A_1 h + b_1) + b_2 = (A_2 A_1)\,h + (A_2 b_1 + b_2),$$
#
# **one step of the same kind**. So a run of steps, however long, is again a pair, and pairs
# compose:
#
# $$(A_1, b_1) \;\text{then}\; (A_2, b_2) \;=\; (A_2 A_1,\; A_2 b_1 + b_2).$$
#
# Composing functions is associative: it does not matter which neighbours are joined first. Hence
# steps 5 to 8 can be joined before anyone knows the state after step 4. A tree does that, for all
# prefixes at once (Blelloch, 1990): join pairs, solve the half as long problem, fill in the rest.


# %%
def chain(elements, compose):
    """The compositions of the first 1, 2 ... T elements, one after another."""
    prefixes = elements[:1]
    for element in elements[1:]:
        prefixes.append(compose(prefixes[-1], element))
    return prefixes


def tree(elements, compose):
    """The same compositions, by a tree."""
    if len(elements) == 1:
        return elements
    pairs = [compose(*pair) for pair in zip(elements[::2], elements[1::2], strict=False)]
    ends = tree(pairs, compose)  # the prefixes of length 2, 4, 6 ...
    prefixes = [elements[0]] * len(elements)
    prefixes[1::2] = ends
    prefixes[2::2] = [compose(*two) for two in zip(ends, elements[2::2], strict=False)]
    return prefixes


# %% [markdown]
# The rule for pairs, given to the tree, solves the problem of section 3.


# %%
def then(earlier, later):
    (A1, b1), (A2, b2) = earlier, later
    return A2 @ A1, A2 @ b1 + b2


pairs = tree([(W, u_t) for u_t in u], then)
states = np.array([A @ np.asarray(h0) + b for A, b in pairs])
print("tree against closed form, largest relative difference:", distance(states, closed))

# %% [markdown]
# Now run both on *segments* that do no arithmetic, and only remember which steps they cover and
# how many compositions had to wait for one another. This is where the picture and the counts come
# from.


# %%
class Segment(NamedTuple):
    first: int
    last: int
    span: int = 0  # compositions that had to happen one after another


def trace(scan, T):
    """All compositions that a scan of T steps makes: (earlier, later, result)."""
    made = []

    def compose(earlier, later):
        assert later.first == earlier.last + 1, "only neighbours can be joined"
        result = Segment(earlier.first, later.last, max(earlier.span, later.span) + 1)
        made.append((earlier, later, result))
        return result

    prefixes = scan([Segment(t, t) for t in range(1, T + 1)], compose)
    assert [(p.first, p.last) for p in prefixes] == [(1, t) for t in range(1, T + 1)]
    return made


T = 8
figure, panels = new_figure(1, 2, size=(9.6, 4.4), sharey=True)
for axes, scan, name in zip(panels[0], (chain, tree), ("Chain", "Tree"), strict=True):
    made = trace(scan, T)
    drawn = [Segment(t, t) for t in range(1, T + 1)] + [result for *_, result in made]
    for earlier, later, result in made:
        for part, line in ((earlier, "-"), (later, ":")):
            ends = ([part.last, result.last], [part.span, result.span])
            axes.plot(*ends, color=GREY, linewidth=1.2, linestyle=line, zorder=1)
    for segment in drawn:
        label = f"{segment.first}–{segment.last}" if segment.span else f"{segment.last}"
        color = BLUE if segment.first == 1 else ORANGE
        box = {"boxstyle": "round,pad=0.25" if segment.first == 1 else "square,pad=0.25"}
        box |= {"facecolor": "white", "edgecolor": color, "lw": 1.6}
        axes.text(segment.last, segment.span, label, ha="center", va="center", fontsize=9, bbox=box)
    span = max(segment.span for segment in drawn)
    axes.set_title(f"{name}: work {len(made)}, span {span} (compositions)")
    axes.set(xlabel="step t", xticks=range(1, T + 1), xlim=(0.4, T + 0.6), ylim=(-0.5, 7.5))
    axes.grid(False)
panels[0, 0].set_ylabel("compositions one after another")
figure

# %% [markdown]
# Each box is a run of steps as one pair; *3–4* is step 3, then step 4. Solid lines lead from the
# earlier part, dotted lines from the later one. Rounded blue boxes begin at step 1: applied to
# $h_0$ they are the states. Square orange ones are steps joined ahead of time. The tree makes more
# compositions and is done in fewer rounds. Counted for longer sequences:

# %%
rows = []
for T in (8, 64, 1024, 16384):
    counts = []
    for scan in (chain, tree):
        made = trace(scan, T)
        counts += [f"{len(made):,}", f"{max(result.span for *_, result in made):,}"]
    rows.append([f"{T:,}", *counts])
table(["T", "chain: work", "span", "tree: work", "span"], *rows)

# %% [markdown]
# Twice the work, $2T - 2 - \log_2 T$, and a span of $2\log_2 T - 2$ instead of $T - 1$: **26
# rounds instead of 16,383**. That is the whole reason for parallel linear recurrences.
#
# A composition is dearer than a step, though. For dense matrices it is a matrix product, $n^3$
# instead of $n^2$. For an elementwise decay, $h_t = a_t \odot h_{t-1} + b_t$, it is three
# operations a number instead of two. So most models that are parallel in time keep $A_t$ diagonal.
# That recurrence is `linear_scan`, and both ways give the same numbers:

# %%
T, D = 4096, 256
a = jax.nn.sigmoid(2 + jax.random.normal(jax.random.key(5), (T, D)))
b = jax.random.normal(jax.random.key(6), (T, D))

contenders = {
    "sequential": lambda a, b: linear_scan(a, b, method="sequential"),
    "associative": lambda a, b: linear_scan(a, b, method="associative"),
    "`a + b`": lambda a, b: a + b,  # for the timing below
}
programs, compile_seconds = {}, {}
for name, function in contenders.items():
    lowered = jax.jit(function).lower(a, b)
    start = time.perf_counter()
    programs[name] = lowered.compile()
    compile_seconds[name] = time.perf_counter() - start

state, loop = np.zeros(D), []
for a_t, b_t in zip(np.asarray(a, np.float64), np.asarray(b, np.float64), strict=True):
    state = a_t * state + b_t
    loop.append(state)

table(
    [f"`linear_scan` against a float64 loop, T = {T}", "largest relative difference"],
    *([name, distance(programs[name](a, b), loop)] for name in ("sequential", "associative")),
)

# %% [markdown]
# Which one is faster depends on the machine. `method="auto"` decides by shape and platform, and
# `explain_linear_scan` shows the rows that it reads:

# %%
table(
    ["platform, method", "chosen", "reason"],
    *(
        [f"{platform}, {row.method}", "**yes**" if row.chosen else "", row.reason]
        for platform in ("cpu", "cuda")
        for row in explain_linear_scan(a, b, platform=platform)
    ),
)

# %% [markdown]
# Do not take its word for it; measure. Four things make a timing honest here. The result of this
# very program was checked above. Compiling is timed apart. The clock stops when the result is
# there (`block_until_ready`), as JAX returns before it has computed. And the contenders take
# turns, so that a slow moment hits all of them. `a + b` reads and writes arrays of the same size
# and does next to nothing, so it stands for the limit of the memory.

# %%
# differs by machine: times
samples = {name: [] for name in contenders}
for _ in range(21):
    for name, program in programs.items():
        start = time.perf_counter()
        program(a, b).block_until_ready()
        samples[name].append(time.perf_counter() - start)

quartiles = {name: np.quantile(times, [0.25, 0.5, 0.75]) for name, times in samples.items()}
limit = quartiles["`a + b`"][1]
table(
    [f"{jax.default_backend()}, T = {T}, D = {D}", "compile", "run (median)", "quartiles", "ratio"],
    *(
        [
            name,
            short_seconds(compile_seconds[name]),
            short_seconds(middle),
            f"{short_seconds(low)} – {short_seconds(high)}",
            f"{middle / limit:.1f}",
        ]
        for name, (low, middle, high) in quartiles.items()
    ),
)

# %% [markdown]
# On a CPU the tree **loses**. The 256 numbers of a step already fill the vector units and the
# cores are few, so a short span buys nothing, and every level of the tree is another pass over
# memory. It is also a larger program, and takes longer to compile. Where a device has thousands of
# lanes to feed and pays for every dependent step, the span is what counts. The table above is from
# the machine that wrote this page; the experiment `wallclock` measures yours, over many lengths.

# %% [markdown]
# ## 5. How far back a gradient reaches
#
# To learn from a distant input, the last state has to depend on it. The chain rule multiplies one
# Jacobian per step,
#
# $$\frac{\partial h_T}{\partial h_{T-k}} = J_T\,J_{T-1} \cdots J_{T-k+1}, \qquad
# J_t = \operatorname{diag}(1 - h_t^2)\,W_{hh} \;\text{(tanh)}, \qquad
# J_t = \operatorname{diag}(a_t) \;\text{(elementwise)}.$$
#
# A product of $k$ factors shrinks or grows about exponentially in $k$. How fast is known in closed
# form for three cases:
#
# - **elementwise decay** $a$: $|a|^k$, exactly;
# - **LRU** (Orvieto et al., 2023), a diagonal complex recurrence that starts with its decays
#   $\lambda$ spread evenly over the unit disc: $\sqrt{E|\lambda|^{2k}} = 1/\sqrt{k+1}$, a power
#   law;
# - **wide tanh RNN** driven by noise: $e^{k \ln\chi\,/\,2}$ with
#   $\chi = g^2\,E\,\mathrm{sech}^4(\sqrt{q}\,z)$, where $g^2$ is $n$ times the variance of a
#   weight in $W_{hh}$, $q$ the variance of what enters the tanh, and $z$ standard normal (the mean
#   field).
#
# `log_gradient_norms` measures the root mean square singular value of that product. It works with
# logarithms: below $2^{-126} \approx 10^{-38}$ float32 has no normal numbers, which would look
# like a vanished gradient and is arithmetic.

# %%
T, n, inputs, decay = 512, 64, 8, 0.97


def tanh_norms(key):
    layer = RNN.init(key, inputs, n)  # as torch draws it: uniform on ±1/sqrt(n)
    x = jax.random.normal(key, (T, inputs))
    return log_gradient_norms(lambda h, x_t: layer.step(x_t, h)[1], jnp.zeros((1, n)), x).state


def lru_norms(key):
    layer = LRU.init(key, inputs, n)
    x = jax.random.normal(key, (T, inputs))
    h0 = jnp.zeros(n, jnp.complex64)
    return log_gradient_norms(lambda h, x_t: layer.step(x_t, h)[1], h0, x).state


def elementwise_norms():
    return log_gradient_norms(lambda h, x_t: decay * h + x_t, jnp.zeros(1), jnp.ones((T, 1))).state


keys = jax.random.split(jax.random.key(7), 8)  # eight draws of weights and inputs
measured = {
    "tanh RNN": jax.jit(jax.vmap(tanh_norms))(keys),
    f"elementwise, a = {decay}": jax.jit(elementwise_norms)()[None],
    "LRU": jax.jit(jax.vmap(lru_norms))(keys),
}
measured = {name: np.asarray(norms, np.float64) for name, norms in measured.items()}

lags = np.arange(T + 1)
drive_std = np.sqrt((inputs + 2) / (3 * n))  # of W_ih x_t + b_ih + b_hh
expected = {
    "tanh RNN": lags * theory.driven_tanh(3**-0.5, drive_std).exponent,
    f"elementwise, a = {decay}": theory.diagonal_log_norm(decay, lags),
    "LRU": theory.lru_ring_log_norm(lags),
}

# %%
looks = dict(zip(measured, map(line_style, ("RNN", "LinearRNN", "LRU")), strict=True))
theirs = {"color": "black", "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 3}
figure, panels = new_figure(1, 2, size=(9.6, 4.3))
for axes, shown, marked in (
    (panels[0, 0], lags[:61], range(0, 61, 5)),
    (panels[0, 1], lags[1:], np.unique(np.geomspace(1, T, 16).astype(int)) - 1),
):
    for name, norms in measured.items():
        look = looks[name] | {"markevery": list(marked)}
        draw_band(axes, shown, np.exp(norms[:, shown]).T, label=name, **look)
    for curve in expected.values():
        axes.plot(shown, np.exp(curve[shown]), label="closed form", **theirs)
    axes.set(yscale="log", ylim=(1e-8, 3), xlabel="lag k (steps back from the last)")
    axes.set_ylabel(r"$\|\partial h_T / \partial h_{T-k}\|$, relative to lag 0")
panels[0, 0].set_title("Linear lag: an exponential is a line")
panels[0, 1].set(xscale="log", title="Logarithmic lag: a power law is a line")
legend_below(figure)
figure

# %%
eps = 1e-3


def row(name, curve):
    reach = horizon(curve, eps)
    return [
        name,
        f"{half_life(curve):.1f}",
        f"{half_life(expected[name]):.1f}",
        f"{reach:.0f}" if np.isfinite(reach) else f"beyond {T}",
        f"$10^{{{curve[T] / np.log(10):.1f}}}$",
    ]


table(
    [
        "at initialisation",
        "half-life (steps)",
        "closed form",
        f"down to {eps:g} (steps)",
        f"left at lag {T}",
    ],
    *(row(name, np.median(norms, axis=0)) for name, norms in measured.items()),
)

# %% [markdown]
# Lines are medians of eight draws, bands their quartiles. The tanh RNN, drawn as usual, keeps less
# than a thousandth after a dozen steps. A decay near 1 reaches further, by choice: its half-life is
# $\ln 2 / {-\ln a}$. The LRU has decays of every half-life at once: it passes on about a tenth
# at lag 100. At the far end it falls below its closed form, which is the mean over all draws: of 64
# decays only a few lie that close to 1.
#
# Two warnings. The tanh is only a part of the reason: a larger $W_{hh}$ makes its memory longer,
# until gradients explode. And a linear recurrence *can* remember, which does not yet mean that it
# learns what is worth remembering. The experiment `gradient_decay` draws the first in full,
# `digits` trains both.

# %% [markdown]
# ## 6. What the tanh costs, and where to go next
#
# Why can the tree not do the same for the tanh network? Its steps compose as well, and composing
# them is just as associative. But two tanh steps are *not* one tanh step. Below, two units with
# the same weights run for 1, 2, 4 and 8 steps. Each line shows how the state depends on the state
# at the start.

# %%
turn = 1.5 * np.array([[np.cos(2.2), -np.sin(2.2)], [np.sin(2.2), np.cos(2.2)]])
drives = 0.3 * np.asarray(jax.random.normal(jax.random.key(8), (8, 2)))
starts = np.stack([np.linspace(-3, 3, 601), np.zeros(601)])

figure, panels = new_figure(1, 2, size=(9.6, 3.9))
for axes, phi in zip(panels[0], (lambda z: z, np.tanh), strict=True):
    states, count = starts, 0
    for steps, color, marker in ((1, BLUE, "o"), (2, ORANGE, "s"), (4, GREEN, "^"), (8, RED, "D")):
        while count < steps:
            states = phi(turn @ states + drives[count][:, None])
            count += 1
        label = "1 step" if steps == 1 else f"{steps} steps"
        axes.plot(starts[0], states[0], color=color, marker=marker, markevery=60, label=label)
    axes.set(xlabel="first unit of $h_0$", ylabel="first unit after the steps")
panels[0, 0].set_title("Linear: every composition is a line")
panels[0, 1].set_title("tanh: every composition is a new shape")
legend_below(figure)
figure

# %% [markdown]
# On the left any number of steps is a slope and an intercept: the pair that the tree passes
# around. On the right no fixed number of parameters is known to describe eight steps, or eight
# hundred. So a tree has nothing compact to pass on, and the steps are taken one by one. (That
# rules out this tree, not every idea: one can guess the whole trajectory and correct all steps at
# once by Newton's method, each correction being a linear recurrence: notebook 4.)
#
# The account, then:
#
# | | tanh RNN | linear recurrence |
# |:--|:--|:--|
# | state | between −1 and 1, always | bounded while every decay is below 1 |
# | memory | depends on the state: it can latch and switch | set by the decays alone |
# | work, span | $T$, $T$ | $T$, $T$; or by a tree $2T$, $2\log_2 T$ |
# | reach of a gradient | measured, rarely chosen | chosen: the decays are the reach |
#
# Models like LRU, and Mamba with decays that depend on the input, take the right-hand column and
# put the nonlinearity *between* layers, where it does not stand in the way of time.
#
# **Where to go next.**
#
# - `python -m experiments run quickstart`: times, gradients and trained classifiers in one report;
# - `python -m experiments run wallclock`: time against length by each method, next to the limit of
#   your machine;
# - `python -m experiments run gradient_decay`: section 5 for more layers, starts and seeds;
# - `python -m experiments run digits`: the layers trained on handwritten digits, pixel by pixel;
# - `rnnscan/scan/linear_methods/`: the two methods of section 4, each a file that opens with its
#   mathematics.
#
# **Sources.** Elman, *Finding structure in time* (1990). Blelloch, *Prefix sums and their
# applications* (1990), section 1.4. Martin & Cundy, *Parallelizing linear recurrent neural nets
# over sequence length* (2018). Orvieto et al., *Resurrecting recurrent neural networks for long
# sequences* (2023). Lim et al., *Parallelizing non-linear sequential models over the sequence
# length* (2024).
