"""Figures, tables and verdicts of `gradient_decay`, from its records alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.gradient_decay.measure import FLOAT32_TINY
from experiments.harness import figures
from experiments.harness.experiment import Outcome, Record, Summary, Table, Verdict
from experiments.harness.gradient_figures import LN10, layer_look, power_of_ten_axis
from rnnscan.gradients import bootstrap_interval

DOZEN = 12
_KINDS = {"RNN": "tanh RNN", "LinearRNN": "LinearRNN", "LRU": "LRU"}
_THEORY: dict[str, Any] = {"color": "black", "linewidth": 1, "linestyle": (0, (4, 3)), "zorder": 3}
_RING: dict[str, Any] = {
    "marker": "o",
    "markersize": 7,
    "markerfacecolor": "none",
    "linestyle": "none",
}
_FLOOR = 1e-7  # of the panels that show what is still remembered


def plot(records: Sequence[Record]) -> dict[str, Figure]:
    decay, gain = _study(records, "decay"), _study(records, "gain")
    drawn: dict[str, Figure] = {}
    if decay:
        drawn["decay"] = _decay_figure(decay)
        drawn["full_range"] = _range_figure(decay)
    if gain:
        drawn["gain"] = _gain_figure(gain)
    return drawn


def summary(records: Sequence[Record]) -> Summary:
    decay, gain = _study(records, "decay"), _study(records, "gain")
    tables = []
    if decay:
        tables.append(_decay_table(decay))
        tables.append(_length_table(decay))
    if gain:
        tables.append(_gain_table(gain))
    return Summary((_dozen_verdict(decay, gain), _theory_verdict(decay)), tuple(tables))


# Records ------------------------------------------------------------------------------------------


def _study(records: Sequence[Record], name: str) -> list[Record]:
    return [
        record
        for record in records
        if record["point"].get("study") == name and "half_life" in record
    ]


def _layers(records: Sequence[Record]) -> list[str]:
    return list(dict.fromkeys(record["point"]["layer"] for record in records))


def _lengths(records: Sequence[Record]) -> list[int]:
    return sorted({record["point"]["length"] for record in records})


def _where(records: Sequence[Record], **wanted: Any) -> list[Record]:
    return [
        record
        for record in records
        if all(record["point"].get(key) == value for key, value in wanted.items())
    ]


def _longest(records: Sequence[Record], layer: str) -> list[Record]:
    mine = _where(records, layer=layer)
    return _where(mine, length=max(_lengths(mine)))


def _values(records: Sequence[Record], key: str) -> np.ndarray:
    return np.array([record[key] for record in records], np.float64)


def _kept(record: Record, lag: int) -> float:
    """The fraction of the state's gradient that is left after `lag` steps."""
    return float(np.exp(np.interp(lag, record["lags"], np.array(record["state"], np.float64))))


# Figures ------------------------------------------------------------------------------------------


def _decay_figure(records: Sequence[Record]) -> Figure:
    kinds = [kind for kind in _KINDS if any(record["kind"] == kind for record in records)]
    figure, panels = figures.new_figure(
        2, len(kinds), size=(3.9 * len(kinds) + 0.4, 7.4), sharex=True, sharey=True
    )
    eps = records[0]["eps"]
    for column, kind in enumerate(kinds):
        for row, field in enumerate(("state", "input")):
            axes = panels[row, column]
            _draw_layers(axes, [r for r in records if r["kind"] == kind], field)
            _reference_lines(axes, eps, text=row == column == 0)
        panels[0, column].set_title(_KINDS[kind])
        panels[0, column].legend(loc="lower left", fontsize=8)
    _explain(panels[1, 0], rings=len(_lengths(records)) > 1)
    for column in range(len(kinds)):
        panels[1, column].set_xlabel("lag k, steps back")
    top = panels[0, 0]
    top.set_xscale("symlog", base=2, linthresh=1, linscale=0.5)
    longest = max(_lengths(records))
    ticks = [0, *(2**i for i in range(0, int(np.log2(longest)) + 1, 2))]
    top.set_xticks(ticks, [figures.short_count(tick) for tick in ticks])
    top.set_xticks([], minor=True)
    top.set_xlim(0, longest * 1.1)
    top.set_ylim(np.log10(_FLOOR), 0.7)
    power_of_ten_axis(top)
    panels[0, 0].set_ylabel("norm of $dh_T/dh_{T-k}$")
    panels[1, 0].set_ylabel("norm of $dL/dx_{T-k}$, relative to lag 0")
    rings = "Rings: the first step of shorter sequences, which forget as fast. "
    figure.set_label(
        f"What is left of a gradient k steps back, T = {longest}. {_how(records)} "
        f"{rings if len(_lengths(records)) > 1 else ''}L is a random linear readout of the last "
        "state."
    )
    return figure


