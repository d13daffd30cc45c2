"""Write tests/layers/torch_rnn.npz, values and gradients of `torch.nn.RNN`: tests need no torch.

    python scripts/make_torch_golden.py

Everything is computed in float64, from inputs and weights that float32 holds exactly: the same file
therefore judges both precisions.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

OUTPUT = Path(__file__).parents[1] / "tests" / "layers" / "torch_rnn.npz"

# Keyword arguments of torch.nn.RNN, and the sequences: batch (None: no batch axis), time, lengths,
# and whether an initial state is given.
CASES = {
    "article": dict(input_size=10, hidden_size=20, batch=2, time=5),
    "relu": dict(
        input_size=3, hidden_size=5, nonlinearity="relu", bias=False, num_layers=2, batch=3, time=7,
        state=True,
    ),
    "deep": dict(
        input_size=3, hidden_size=4, num_layers=3, bidirectional=True, batch=4, time=6, state=True,
        lengths=[3, 6, 1, 5],
    ),
    "packed": dict(
        input_size=2, hidden_size=6, nonlinearity="relu", bidirectional=True, batch=3, time=8,
        lengths=[2, 7, 7],
    ),
    "unbatched": dict(
        input_size=4, hidden_size=3, num_layers=2, bidirectional=True, bias=False, time=9,
        state=True,
    ),
    "long": dict(input_size=2, hidden_size=8, batch=1, time=100, lengths=[90], state=True),
    "one_step": dict(input_size=1, hidden_size=2, bidirectional=True, batch=2, time=1, state=True),
}  # fmt: skip


def reference(
    seed: int,
    *,
    input_size: int,
    hidden_size: int,
    time: int,
    batch: int | None = None,
    num_layers: int = 1,
    bidirectional: bool = False,
    bias: bool = True,
    nonlinearity: str = "tanh",
    lengths: list[int] | None = None,
    state: bool = False,
) -> dict[str, np.ndarray]:
    """What goes in, what comes out, and the gradients of <y, dy> + <last, dlast>.

    Keys: x, state (if given), y, last; dy, dlast (cotangents); and "weight/...", "grad/..." for the
    weights by torch's names, x and state.
    """
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    rnn = torch.nn.RNN(
        input_size,
        hidden_size,
        num_layers,
        nonlinearity=nonlinearity,
        bias=bias,
        bidirectional=bidirectional,
        batch_first=True,
        dtype=torch.float64,
    )
    with torch.no_grad():
        for weight in rnn.parameters():
            weight.copy_(torch.from_numpy(draw(*weight.shape)) * hidden_size**-0.5 / 2)
            weight.copy_(weight.float())
    leading = () if batch is None else (batch,)
    directions = 2 if bidirectional else 1
    out = {"x": draw(*leading, time, input_size)}
    if state:
        out["state"] = draw(num_layers * directions, *leading, hidden_size)
    out["dy"] = draw(*leading, time, directions * hidden_size)
    out["dlast"] = draw(num_layers * directions, *leading, hidden_size)

    given = [key for key in ("x", "state") if key in out]
    inputs = {key: torch.tensor(out[key], requires_grad=True) for key in given}
    x = inputs["x"]
    if lengths is not None:
        x = pack_padded_sequence(x, torch.tensor(lengths), batch_first=True, enforce_sorted=False)
    y, last = rnn(x, inputs.get("state"))
    if lengths is not None:
        y, _ = pad_packed_sequence(y, batch_first=True, total_length=time)
    loss = (y * torch.from_numpy(out["dy"])).sum() + (last * torch.from_numpy(out["dlast"])).sum()
    loss.backward()
    out |= {"y": y.detach().numpy(), "last": last.detach().numpy()}
    out |= {f"weight/{name}": value.detach().numpy() for name, value in rnn.named_parameters()}
    leaves = [*rnn.named_parameters(), *inputs.items()]
    return out | {f"grad/{name}": np.asarray(leaf.grad) for name, leaf in leaves}


if __name__ == "__main__":
    arrays = {"torch": np.array(torch.__version__), "cases": np.array(json.dumps(CASES))}
    for seed, (name, case) in enumerate(CASES.items()):
        arrays |= {f"{name}/{key}": value for key, value in reference(seed, **case).items()}
    np.savez_compressed(OUTPUT, allow_pickle=False, **arrays)
    print(f"{OUTPUT}: {len(CASES)} cases, {OUTPUT.stat().st_size / 1e3:.0f} kB")
