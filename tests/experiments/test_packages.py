"""Other packages beside JAX: what is missing, and torch as a GPU would have it, with a stand-in."""

import sys
import types

import pytest

from experiments.harness import packages
from experiments.harness.packages import TORCH


class Torch(types.ModuleType):
    """Its switches for TF32, and who waited for the GPU."""

    def __init__(self, available=True):
        super().__init__("torch")
        self.__spec__ = types.SimpleNamespace()  # what find_spec asks for
        cudnn = types.SimpleNamespace(allow_tf32=True)
        matmul = types.SimpleNamespace(allow_tf32=False)
        cuda = types.SimpleNamespace(matmul=matmul)
        self.backends = types.SimpleNamespace(cudnn=cudnn, cuda=cuda)
        self.waits = 0
        self.cuda = types.SimpleNamespace(is_available=lambda: available, synchronize=self._wait)

    def _wait(self):
        self.waits += 1

    def allowed(self):
        return [part.allow_tf32 for part in (self.backends.cudnn, self.backends.cuda.matmul)]


def beside_a_gpu(monkeypatch, torch):
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(packages.jax, "default_backend", lambda: "gpu")
    return torch


def test_a_call_is_done_when_it_returns_and_knows_no_tf32(monkeypatch):
    torch = beside_a_gpu(monkeypatch, Torch())
    assert packages.why_not((TORCH,)) == ""
    assert packages.finished(lambda x: (x, torch.allowed()))(3) == (3, [False, False])
    assert torch.waits == 1
    assert torch.allowed() == [True, False]

    def fails():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        packages.finished(fails)()
    assert torch.allowed() == [True, False]


def test_on_a_cpu_nobody_waits(monkeypatch):
    torch = Torch(available=False)
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert packages.finished(lambda x: x)(3) == 3
    assert torch.waits == 0
    assert packages.why_not((TORCH,)) == ""


def test_a_torch_without_a_gpu_is_not_timed_beside_one(monkeypatch):
    beside_a_gpu(monkeypatch, Torch(available=False))
    assert packages.why_not((TORCH,)) == "torch sees no GPU, and JAX does"


def test_all_that_is_missing_is_named():
    found = packages.why_not((("jax", "jax"), ("no-one", "no_one"), ("none", "no_such_module")))
    assert found == "no-one and none are not installed"
