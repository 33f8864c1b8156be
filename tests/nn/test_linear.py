"""The choice of the matrix kernel changes nothing but rounding, and steps aside where it cannot help."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from olmo.nn import linear as module
from olmo.nn.linear import linear, project

LARGE = (1024, 640)  # rows times columns above the limit, so the quick kernel is taken with any number of rows


def _numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _taken(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows by one at every call of the quick kernel."""
    calls: list[int] = []
    kernel = module._onednn_linear
    if kernel is None:
        pytest.skip("this torch has no such kernel")

    def counted(*arguments):
        calls.append(1)
        return kernel(*arguments)

    monkeypatch.setattr(module, "_onednn_linear", counted)
    return calls


@pytest.mark.parametrize("shape", [(1, 640), (1, 1, 640), (8, 1, 640), (2, 17, 640)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_quick_kernel_gives_the_same_numbers(monkeypatch, shape, has_bias):
    calls = _taken(monkeypatch)
    x, weight = _numbers(*shape), _numbers(*LARGE, seed=1)
    bias = _numbers(LARGE[0], seed=2) if has_bias else None
    with torch.no_grad():
        result = project(x, weight, bias)
    assert calls
    torch.testing.assert_close(result, F.linear(x, weight, bias), rtol=1e-5, atol=1e-4)  # numbers up to 100


def test_many_rows_of_a_small_matrix_take_it_too(monkeypatch):
    calls = _taken(monkeypatch)
    weight = _numbers(256, 128, seed=1)
    with torch.no_grad():
        few, many = _numbers(8, 128), _numbers(512, 128)
        project(few, weight)
        assert not calls
        torch.testing.assert_close(project(many, weight), F.linear(many, weight), rtol=1e-5, atol=1e-4)
    assert calls


def test_strided_rows(monkeypatch):
    calls = _taken(monkeypatch)
    x, weight = _numbers(3, 5, 640)[:, -1], _numbers(*LARGE, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(project(x, weight), F.linear(x, weight), rtol=1e-5, atol=1e-4)
    assert calls


def test_gradients_flow_through_the_usual_kernel(monkeypatch):
    calls = _taken(monkeypatch)
    layer = linear(640, 1024)
    torch.nn.init.normal_(layer.weight)
    x = _numbers(2, 640).requires_grad_()
    layer(x).sum().backward()
    assert not calls
    assert x.grad is not None and layer.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes_take_the_usual_kernel(monkeypatch, dtype):
    calls = _taken(monkeypatch)
    x, weight = _numbers(2, 640).to(dtype), _numbers(*LARGE, seed=1).to(dtype)
    with torch.no_grad():
        assert project(x, weight).dtype == dtype
    assert not calls


def test_autocast_still_decides_the_dtype():
    x, weight = _numbers(2, 640), _numbers(*LARGE, seed=1)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert project(x, weight).dtype == torch.bfloat16


def test_no_rows_and_the_meta_device():
    weight = _numbers(*LARGE)
    with torch.no_grad():
        assert project(_numbers(0, 640), weight).shape == (0, 1024)
        assert project(_numbers(2, 640).to("meta"), weight.to("meta")).shape == (2, 1024)


def test_without_the_kernel_the_usual_one_is_taken(monkeypatch):
    monkeypatch.setattr(module, "_onednn_linear", None)
    x, weight = _numbers(2, 640), _numbers(*LARGE, seed=1)
    with torch.no_grad():
        assert torch.equal(project(x, weight), F.linear(x, weight))


def test_a_layer_on_the_meta_device_has_no_memory():
    with torch.device("meta"):
        assert linear(640, 1024, bias=True).weight.is_meta
