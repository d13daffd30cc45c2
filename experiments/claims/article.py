"""The claims of the article, in our words, and what settles each.

This toolkit began with it: a popular-science article on the recurrence inside RNNs, whose eleven
claims range from the layer's equation to what Mamba and attention do instead.
"""

from __future__ import annotations

from typing import NamedTuple


class Claim(NamedTuple):
    """One claim: what the article says, and the experiments whose verdicts bear its number."""

    text: str
    settled_by: tuple[str, ...]


CLAIMS = {
    1: Claim("a tanh RNN folds history into one state", ("torch_example",)),
    2: Claim("weights shared over time: no growth with length", ("parameter_sharing",)),
    3: Claim("any length, where others have limits", ("any_length",)),
    4: Claim("a plain RNN forgets within a dozen steps", ("gradient_decay",)),
    5: Claim("step t waits for step t-1: the machine idles", ("wallclock",)),
    6: Claim("a linear RNN has a closed form, all steps at once", ("closed_form",)),
    7: Claim("with tanh, serial evaluation is unavoidable", ("nonlinear_parallel",)),
    8: Claim("Mamba returns to linear recurrence, in parallel", ("wallclock",)),
    9: Claim("attention reaches further inside its window", ("recall",)),
    10: Claim("training and inference cost differently", ("training_and_inference",)),
    11: Claim("the PyTorch example, and a classifier on it", ("torch_example", "digits")),
}
