"""All claims of the article in one run: each experiment at its small setting, and one table."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pydantic

from experiments.any_length import experiment as any_length
from experiments.claims.article import CLAIMS
from experiments.closed_form import experiment as closed_form
from experiments.digits import experiment as digits
from experiments.gradient_decay import experiment as gradient_decay
from experiments.harness import composite, registry
from experiments.harness.config import Config as BaseConfig
from experiments.harness.config import ConfigError, merge, read, shown, validate
from experiments.harness.experiment import Point, Record, Summary, Table, Verdict
from experiments.nonlinear_parallel import experiment as nonlinear_parallel
from experiments.parameter_sharing import experiment as parameter_sharing
from experiments.recall import experiment as recall
from experiments.torch_example import experiment as torch_example
from experiments.training_and_inference import experiment as training_and_inference
from experiments.wallclock import experiment as wallclock

CLAIM = (
    "All eleven claims of a popular-science article on the recurrence inside RNNs, each with the "
    "verdict of an experiment at a small setting."
)
PARTS: dict[str, Any] = {
    "torch_example": torch_example,
    "parameter_sharing": parameter_sharing,
    "any_length": any_length,
    "gradient_decay": gradient_decay,
    "wallclock": wallclock,
    "closed_form": closed_form,
    "nonlinear_parallel": nonlinear_parallel,
    "training_and_inference": training_and_inference,
    "digits": digits,
    "recall": recall,
}


@functools.cache
def _small(name: str) -> dict[str, Any]:
    """The values of a part's `configs/small.toml`."""
    return read(registry.FOLDER / name / "configs" / "small.toml").values


class Config(BaseConfig):
    """A config for each part, as a table of its name; its small.toml says what is left out."""

    torch_example: torch_example.Config
    parameter_sharing: parameter_sharing.Config
    any_length: any_length.Config
    gradient_decay: gradient_decay.Config
    wallclock: wallclock.Config
    closed_form: closed_form.Config
    nonlinear_parallel: nonlinear_parallel.Config
    training_and_inference: training_and_inference.Config
    digits: digits.Config
    recall: recall.Config

    @pydantic.model_validator(mode="before")
    @classmethod
    def _small_by_default(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        made, faults = dict(values), []
        for name, part in PARTS.items():
            mine = values.get(name, {})
            if not isinstance(mine, dict):
                key = next(iter(part.Config.model_fields))
                right = f"should be a table of its keys; one is changed by {name}.{key}=VALUE"
                faults.append(f"{name} = {shown(mine)}: {right}")
                continue
            try:
                made[name] = validate(part.Config, merge(_small(name), mine))
            except ConfigError as error:
                faults += [f"{name}.{fault}" for fault in error.faults]
        if faults:
            raise ValueError("; ".join(faults))
        return made


def plan(config: Config) -> list[Point]:
    return composite.plan(PARTS, config)


def describe(point: Point) -> str:
    return composite.describe(PARTS, point)


def run(config: Config, points: Iterable[Point] | None = None) -> Iterator[Record]:
    return composite.run(PARTS, config, points)


def plot(records: Sequence[Record]) -> dict[str, Any]:
    return composite.plot(PARTS, records)


def summary(records: Sequence[Record]) -> Summary:
    """The table of claims, the sentence behind each verdict, and in the report all else."""
    parts = composite.summaries(PARTS, records)
    verdicts, rows = [], []
    for number, claim in CLAIMS.items():
        mine = [
            (name, verdict)
            for name in claim.settled_by
            if name in parts
            for verdict in parts[name].verdicts
            if verdict.number == number
        ]
        if not mine:
            waits = " or ".join(claim.settled_by) or "an experiment that does not exist yet"
            failed = [f for name in claim.settled_by if name in parts for f in parts[name].failures]
            text = (
                f"No verdict: {'; '.join(failed)}"
                if failed
                else f"No verdict among the records: it waits for {waits}."
            )
            mine = [("–", Verdict(claim.text, "open", text, number))]
        for name, verdict in mine:
            rows.append((f"{number}", verdict.outcome, verdict.value or "–", claim.text, name))
            verdicts.append(verdict)
    table = Table(
        "The claims and their verdicts",
        # The verdict and its number first: a narrow terminal leaves out the last columns.
        ("claim", "verdict", "number", "in short", "experiment"),
        tuple(rows),
        note="Every verdict is computed from this run; small settings, so small conclusions.",
    )
    others = [replace(t, brief=False) for part in parts.values() for t in part.tables]
    failures = tuple(failure for part in parts.values() for failure in part.failures)
    return Summary(tuple(verdicts), (table, *others), failures)
