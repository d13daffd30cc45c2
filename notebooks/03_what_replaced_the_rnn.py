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
# # 3. What replaced the RNN
#
# A tanh RNN, $h_t = \tanh(W_{ih} x_t + W_{hh} h_{t-1} + b)$, has two troubles. Its gradient is
# multiplied by $\operatorname{diag}(1 - h_t^2)\,W_{hh}$ at every step, so it dies out or
# explodes; and step $t$ waits for step $t-1$, so a machine with a thousand units uses a few of
# them.
#
# Everything since can be read as an answer to one or both:
#
# | | against forgetting | against waiting |
# |:--|:--|:--|
# | LSTM, GRU | gates that can hold | – |
# | minGRU, minLSTM, LRU | gates or decays near 1 | gates that do not read the state |
# | Mamba (S6) | steps of a length that the input chooses | the same |
# | attention | looks at the inputs themselves | no state at all |
#
# This notebook builds each from the line before it, checks it against the layer of this package,
# and then puts all into one network on one task. Claims and verdicts with error bars are in
# `experiments/`; this page takes a minute.

# %%
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import optax
from IPython.display import Markdown
from jax import lax

from experiments.harness.figures import (
    STYLE,
    legend_below,
    line_style,
    new_figure,
    short_bytes,
    short_seconds,
)
from experiments.harness.reach import zero_state
from rnnscan import (
    GRU,
    LSTM,
    RNN,
    CausalSelfAttention,
    Mamba,
    MinGRU,
    SelectiveSSM,
    SequenceModel,
    linear_scan,
)
from rnnscan.gradients import log_gradient_norms
from rnnscan.tasks import associative_recall

# %matplotlib inline
mpl.rcParams.update(STYLE)
key = jax.random.key(0)


