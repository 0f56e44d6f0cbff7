"""Counts the arithmetic of a function's matrix products and convolutions."""

import math
from collections.abc import Callable
from typing import Any

import jax


def matmul_flops(function: Callable, *arguments: Any) -> float:
    """Floating-point operations of all dot products and convolutions in `function(*arguments)`.

    A product of [m, k] and [k, n] has 2 m k n. Nothing is run; loops over a fixed number of steps
    count by that number, and of several branches the one with the most operations counts.
    """
    return _count(jax.make_jaxpr(function)(*arguments).jaxpr)


def _count(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            total += _dot(equation)
        elif equation.primitive.name == "conv_general_dilated":
            total += _convolution(equation)
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        branches = equation.params.get("branches", ())
        total += max((_count(branch.jaxpr) for branch in branches), default=0.0)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += times * _count(inner)
    return total


def _dot(equation: Any) -> float:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left = equation.invars[0].aval.shape
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[i] for i in contracted)


def _convolution(equation: Any) -> float:
    kernel = equation.invars[1].aval.shape
    outputs = equation.params["dimension_numbers"].rhs_spec[0]
    return 2.0 * math.prod(equation.outvars[0].aval.shape) * math.prod(kernel) / kernel[outputs]
