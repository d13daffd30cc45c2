"""Write what the tests and `torch_example` compare with, so that neither needs torch.

    python scripts/make_torch_golden.py

Only a new case or another torch asks for it; what it writes is part of the repository.
"""

from pathlib import Path

from experiments.torch_example.reference import ARTICLE, LAYERS, STORED, store

TESTS = Path(__file__).parents[1] / "tests" / "layers"

# Keyword arguments of torch.nn, and the sequences: batch (None: no batch axis), time, lengths, and
# whether an initial state is given.
CASES = {
    "article": ARTICLE,
    "deep": dict(
        input_size=3, hidden_size=4, num_layers=3, bidirectional=True, batch=4, time=6, state=True,
        lengths=[3, 6, 1, 5],
    ),
    "packed": dict(
        input_size=2, hidden_size=6, bidirectional=True, batch=3, time=8, lengths=[2, 7, 7],
    ),
    "unbatched": dict(
        input_size=4, hidden_size=3, num_layers=2, bidirectional=True, bias=False, time=9,
        state=True,
    ),
    "long": dict(input_size=2, hidden_size=8, batch=1, time=100, lengths=[90], state=True),
    "one_step": dict(input_size=1, hidden_size=2, bidirectional=True, batch=2, time=1, state=True),
}  # fmt: skip
RELU = dict(
    input_size=3, hidden_size=5, nonlinearity="relu", bias=False, num_layers=2, batch=3, time=7,
    state=True,
)  # fmt: skip


if __name__ == "__main__":
    store({name: ARTICLE | {"layer": name} for name in LAYERS}, STORED)
    for layer in LAYERS:
        cases = {name: case | {"layer": layer} for name, case in CASES.items()}
        if layer == "RNN":
            cases["relu"] = RELU
        store(cases, TESTS / f"torch_{layer.lower()}.npz")
    for path in (STORED, *sorted(TESTS.glob("torch_*.npz"))):
        print(f"{path.name}: {path.stat().st_size / 1e3:.0f} kB")
