"""Estimators of scikit-learn whose models are Modules: they go into pipelines and searches.

`LogisticClassifier` and `LinearRegressor` are one linear layer each, trained by L-BFGS unless told
otherwise; `NeuralClassifier` and `NeuralRegressor` train any Module by mini-batches. Names and
meanings are scikit-learn's (https://scikit-learn.org/stable/developers/develop.html).

Needs the extra `sklearn`: pip install "nanotorch[sklearn]".
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import numpy as np

import nanotorch as nt
from nanotorch.interop.sklearn_fit import Callback, Classifier, Estimator, Regressor, keep

__all__ = ["LinearRegressor", "LogisticClassifier", "NeuralClassifier", "NeuralRegressor"]

BLOCK = 1 << 21  # bytes of rows that stay in the cache between their two products


class _ZeroLinear(nt.nn.Linear):
    """A linear layer whose weights are zeros at first."""

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nt.nn.init.zeros_(parameter)


class _LinearModel(Estimator):
    """One linear layer that starts from zeros."""

    def _module(self, inputs: int, outputs: int) -> nt.nn.Module:
        return _ZeroLinear(inputs, outputs, bias=self.fit_intercept)

    def _seeded(self) -> Any:  # L-BFGS from zeros draws nothing
        return nullcontext() if self.optimizer == "lbfgs" else super()._seeded()

    def _comparable(self, y: Any, dtype: Any) -> Any:
        """Targets as `_slopes` compares them."""
        raise NotImplementedError

    def _slopes(self, z: Any, y: Any) -> tuple[Any, Any]:
        """Each row's loss, and its derivatives with respect to its z, (outputs, rows)."""
        raise NotImplementedError

    def _sum_of_losses(
        self, trained: list[Any], parts: list[Any], penalties: list[Any], total: float
    ) -> Callable[[], float]:
        """On the CPU without a graph, and by blocks of rows, which cross memory once."""
        if parts[0].device.type != "cpu":
            return super()._sum_of_losses(trained, parts, penalties, total)
        arrays: Any = (None if part is None else part.numpy() for part in parts)
        X, y, weights = arrays
        weights = np.ones(len(X), X.dtype) if weights is None else weights * (total / len(X))
        for parameter in trained:
            parameter.grad = nt.zeros_like(parameter)
        layer = self.module_
        weight, weight_gradient = _arrays(layer.weight)
        bias, bias_gradient = _arrays(layer.bias)
        size = max(1, BLOCK // (X.itemsize * X.shape[1]))
        slices = [slice(first, first + size) for first in range(0, len(X), size)]
        blocks = [(X[rows], self._comparable(y[rows], X.dtype), weights[rows]) for rows in slices]
        penalized = [(*(array.reshape(-1) for array in _arrays(p)), c) for p, _, c in penalties]

        def evaluate() -> float:
            loss = 0.0
            for gradient in (weight_gradient, bias_gradient):
                if gradient is not None:
                    gradient.fill(0)
            for x, target, share in blocks:
                z = weight @ x.T
                if bias is not None:
                    z += bias[:, None]
                losses, slopes = self._slopes(z, target)
                loss += float(losses @ share)
                if bias_gradient is not None:
                    np.add(bias_gradient, slopes @ share, bias_gradient)
                if weight_gradient is not None:
                    slopes *= share
                    np.add(weight_gradient, slopes @ x, weight_gradient)
            for values, gradient, factor in penalized:
                gradient += factor * values
                loss += factor / 2 * float(values @ values)
            return loss

        return evaluate

    @property
    def intercept_(self) -> Any:
        """The bias of each output, zeros without one."""
        if self.module_.bias is None:
            return np.zeros(self.module_.out_features)
        return self.module_.bias.detach().cpu().numpy()


def _arrays(parameter: Any) -> tuple[Any, Any]:
    """A parameter's values and its gradient, each as an array that shares the memory, or None."""
    if parameter is None:
        return None, None
    gradient = parameter.grad
    return parameter.detach().numpy(), None if gradient is None else gradient.numpy()


class LogisticClassifier(Classifier, _LinearModel):
    """Logistic regression: one linear layer, for several classes with a softmax.

    Minimizes C · Σ loss + ½ ‖coef‖², as scikit-learn's LogisticRegression does, and finds the same
    coefficients.

    - `C`: the inverse of the penalty's strength; infinity for none
    - `class_weight`: None, "balanced", or a weight by class
    - `optimizer`: "lbfgs" over all rows, a name of `nanotorch.optim` in small letters, or a
      function of the parameters; `lr`, `batch_size` (rows) and `early_stopping` are for those in
      mini-batches
    - `max_iter`, `tol`: the most iterations (epochs), and the largest entry of the gradient (the
      least fall of the loss in `n_iter_no_change` epochs) at which training ends
    - `early_stopping` holds back `validation_fraction` of the rows, and keeps the best epoch
    - `start`, `freeze`: arrays by parameter name ("weight", "bias") to start from, and patterns of
      the names of parameters that stay as they start
    - `callbacks`: functions of (estimator, record of an epoch); one that returns True ends training
    - `device`, `warm_start`, `random_state`: where the module lives; whether `fit` goes on from its
      last weights; the seed of everything drawn

    Fitted: `coef_`, `intercept_`, `classes_`, `module_`, `n_iter_`, `history_`.

    >>> from sklearn.datasets import load_iris
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> X, y = load_iris(return_X_y=True)
    >>> model = make_pipeline(StandardScaler(), LogisticClassifier())
    >>> bool(model.fit(X, y).score(X, y) > 0.96)
    True
    """

    def __init__(
        self, C: float = 1.0, *, fit_intercept: bool = True, class_weight: Any = None,
        optimizer: Any = "lbfgs", lr: float = 0.01, batch_size: int = 200, max_iter: int = 100,
        tol: float = 1e-4, early_stopping: bool = False, validation_fraction: float = 0.1,
        n_iter_no_change: int = 5, start: Mapping[str, Any] | None = None,
        freeze: Iterable[str] | str = (), callbacks: Iterable[Callback] | None = None,
        device: str = "cpu", warm_start: bool = False, random_state: Any = None,
    ) -> None:  # fmt: skip
        keep(self, locals())

    def _outputs(self) -> int:
        return 1 if len(self.classes_) == 2 else len(self.classes_)

    def _penalties(self, total: float) -> list[tuple[Any, float]]:
        return [(self.module_.weight, 1 / (self.C * total))] if math.isfinite(self.C) else []

    def _comparable(self, y: Any, dtype: Any) -> Any:
        if self._outputs() == 1:
            return y.astype(dtype) - 0.5
        return y, np.arange(len(y))  # where each row's logit stands

    def _slopes(self, z: Any, y: Any) -> tuple[Any, Any]:
        if self._outputs() == 1:
            size = abs(z)
            small = np.exp(-size)
            losses = np.log1p(small)
            losses += size * 0.5
            losses -= z * y
            small += 1
            slopes = np.reciprocal(small, small)
            slopes -= 0.5
            np.copysign(slopes, z, slopes)  # the probability less a half
            slopes -= y
            return losses[0], slopes
        z -= z.max(axis=0)
        slopes = np.exp(z)
        sums = slopes.sum(axis=0)
        slopes /= sums
        slopes[y] -= 1
        return np.log(sums) - z[y], slopes

    @property
    def coef_(self) -> Any:
        """The weights: (1, features) for two classes, (classes, features) for more."""
        return self.module_.weight.detach().cpu().numpy()


class LinearRegressor(Regressor, _LinearModel):
    """Linear regression: one linear layer with the mean squared error.

    Minimizes Σ (y - z)² + alpha · ‖coef‖², as scikit-learn's Ridge does. `alpha` is the penalty's
    strength; the other parameters are those of `LogisticClassifier`.

    >>> X = np.arange(8.0).reshape(4, 2)
    >>> LinearRegressor().fit(X, X @ [1.0, 2.0] + 3).predict(X).round(3)
    array([ 5., 11., 17., 23.])
    """

    def __init__(
        self, alpha: float = 0.0, *, fit_intercept: bool = True, optimizer: Any = "lbfgs",
        lr: float = 0.01, batch_size: int = 200, max_iter: int = 1000, tol: float = 1e-6,
        early_stopping: bool = False, validation_fraction: float = 0.1, n_iter_no_change: int = 5,
        start: Mapping[str, Any] | None = None, freeze: Iterable[str] | str = (),
        callbacks: Iterable[Callback] | None = None, device: str = "cpu",
        warm_start: bool = False, random_state: Any = None,
    ) -> None:  # fmt: skip
        keep(self, locals())

    def _penalties(self, total: float) -> list[tuple[Any, float]]:
        return [(self.module_.weight, 2 * self.alpha / (total * self._outputs()))]

    def _comparable(self, y: Any, dtype: Any) -> Any:
        return y.T.astype(dtype)

    def _slopes(self, z: Any, y: Any) -> tuple[Any, Any]:
        z -= y
        return (z * z).mean(axis=0), 2 / len(z) * z

    @property
    def coef_(self) -> Any:
        """The weights: (features,), or (targets, features) as y was."""
        weight = self.module_.weight.detach().cpu().numpy()
        return weight if self._targets_shape else weight[0]

    @property
    def intercept_(self) -> Any:
        """The bias: a number, or (targets,) as y was."""
        bias = super().intercept_
        return bias if self._targets_shape else bias[0]


class _Neural(Estimator):
    """Any Module: a copy of one, what a function makes of (inputs, outputs), or an MLP."""

    def _module(self, inputs: int, outputs: int) -> nt.nn.Module:
        if isinstance(self.module, nt.nn.Module):
            return copy.deepcopy(self.module)
        if self.module is not None:
            module: nt.nn.Module = self.module(inputs, outputs)
            return module
        layers: list[nt.nn.Module] = []
        for width in self.hidden:
            layers += [nt.nn.Linear(inputs, width), nt.nn.ReLU()]
            inputs = width
        return nt.nn.Sequential(*layers, nt.nn.Linear(inputs, outputs))

    def _penalties(self, total: float) -> list[tuple[Any, float]]:
        if not self.alpha:
            return []
        return [(p, self.alpha) for p in self.module_.parameters() if p.ndim > 1]


class NeuralClassifier(Classifier, _Neural):
    """A neural network that gives one logit per class, or a single one for two classes.

    - `module`: a Module, which is copied; a class or function that makes one of (inputs, outputs);
      or None for linear layers with ReLUs, as wide as `hidden` says
    - `alpha`: the factor of ½ ‖w‖² beside the mean loss, for every w of more than one dimension
    - the other parameters are those of `LogisticClassifier`

    Fitted: `module_`, `classes_`, `n_iter_` (epochs), `history_`.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> model = NeuralClassifier(hidden=(16,), lr=0.01, random_state=0).fit(X, y)
    >>> bool(model.score(X, y) > 0.9)
    True
    """

    def __init__(
        self, module: Any = None, *, hidden: Iterable[int] = (100,), class_weight: Any = None,
        alpha: float = 0.0, optimizer: Any = "adam", lr: float = 0.001, batch_size: int = 200,
        max_iter: int = 200, tol: float = 1e-4, early_stopping: bool = False,
        validation_fraction: float = 0.1, n_iter_no_change: int = 10,
        start: Mapping[str, Any] | None = None, freeze: Iterable[str] | str = (),
        callbacks: Iterable[Callback] | None = None, device: str = "cpu",
        warm_start: bool = False, random_state: Any = None,
    ) -> None:  # fmt: skip
        keep(self, locals())


class NeuralRegressor(Regressor, _Neural):
    """A neural network that gives one number per target, trained on the mean squared error.

    The parameters are those of `NeuralClassifier`, without `class_weight`.
    """

    def __init__(
        self, module: Any = None, *, hidden: Iterable[int] = (100,), alpha: float = 0.0,
        optimizer: Any = "adam", lr: float = 0.001, batch_size: int = 200, max_iter: int = 200,
        tol: float = 1e-4, early_stopping: bool = False, validation_fraction: float = 0.1,
        n_iter_no_change: int = 10, start: Mapping[str, Any] | None = None,
        freeze: Iterable[str] | str = (), callbacks: Iterable[Callback] | None = None,
        device: str = "cpu", warm_start: bool = False, random_state: Any = None,
    ) -> None:  # fmt: skip
        keep(self, locals())