def _range_figure(records: Sequence[Record]) -> Figure:
    figure, panels = figures.new_figure(1, 1, size=(8.2, 4.6))
    axes = panels[0, 0]
    for kind in _KINDS:
        mine = [r for r in records if r["kind"] == kind]
        if mine:
            _draw_layers(axes, mine, "state", theory=False, ends_of_shorter=False)
    bottom = min(record["state"][-1] for record in records) / LN10
    underflow = np.log10(FLOAT32_TINY)
    longest = max(_lengths(records))
    if bottom < underflow:
        axes.axhspan(min(1.05 * bottom, underflow), underflow, color="#ececec", zorder=0)
        axes.axhline(underflow, color="black", linewidth=1)
        axes.annotate(
            "grey: below 2⁻¹²⁶, where a plain float32 norm reads 0\n(arithmetic, not the model)",
            (0.02, 0.04),
            xycoords="axes fraction",
            fontsize=9,
        )
        axes.annotate(
            "2⁻¹²⁶",
            (longest, underflow),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
        axes.set_ylim(1.05 * bottom, 6)
    axes.set_xlim(0, longest)
    axes.set_xlabel("lag k, steps back")
    axes.set_ylabel("norm of $dh_T/dh_{T-k}$")
    power_of_ten_axis(axes)
    figures.legend_below(figure)
    figure.set_label(
        "The same norms over their whole range: measured as logarithms, and straight far below "
        f"what float32 can hold. {_how(records)}"
    )
    return figure


def _draw_layers(
    axes: Axes,
    records: Sequence[Record],
    field: str,
    *,
    theory: bool = True,
    ends_of_shorter: bool = True,
) -> None:
    """One line and band per layer at its longest length; rings at the ends of shorter ones."""
    for index, layer in enumerate(_layers(records)):
        longest = _longest(records, layer)
        look = layer_look(longest[0]["kind"], index)
        curves = np.array([record[field] for record in longest], np.float64) / LN10
        lags = np.array(longest[0]["lags"])[: curves.shape[1]]
        axes.plot(
            lags, np.median(curves, axis=0), label=layer, markevery=(4 + 3 * index, 12), **look
        )
        axes.fill_between(
            lags,
            curves.min(axis=0),
            curves.max(axis=0),
            color=look["color"],
            alpha=0.2,
            linewidth=0,
        )
        if theory:
            expected = np.array(longest[0][f"theory_{field}"], np.float64) / LN10
            axes.plot(lags, expected, **_THEORY)
        if not ends_of_shorter:
            continue
        for length in _lengths(_where(records, layer=layer))[:-1]:
            shorter = _where(records, layer=layer, length=length)
            ends = [record[field][-1] / LN10 for record in shorter]
            last = shorter[0]["lags"][len(shorter[0][field]) - 1]
            axes.plot(
                [last],
                [np.median(ends)],
                **_RING,
                markeredgecolor=look["color"],
            )


def _explain(axes: Axes, *, rings: bool) -> None:
    """A legend for what all panels share."""
    axes.plot([], [], **_THEORY, label="closed form")
    if rings:
        axes.plot([], [], **_RING, markeredgecolor=figures.GREY, label="end of a shorter sequence")
    shared = axes.lines[-2:] if rings else axes.lines[-1:]
    axes.legend(handles=shared, loc="upper right", fontsize=8)


def _reference_lines(axes: Axes, eps: float, *, text: bool) -> None:
    axes.axvline(DOZEN, color=figures.GREY, linewidth=1, linestyle=":")
    axes.axhline(np.log10(eps), color=figures.GREY, linewidth=1, linestyle=":")
    if text:
        axes.annotate(
            "a dozen steps",
            (DOZEN, 0.62),
            xytext=(3, 0),
            textcoords="offset points",
            va="top",
            fontsize=8,
            color="#444444",
        )
        axes.annotate(
            f"{eps:g}",
            (0, np.log10(eps)),
            xytext=(3, 2),
            textcoords="offset points",
            fontsize=8,
            color="#444444",
        )


def _gain_figure(records: Sequence[Record]) -> Figure:
    figure, (panels,) = figures.new_figure(1, 2, size=(9.6, 4.3))
    left, right = panels
    length, eps = records[0]["length"], records[0]["eps"]
    stds = sorted({record["point"]["input_std"] for record in records})
    looks = [
        {"color": figures.SKY, "marker": "o"},
        {"color": figures.BLUE, "marker": "s"},
        {"color": "#00304a", "marker": "D"},
        {"color": figures.GREY, "marker": "^"},
    ]
    for index, std in enumerate(stds):
        mine = _where(records, input_std=std)
        look = looks[index % len(looks)]
        gains = sorted({record["point"]["gain"] for record in mine})
        groups = [_where(mine, gain=gain) for gain in gains]
        label = f"input std {std:g} (drive {mine[0]['drive_std']:.2g})"
        for axes, values, expected in (
            (left, lambda r: -r["rate"], lambda r: r["theory_exponent"]),
            (right, lambda r: r["horizon"], lambda r: _theory_horizon(r, eps)),
        ):
            _gain_series(axes, gains, groups, values, label, look)
            theory = np.array([expected(group[0]) for group in groups])
            shown = np.isfinite(theory) & ((theory < length) if axes is right else True)
            axes.plot(
                np.array(gains)[shown],
                theory[shown],
                **_THEORY,
                label="mean field" if index == len(stds) - 1 else None,
            )
    left.axhline(0, color=figures.GREY, linewidth=1)
    for place, text in ((0.03, "gradients explode"), (-0.03, "gradients vanish")):
        left.annotate(
            text,
            (0.02, place),
            xycoords=("axes fraction", "data"),
            va="bottom" if place > 0 else "top",
            fontsize=8,
            color="#444444",
        )
    left.set_title("Growth of the gradient")
    left.set_ylabel("ln of its factor per step")
    right.axhline(DOZEN, color=figures.GREY, linewidth=1, linestyle=":")
    right.annotate(
        "a dozen steps",
        (0.98, DOZEN),
        xycoords=("axes fraction", "data"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color="#444444",
    )
    right.set_yscale("log")
    right.set_ylim(2, length)
    right.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    right.set_title(f"Steps until the gradient is {eps:g}")
    right.set_ylabel(f"horizon, steps (up to T = {length})")
    for axes in panels:
        axes.set_xlabel("gain of $W_{hh}$ (its spectral radius at large n)")
    figures.legend_below(figure)
    seeds = len({record["seed"] for record in records})
    figure.set_label(
        f"On what a dozen depends: a tanh RNN of {records[0]['hidden']} units with Gaussian "
        f"W_hh. Median of {seeds} seeds, bars from least to greatest; a point is missing where the "
        f"gradient does not fall to {eps:g} within T = {length}."
    )
    return figure


def _gain_series(
    axes: Axes,
    gains: Sequence[float],
    groups: Sequence[Sequence[Record]],
    values: Callable[[Record], float],
    label: str,
    look: dict[str, Any],
) -> None:
    for number, (gain, group) in enumerate(zip(gains, groups, strict=True)):
        found = np.array([values(record) for record in group])
        middle = np.median(found)
        if not np.isfinite(middle):
            continue
        finite = found[np.isfinite(found)]
        axes.errorbar(
            [gain],
            [middle],
            [[middle - finite.min()], [finite.max() - middle]],
            label=label if number == 0 else None,
            linestyle="none",
            capsize=2,
            markersize=5.5,
            **look,
        )


def _theory_horizon(record: Record, eps: float) -> float:
    exponent = record["theory_exponent"]
    return np.log(eps) / exponent if exponent < 0 else np.inf


def _how(records: Sequence[Record]) -> str:
    first = records[0]
    seeds = len({record["seed"] for record in records})
    return (
        f"{first['hidden']} units, {first['input_size']} white inputs of std "
        f"{first['input_std']:g}; line: median of {seeds} seeds, band: all of them."
    )


# Tables -------------------------------------------------------------------------------------------


def _steps(value: float) -> str:
    return "never" if np.isinf(value) else f"{value:.3g}"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.3g} %" if fraction > 0.1 else f"{100 * fraction:.2g} %"


def _with_interval(values: np.ndarray, limit: float = np.inf) -> str:
    """Median and 95% bootstrap interval over seeds; what lies beyond the measured lags as such."""

    def text(value: float) -> str:
        return f"> {limit:g}" if value > limit else _steps(value)

    middle, (low, high) = float(np.median(values)), bootstrap_interval(values)
    if text(low) == text(high) == text(middle):
        return text(middle)
    return f"{text(middle)} [{text(low)}, {text(high)}]"


def _fitted_half_lives(records: Sequence[Record]) -> np.ndarray:
    """ln 2 / rate of the fitted exponential; a rate that is zero to rounding never halves."""
    rates = _values(records, "rate")
    flat = np.log(2) / 1e6
    return np.where(rates > flat, np.log(2) / np.maximum(rates, flat), np.inf)


def _theory_half_life(record: Record) -> float:
    lags, curve = np.array(record["lags"]), np.array(record["theory_state"], np.float64)
    below = np.flatnonzero(curve <= -np.log(2))
    if not len(below):
        return np.inf
    return float(np.interp(np.log(2), -curve[: below[0] + 1], lags[: below[0] + 1]))


def _decay_table(records: Sequence[Record]) -> Table:
    eps = records[0]["eps"]
    rows = []
    for layer in _layers(records):
        mine = _longest(records, layer)
        length = mine[0]["point"]["length"]
        powers = sum(record["law"] == "power" for record in mine)
        law = "power law" if powers > len(mine) / 2 else "exponential"
        counted = f"{law} ({max(powers, len(mine) - powers)}/{len(mine)})"
        flat = np.abs(_values(mine, "rate")).max() * mine[0]["fit_lags"] < 0.01
        kept = np.median([_kept(record, DOZEN) for record in mine])
        rows.append(
            (
                layer,
                _percent(kept),
                _with_interval(_values(mine, "half_life"), length),
                _steps(_theory_half_life(mine[0])),
                _with_interval(_values(mine, "horizon"), length),
                "flat" if flat else counted,
                _steps(float(np.median(_values(mine, "float32_lag")))),
            )
        )
    longest = max(_lengths(records))
    seeds = _longest(records, _layers(records)[0])  # the same number and lags for every layer
    return Table(
        f"How far the gradient of the last state reaches back, in steps; T = {longest}",
        (
            "layer",
            f"left after {DOZEN}",
            "half-life",
            "closed form",
            f"down to {eps:g}",
            "law (seeds)",
            "float32 reads 0 at",
        ),
        tuple(rows),
        note=(
            f"Median of {len(seeds)} seeds [95% bootstrap interval over seeds]. The law is the one "
            f"of lower AIC over lags 0 to {seeds[0]['fit_lags']}. A half-life is where the "
            "measured norm first halves; a power law has no other."
        ),
    )


def _length_table(records: Sequence[Record]) -> Table:
    lengths = _lengths(records)
    rows = []
    for layer in _layers(records):
        cells = []
        for length in lengths:
            mine = _where(records, layer=layer, length=length)
            cells.append(_with_interval(_fitted_half_lives(mine)) if mine else "–")
        rows.append((layer, _longest(records, layer)[0]["init"], *cells))
    return Table(
        "Half-life of the fitted exponential by sequence length T, in steps",
        ("layer", "start", *(f"T = {length}" for length in lengths)),
        tuple(rows),
        note="Median [95% bootstrap interval over seeds]. A short one has fewer lags to fit.",
        brief=False,
    )


def _gain_table(records: Sequence[Record]) -> Table:
    stds = sorted({record["point"]["input_std"] for record in records})
    gains = sorted({record["point"]["gain"] for record in records})
    length, eps = records[0]["length"], records[0]["eps"]
    rows = []
    for gain in gains:
        cells = []
        for std in stds:
            mine = _where(records, gain=gain, input_std=std)
            if not mine:
                cells.append("–")
                continue
            theory = _theory_horizon(mine[0], eps)
            measured = _with_interval(_values(mine, "horizon"), length)
            cells.append(f"{measured} / {_steps(theory)}")
        rows.append((f"{gain:g}", *cells))
    return Table(
        f"A tanh RNN's horizon: steps until the gradient is {eps:g}, measured / mean field",
        ("gain of W_hh", *(f"input std {std:g}" for std in stds)),
        tuple(rows),
        note=f"Median [95% bootstrap interval over seeds], up to T = {length}.",
        brief=False,
    )


# Verdicts -----------------------------------------------------------------------------------------


def _dozen_verdict(decay: Sequence[Record], gain: Sequence[Record]) -> Verdict:
    claim = "after a dozen or so steps a plain RNN has almost forgotten"
    plain = [record for record in decay if record["kind"] == "RNN" and record["plain"]]
    if not plain:
        text = "no tanh RNN with torch's default weights among the records yet"
        return Verdict(claim, "open", text, 4)
    plain = _longest(plain, plain[0]["point"]["layer"])
    eps = plain[0]["eps"]
    kept = np.median([_kept(record, DOZEN) for record in plain])
    horizon = float(np.median(_values(plain, "horizon")))
    half = float(np.median(_values(plain, "half_life")))
    text = (
        f"A tanh RNN with torch's default weights halves its gradient every {half:.2g} steps and "
        f"keeps {_percent(kept)} of it after {DOZEN}; it is down to {eps:g} after "
        f"{_steps(horizon)}. "
    )
    others = _spread_over_gains(gain)
    longer = [
        layer
        for layer in _layers(decay)
        if np.median(_values(_longest(decay, layer), "horizon")) > 2 * horizon
    ]
    if others:
        low, high, length = others
        until = f"more than {length}" if np.isinf(high) else f"{high:.3g}"
        text += (
            "The number belongs to the gain of W_hh and to how hard the input drives, not to the "
            f"RNN: over the gains and inputs tried it is {low:.2g} to {until} steps. "
        )
    if longer:
        text += f"More than twice as far: {'; '.join(longer)}."
    outcome: Outcome
    if not DOZEN / 3 <= horizon <= 3 * DOZEN:
        outcome = "refuted"
    else:
        outcome = "refined" if others or longer else "confirmed"
    low, high = bootstrap_interval(_values(plain, "horizon"))
    value = f"{_steps(horizon)} to {eps:g} [{low:.3g}, {high:.3g}]"
    return Verdict(claim, outcome, text.strip(), 4, value)


def _spread_over_gains(gain: Sequence[Record]) -> tuple[float, float, int] | None:
    """Least and greatest median horizon of the gain study, if they differ twofold; and its T."""
    points = {(r["point"]["gain"], r["point"]["input_std"]) for r in gain}
    medians = [
        float(np.median(_values(_where(gain, gain=g, input_std=std), "horizon")))
        for g, std in points
    ]
    if not medians or max(medians) < 2 * min(medians):
        return None
    return min(medians), max(medians), gain[0]["length"]


def _theory_verdict(decay: Sequence[Record]) -> Verdict:
    claim = "closed forms say how fast a gradient decays at initialisation"
    rows = []
    for layer in _layers(decay):
        mine = _longest(decay, layer)
        lags = np.array(mine[0]["lags"])
        early = lags <= DOZEN
        measured = np.median([np.array(r["state"], np.float64) for r in mine], axis=0)
        expected = np.array(mine[0]["theory_state"], np.float64)
        rows.append((float(np.abs(measured - expected)[early].max()), layer))
    if not rows:
        return Verdict(claim, "open", "no records yet")
    worst, layer = max(rows)
    text = (
        f"Over the first {DOZEN} steps the measured norm is within a factor {np.exp(worst):.2f} of "
        f"the closed form for every layer (worst: {layer}). At longer lags one finite W keeps to "
        "its own spectral radius, and a finite ring to its slowest decay."
    )
    return Verdict(claim, "confirmed" if worst < np.log(2) else "refined", text)