def table(head, *rows):
    """A Markdown table; every column but the first is set to the right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return Markdown("\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines))


def distance(found, expected):
    """The largest difference, relative to the largest number expected."""
    return f"{np.abs(np.asarray(found) - expected).max() / np.abs(expected).max():.0e}"


x = jax.random.normal(jax.random.key(1), (200, 8))  # one sequence: 200 steps of 8 features

# %% [markdown]
# ## A cell that holds: the LSTM
#
# Hochreiter and Schmidhuber's idea is a second state that is *added to*, not multiplied by a
# matrix:
#
# $$c_t = f_t * c_{t-1} + i_t * g_t, \qquad h_t = o_t * \tanh(c_t).$$
#
# Along $c$ the gradient meets the forget gates alone. With weights as `torch.nn.LSTM` has them:

# %%
lstm = LSTM.init(key, input_size=8, hidden_size=32)
cell = lstm.cells[0][0]


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


h = c = np.zeros(32)
by_hand = []
for x_t in np.asarray(x):
    z = cell.w_ih @ x_t + cell.b_ih + cell.w_hh @ h + cell.b_hh
    i, f, g, o = np.split(np.asarray(z), 4)
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    h = sigmoid(o) * np.tanh(c)
    by_hand.append(h)

y, (h_n, c_n) = lstm(x)
f"the layer against the loop: {distance(y, np.stack(by_hand))}"

# %% [markdown]
# How far back does the gradient reach? `log_gradient_norms` multiplies the Jacobians of any step
# function, in logarithms, so that nothing underflows. The forget gate's bias $b$ decides: with
# gates that stay near $\sigma(b)$ the norm falls as $\sigma(b)^k$, the dashed lines.

# %%
layers = {
    "tanh RNN": (RNN.init(key, 8, 32), "RNN"),
    "LSTM, forget bias 0": (LSTM.init(key, 8, 32, forget_bias=0.0), "LSTM"),
    "LSTM, forget bias 5": (LSTM.init(key, 8, 32, forget_bias=5.0), "GRU"),
}
figure, ((axes,),) = new_figure(size=(7.6, 4.4))
for name, (layer, look) in layers.items():
    norms = log_gradient_norms(
        lambda h, x_t, layer=layer: layer.step(x_t, h)[1], zero_state(layer), x
    )
    powers_of_ten = norms.state / np.log(10)
    axes.plot(powers_of_ten, label=name, markevery=20, **line_style(look))
lags = np.arange(201)
for bias in (0.0, 5.0):
    axes.plot(lags, lags * np.log10(sigmoid(bias)), color="#444444", linestyle="--", linewidth=1)
axes.set_ylim(-30, 2)
axes.set_xlabel("lag k, steps back")
axes.set_ylabel(r"$\log_{10}$ norm of $dh_T/dh_{T-k}$")
legend_below(figure)
figure

# %% [markdown]
# With bias 5 the gradient stays, a little above its line. With bias 0 an LSTM forgets as fast as
# the tanh RNN: what it carries further than $0.5^k$ comes by way of $W_{hh}$, as it does there. So
# the gates *can* hold, if they are told to. And they do nothing about the waiting: $f_t$ reads
# $h_{t-1}$.
#
# ## Gates that do not look back: minGRU
#
# Take the state out of the gates, and the recurrence is linear in its state:
#
# $$h_t = (1 - z_t) * h_{t-1} + z_t * g(n_t), \qquad z_t = \sigma(W_z x_t + b_z).$$
#
# All $z_t$ are known before the first state is. What remains is $h_t = a_t h_{t-1} + b_t$: the scan
# of notebook 2, in parallel over time.

# %%
min_gru = MinGRU.init(key, input_size=8, hidden_size=32)
logit, candidate = jnp.split(x @ min_gru.w.T + min_gru.b[None, :], 2, axis=-1)
positive = jnp.where(candidate >= 0, candidate + 0.5, jax.nn.sigmoid(candidate))
h = linear_scan(jax.nn.sigmoid(-logit), jax.nn.sigmoid(logit) * positive)

gru = GRU.init(key, input_size=8, hidden_size=32)
sizes = [sum(leaf.size for leaf in jax.tree.leaves(layer)) for layer in (gru, min_gru)]
table(
    ("", "value"),
    ("minGRU, the layer against one `linear_scan`", distance(min_gru(x)[0], np.asarray(h))),
    ("parameters of the GRU", f"{sizes[0]:,}"),
    ("parameters of the minGRU", f"{sizes[1]:,}"),
)

# %% [markdown]
# ## Steps of a length that the input chooses: Mamba
#
# A state-space model discretises $h' = A h + B x$. Mamba lets the input choose the step $\Delta_t$,
# and what is written ($B_t$) and read ($C_t$):
#
# $$h_t = e^{\Delta_t A} * h_{t-1} + \Delta_t x_t B_t, \qquad y_t = h_t C_t + D x_t.$$
#
# A long step forgets and takes the input; a step of no length keeps the state as it is. It is a
# gate again, and linear in the state again. Step by step, from the definition:

# %%
ssm = SelectiveSSM.init(key, input_size=8, state_size=4)
rank, A = ssm.dt_rank, -np.exp(np.asarray(ssm.a_log))
h = np.zeros((8, 4))
by_hand = []
for x_t in np.asarray(x):
    r, B, C = np.split(np.asarray(ssm.w_x) @ x_t, [rank, rank + 4])
    step = np.log1p(np.exp(np.asarray(ssm.w_dt) @ r + np.asarray(ssm.b_dt)))  # softplus
    h = np.exp(step[:, None] * A) * h + (step * x_t)[:, None] * B
    by_hand.append(h @ C + np.asarray(ssm.d) * x_t)
f"the layer against the definition: {distance(ssm(x)[0], np.stack(by_hand))}"

# %% [markdown]
# ## No state at all: attention
#
# $$y_t = \sum_{s \le t} \operatorname{softmax}_s(q_t \cdot k_s / \sqrt d)\, v_s$$
#
# Every step looks at all inputs before it. Nothing is multiplied along the way, so nothing dies out
# along the way, and no step waits. The price is what `step` has to carry: the keys and values of
# everything that it may still look at.

# %%
attention = CausalSelfAttention.init(key, 8, 32, context=200)


def reach(layer):
    """Norms of d(sum of y_T) / dx_{T-k}, through the whole call."""
    slope = jax.grad(lambda x: jnp.sum(layer(x)[0][-1]))(x)
    return np.linalg.norm(slope, axis=-1)[::-1]


rows = []
for name, layer in {
    "tanh RNN": layers["tanh RNN"][0],
    "LSTM": lstm,
    "minGRU": min_gru,
    "Mamba's S6": ssm,
    "attention": attention,
}.items():
    norms = reach(layer)
    state = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(zero_state(layer)))
    rows.append((name, *(f"{norms[k] / norms[0]:.0e}" for k in (10, 50, 199)), short_bytes(state)))
table(("gradient at lag, relative to lag 0", 10, 50, 199, "state of one sequence"), *rows)

# %% [markdown]
# Attention's row falls once and then no more: to a tenth within the first lags, since step $T$ also
# asks the question, and at lag 199 it is what it was at lag 50. Every other row goes on falling.
# Attention paid with the largest state; the others hold one or two hundred bytes whatever came
# before.
#
# ## One network around each
#
# `SequenceModel` is an embedding, blocks of (norm, mixer, residual) and a linear head; only the
# mixer differs. A mixer with more weights to a unit gets fewer units, so that all networks have
# the same number of parameters, to within one per cent. The task is recall: pairs of a key and a
# value, and later a key asks for its value. It is easy for whoever can look things up, and hard for
# whoever must keep all pairs in a few numbers. Three seeds each: other weights, other batches, the
# same data.


# %%
class Mixer(NamedTuple):
    width: int  # for some 14,000 parameters in all
    init: Callable  # of a key, the width, and how far back attention may look


mixers = {
    "tanh RNN": Mixer(55, lambda key, width, context: RNN.init(key, width, width)),
    "minGRU": Mixer(55, lambda key, width, context: MinGRU.init(key, width, width)),
    "Mamba": Mixer(28, lambda key, width, context: Mamba.init(key, width, state_size=8)),
    "attention": Mixer(
        40, lambda key, width, context: CausalSelfAttention.init(key, width, context=context)
    ),
}


def build(name, key, context):
    width, init = mixers[name]
    mixer = partial(init, context=context)
    return SequenceModel.init(key, mixer, width=width, depth=2, outputs=16, tokens=16)


data = associative_recall(4096, length=24, pairs=3, vocabulary=16)
test = associative_recall(512, length=24, pairs=3, vocabulary=16, seed=1)
asked = test.y >= 0
optimiser = optax.adam(optax.cosine_decay_schedule(5e-3, 300))


def loss(model, tokens, answers):
    logits, _ = model(tokens)
    asked = answers >= 0
    each = optax.softmax_cross_entropy_with_integer_labels(logits, jnp.maximum(answers, 0))
    return jnp.sum(jnp.where(asked, each, 0)) / jnp.sum(asked)


@jax.jit
def train(model, batches):
    def step(carry, chosen):
        model, state = carry
        gradient = jax.grad(loss)(model, jnp.asarray(data.x)[chosen], jnp.asarray(data.y)[chosen])
        updates, state = optimiser.update(gradient, state)
        return (optax.apply_updates(model, updates), state), None

    return lax.scan(step, (model, optimiser.init(model)), batches)[0][0]


# differs by machine: 300 steps of training amplify the last digit
rows = []
with jax.numpy_dtype_promotion("standard"):  # as optax needs
    for name, mixer in mixers.items():
        right = []
        for seed in range(3):
            batches = np.random.default_rng(seed).integers(0, len(data), (300, 32))
            model = train(build(name, jax.random.key(seed), context=24), batches)
            answers = np.asarray(model(test.x)[0]).argmax(-1)
            right.append(100 * (answers == test.y)[asked].mean())
        count = sum(leaf.size for leaf in jax.tree.leaves(model))
        spread = f"{min(right):.0f} – {max(right):.0f} %"
        rows.append((name, mixer.width, f"{count:,}", f"{np.median(right):.0f} %", spread))
table(("mixer", "width", "parameters", "right answers, median", "of three seeds"), *rows)

# %% [markdown]
# One value in eight would be right by chance, one in three by knowing which three values there are.
# `python -m experiments run recall` does this for every layer with error bars, against distance,
# and with an attention whose window is too short.
#
# ## To read and to write
#
# Training knows all tokens beforehand; generation does not, as token $t + 1$ is drawn from the
# output at $t$. So what is parallel in training is a loop in generation, for every mixer. What a
# step costs is then the question. A recurrence multiplies a state of fixed size. Attention compares
# its query with all that lies in its cache, $O(n)$ after $n$ tokens.
#
# `model(tokens)` reads, `model.step(token, state)` writes, with the same weights. First, that both
# are one function:

# %%
tokens = jnp.asarray(test.x)[0]
rows = []
for name in mixers:
    model = build(name, key, context=24)
    step, state, one_by_one = jax.jit(model.step), None, []
    for token in tokens:
        y, state = step(token, state)
        one_by_one.append(y)
    at_once, _ = model(tokens)
    rows.append((name, distance(np.stack(one_by_one), np.asarray(at_once))))
table(("`model.step`, 24 times, against one call", "largest relative difference"), *rows)

# %% [markdown]
# Now the clock. Four sequences at a time, 1,024 tokens of each: a training step reads them and
# takes the gradient; without the gradient it is reading alone. Then the network reads $n$ tokens
# and writes 32 more, each the most likely one.


# %%
def seconds(run):
    """The least of three, after one that compiles: other programs only add to it."""
    samples = []
    for _ in range(4):
        start = time.perf_counter()
        jax.block_until_ready(run())
        samples.append(time.perf_counter() - start)
    return min(samples[1:])


@jax.jit
def generate(model, token, state):
    def step(carry, _):
        logits, state = model.step(*carry)
        return (jnp.argmax(logits, axis=-1).astype(jnp.int32), state), None

    return lax.scan(step, (token, state), length=32)[0]


read, gradient = jax.jit(lambda model, tokens: model(tokens)), jax.jit(jax.grad(loss))
behind = (64, 1024, 4096)  # how many tokens came before those that are written
tokens = jax.random.randint(jax.random.key(2), (4, 4096), 0, 16)

# differs by machine: times
rows = []
with jax.numpy_dtype_promotion("standard"):
    for name in mixers:
        model = build(name, key, context=1024)
        some = tokens[:, :1024]
        training = seconds(lambda model=model, some=some: gradient(model, some, some)) / 1024
        reading = seconds(lambda model=model, some=some: read(model, some)) / 1024
        writing, states = [], []
        for n in behind:
            model = build(name, key, context=n + 32)  # nothing is dropped from the cache
            _, state = read(model, tokens[:, :n])
            run = partial(generate, model, tokens[:, n - 1], state)
            writing.append(short_seconds(seconds(run) / 32))
            states.append(sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state)))
        small, large = (short_bytes(states[i] / len(tokens)) for i in (0, -1))
        rows.append((name, *map(short_seconds, (training, reading)), *writing, small, large))
table(
    (
        f"{jax.default_backend()}, 4 sequences: time of a token",
        "training",
        "reading",
        *(f"written after {n:,}" for n in behind),
        "state after 64",
        "after 4,096",
    ),
    *rows,
)

# %% [markdown]
# (Measured on the machine that wrote this page, a CPU with two cores.) Along a row: the
# recurrences write a token after 4,096 others at the price of one after 64, and with the same
# state. Attention's price and its cache grow with all that came before.
#
# Down the columns: to read a token among 1,024 is cheaper for the recurrences than to write one,
# since matrices multiply many tokens at once. A scan can use still more of that, lanes that would
# be idle. Two cores have few to spare: the tanh RNN, whose loop is a C++ kernel, reads faster here
# than minGRU and Mamba do by their scans. That says what this machine is;
# `training_and_inference` and `wallclock` measure yours.
#
# ## What to take along
#
# - Gates made memory a matter of initialisation instead of luck; they kept the serial loop.
# - Taking the state out of the gates gave the loop away for a scan. What was lost with it, the
#   ability to decide by what one remembers, gates that read the input buy back in part.
# - Attention keeps everything, and so it pays by the length, for each token, for ever.
#
# | question | experiment |
# |:--|:--|
# | how fast is each, against length? | `wallclock`, `training_and_inference` |
# | how far does a gradient reach, with error bars? | `gradient_decay` |
# | what does any length cost in memory? | `any_length` |
# | who recalls what, at which distance? | `recall` |
# | and real data? | `digits`, `characters`, `long_sequences` |
#
# `python -m experiments claims` puts all of it into one table.
