"""Estimators of scikit-learn whose models are Modules: they go into pipelines and searches.

`LogisticClassifier` and `LinearRegressor` are one linear layer each, trained by L-BFGS unless told
otherwise; `NeuralClassifier` and `NeuralRegressor` train any Module by mini-batches. Names and
meanings are scikit-learn's (https://scikit-learn.org/stable/developers/develop.html).

Needs the extra `sklearn`: pip install "nanotorch[sklearn]".
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import numpy as np

import nanotorch as nt
from nanotorch.nn import functional as F

try:
    from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.model_selection import train_test_split
    from sklearn.utils import check_random_state, compute_class_weight
    from sklearn.utils.metaestimators import available_if
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import (
        _check_sample_weight,
        check_is_fitted,
        validate_data,
    )
except ImportError as error:
    raise ImportError(
        "nanotorch.interop.sklearn needs scikit-learn 1.7 or newer: "
        'pip install "nanotorch[sklearn]"'
    ) from error

Callback = Callable[[Any, dict[str, float]], Any]
_OPTIMIZERS = {
    name.lower(): name
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Adamax", "NAdam")
}


def _in_batches(estimator: Any) -> bool:
    """Whether its optimizer goes on from batch to batch, as L-BFGS does not."""
    return bool(estimator.optimizer != "lbfgs")


class _Estimator(BaseEstimator):
    """What all estimators share: rows to tensors, the training loop, and the state of a fit."""

    module_: Any  # the Module; present once there was a fit
    n_iter_: int  # iterations of L-BFGS, or epochs
    history_: list[dict[str, float]]  # a record for each epoch

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train on rows X, a matrix of (rows, features), and their targets y.

        float32 rows are computed in float32, all others in float64. With `warm_start` a second
        call goes on from the weights of the first. Returns the estimator.
        """
        anew = not (self.warm_start and hasattr(self, "module_"))
        X, y, weights = self._rows(X, y, sample_weight, anew)
        if anew:
            self._begin(X.shape[1], X.dtype)
        self._train(X, y, weights, self.max_iter)
        return self

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any) -> Any:
        """One epoch over these rows, from the weights and the optimizer's state as they are."""
        anew = not hasattr(self, "module_")
        X, y, weights = self._rows(X, y, sample_weight, anew)
        if anew:
            self._begin(X.shape[1], X.dtype)
        self._train(X, y, weights, 1, getattr(self, "optimizer_", None))
        return self

    # Rows in

    def _rows(self, X: Any, y: Any, sample_weight: Any, anew: bool) -> tuple[Any, Any, Any]:
        """X, y and the weights of all rows that count (None where all weigh the same)."""
        X, y = validate_data(self, X, y, reset=anew, dtype=[np.float64, np.float32], **self._checks)
        y = self._targets(y, anew)
        weights = self._class_weights(y)
        if sample_weight is not None:
            given = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
            weights = given if weights is None else weights * given
        if weights is None:
            return X, y, None
        counts = weights > 0
        if not counts.any():
            raise ValueError(
                f"{type(self).__name__}: every row has weight 0; nothing to learn from"
            )
        return X[counts], y[counts], weights[counts].astype(X.dtype)

    _checks: ClassVar[dict[str, Any]] = {}

    def _targets(self, y: Any, anew: bool) -> Any:
        raise NotImplementedError

    def _class_weights(self, y: Any) -> Any:
        return None

    def _begin(self, inputs: int, dtype: Any) -> None:
        """A new module, with the weights it starts from and its frozen parameters."""
        self._random = check_random_state(self.random_state)
        with nt.random.fork_rng():
            nt.manual_seed(self._random.randint(2**31))
            module = self._module(inputs, self._outputs())
        module = module.to(device=self.device, dtype=getattr(nt, str(dtype)))
        if self.start is not None:
            start = {name: nt.as_tensor(np.asarray(array)) for name, array in self.start.items()}
            module.load_state_dict({**module.state_dict(), **start})
        names = [name for name, _ in module.named_parameters()]
        for pattern in self.freeze:
            if not any(fnmatchcase(name, pattern) for name in names):
                raise ValueError(
                    f"{type(self).__name__}: freeze {pattern!r} fits no parameter; "
                    f"there are: {', '.join(names)}"
                )
        for name, parameter in module.named_parameters():
            if any(fnmatchcase(name, pattern) for pattern in self.freeze):
                parameter.requires_grad_(False)
        self.module_ = module
        self.history_ = []
        self.n_iter_ = 0
        self.__dict__.pop("optimizer_", None)

    def _module(self, inputs: int, outputs: int) -> nt.nn.Module:
        raise NotImplementedError

    def _outputs(self) -> int:
        raise NotImplementedError

    # Training

    def _loss(self, z: Any, y: Any, weights: Any) -> Any:
        raise NotImplementedError

    def _penalties(self, total: float) -> list[tuple[Any, float]]:
        """Parameters with the factor c of their penalty c/2 · ‖w‖², beside a mean loss."""
        return []

    def _train(self, X: Any, y: Any, weights: Any, epochs: int, optimizer: Any = None) -> None:
        """The state after at most `epochs` epochs, or L-BFGS iterations, over these rows."""
        total = float(len(X) if weights is None else weights.sum())
        if weights is not None:
            weights = weights * (len(X) / total)  # of mean 1: a batch is weighed as in the whole
        parts = [None if part is None else self._tensor(part) for part in (X, y, weights)]
        penalties = [(p, p.detach(), c) for p, c in self._penalties(total) if p.requires_grad]
        trained = [p for p in self.module_.parameters() if p.requires_grad]
        self.module_.train()
        with nt.random.fork_rng():
            nt.manual_seed(self._random.randint(2**31))
            if not trained:
                self.n_iter_ = max(self.n_iter_, 1)
            elif self.optimizer == "lbfgs":
                self._search(trained, parts, penalties, total, epochs)
            else:
                if optimizer is None:
                    optimizer = self._optimizer(trained)
                self.optimizer_ = optimizer
                self._go_through(optimizer, parts, penalties, epochs)
        self.module_.eval()

    def _tensor(self, array: Any) -> Any:
        tensor = nt.from_numpy(array) if array.flags.writeable else nt.tensor(array)
        return tensor.to(self.device)

    def _optimizer(self, parameters: list[Any]) -> Any:
        if callable(self.optimizer):
            return self.optimizer(parameters)
        if self.optimizer not in _OPTIMIZERS:
            raise ValueError(
                f"{type(self).__name__}: optimizer {self.optimizer!r} is unknown; use one of "
                f"lbfgs, {', '.join(_OPTIMIZERS)}, or a function of the parameters"
            )
        return getattr(nt.optim, _OPTIMIZERS[self.optimizer])(parameters, lr=self.lr)

    def _gradients(
        self, parts: list[Any], penalties: list[tuple[Any, Any, float]], scale: Any = None
    ) -> Any:
        """The loss of rows, without its penalty, once all gradients are there, times `scale`."""
        X, y, weights = parts
        loss = self._loss(self.module_(X), y, weights)
        loss.backward(scale)
        for parameter, values, factor in penalties:
            parameter.grad.add_(values, alpha=factor)
        return loss.detach()

    def _search(
        self, trained: list[Any], parts: list[Any], penalties: list[tuple[Any, Any, float]],
        total: float, limit: int,
    ) -> None:  # fmt: skip
        """L-BFGS over all rows, until the largest entry of the gradient is at most `tol`.

        It minimizes the sum of the losses: those of a mean are soon too small for its history.
        """
        optimizer = nt.optim.LBFGS(
            trained,
            max_iter=limit,
            max_eval=20 * limit,
            tolerance_grad=self.tol * total,
            tolerance_change=float(np.finfo(np.float64).eps) * total,
            history_size=10,
            line_search_fn="strong_wolfe",
        )
        penalties = [(p, values, factor * total) for p, values, factor in penalties]
        squares = [(values.view(-1), factor) for _, values, factor in penalties]
        scale = nt.tensor(total, dtype=trained[0].dtype, device=self.device)
        losses = []

        def closure() -> float:
            optimizer.zero_grad()
            loss = total * float(self._gradients(parts, penalties, scale))
            for flat, factor in squares:
                loss += factor / 2 * float(flat @ flat)
            losses.append(loss)
            return loss

        optimizer.step(closure)
        self.n_iter_ = max(int(next(iter(optimizer.state.values()))["n_iter"]), 1)
        self._record({"epoch": self.n_iter_, "loss": losses[-1] / total})
        largest = max(float(p.grad.abs().max()) for p in trained) / total
        if self.n_iter_ >= limit and largest > self.tol:
            warnings.warn(
                f"{type(self).__name__}: not converged after {limit} iterations (largest gradient "
                f"{largest:.1e}, tol {self.tol:g}); scale the features or raise max_iter",
                ConvergenceWarning,
                stacklevel=4,
            )

    def _go_through(
        self, optimizer: Any, parts: list[Any], penalties: list[tuple[Any, Any, float]], epochs: int
    ) -> None:
        """Epochs of mini-batches; ends early where the loss that is watched falls no further."""
        held_back = None
        if self.early_stopping and epochs > 1:
            parts, held_back = self._hold_back(parts)
        rows = len(parts[0])
        size = min(self.batch_size, rows)

        def step(*batch: Any) -> Any:
            optimizer.zero_grad()
            loss = self._gradients([*batch, None][:3], penalties)
            optimizer.step()
            return loss

        best, waited, kept = math.inf, 0, None
        for _ in range(epochs):
            order = nt.randperm(rows, device=self.device)
            total = 0.0
            for first in range(0, rows, size):
                batch = order[first : first + size]
                taken = [part[batch] for part in parts if part is not None]
                total += float(step(*taken)) * len(batch)
            self.n_iter_ += 1
            record = {"epoch": self.n_iter_, "loss": total / rows}
            watched = record["loss"]
            if held_back is not None:
                watched = record["validation_loss"] = self._measure(held_back)
            if not math.isfinite(record["loss"]):
                raise ValueError(
                    f"{type(self).__name__}: the loss is {record['loss']} in epoch {self.n_iter_}; "
                    "lower lr, or scale the features"
                )
            ends = self._record(record)
            waited = 0 if watched < best - self.tol else waited + 1
            if watched < best:
                best = watched
                kept = copy.deepcopy(self.module_.state_dict()) if held_back is not None else None
            if ends or waited >= self.n_iter_no_change:
                break
        if kept is not None:
            self.module_.load_state_dict(kept)

    def _hold_back(self, parts: list[Any]) -> tuple[list[Any], list[Any]]:
        """The rows to train on and those to watch, `validation_fraction` of them."""
        train, held_back = train_test_split(
            np.arange(len(parts[0])),
            test_size=self.validation_fraction,
            random_state=self._random.randint(2**31),
            stratify=self._strata(parts[1]),
        )
        picks = (nt.from_numpy(np.sort(part)).to(self.device) for part in (train, held_back))
        first, second = ([None if p is None else p[pick] for p in parts] for pick in picks)
        return first, second

    def _strata(self, y: Any) -> Any:
        return None

    def _measure(self, parts: list[Any]) -> float:
        self.module_.eval()
        with nt.no_grad():
            X, y, weights = parts
            loss = float(self._loss(self.module_(X), y, weights))
        self.module_.train()
        return loss

    def _record(self, record: dict[str, float]) -> bool:
        """Tell the callbacks of an epoch; True where one of them wants training to end."""
        self.history_.append(record)
        answers = [callback(self, record) for callback in self.callbacks or ()]
        return any(answers)

    # Rows out

    def _predict(self, X: Any) -> Any:
        """The module's output for rows X, as an array."""
        check_is_fitted(self, "module_")
        X = validate_data(self, X, reset=False, dtype=[np.float64, np.float32])
        dtype = next(self.module_.parameters()).dtype
        self.module_.eval()
        with nt.no_grad():
            return self.module_(self._tensor(X).to(dtype)).cpu().numpy()


class _Classifier(ClassifierMixin, _Estimator):
    """Classes out of logits: one column for two classes, or a column per class."""

    def _targets(self, y: Any, anew: bool) -> Any:
        check_classification_targets(y)
        if anew and not getattr(self, "_classes_are_told", False):
            self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__}: needs two classes or more, y has one class: "
                f"{self.classes_[0]}"
            )
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(
                f"{type(self).__name__}: y has the class {unknown[0]!r}, "
                f"which is none of the first call's: {self.classes_}"
            )
        return np.searchsorted(self.classes_, y)

    def _class_weights(self, y: Any) -> Any:
        if self.class_weight is None:
            return None
        chosen = self.class_weight
        if isinstance(chosen, Mapping):
            return np.asarray([chosen.get(name, 1.0) for name in self.classes_.tolist()])[y]
        present = np.unique(y)
        weights = np.ones(len(self.classes_))
        weights[present] = compute_class_weight(chosen, classes=present, y=y)
        return weights[y]

    def _outputs(self) -> int:
        return len(self.classes_)

    def _loss(self, z: Any, y: Any, weights: Any) -> Any:
        classes = len(self.classes_)
        if z.ndim != 2 or z.shape[1] not in ((1, 2) if classes == 2 else (classes,)):
            raise ValueError(
                f"{type(self).__name__}: for {classes} classes the module must give logits of "
                f"shape (rows, {classes}), got {tuple(z.shape)}"
            )
        if z.shape[1] == 1:
            target = y if y.ndim == 2 else y.to(z.dtype).unsqueeze(1)
            if weights is None:
                return F.binary_cross_entropy_with_logits(z, target)
            return F.binary_cross_entropy_with_logits(z, target, weight=weights.unsqueeze(1))
        if weights is None:
            return F.cross_entropy(z, y)
        return (F.cross_entropy(z, y, reduction="none") * weights).mean()

    def _strata(self, y: Any) -> Any:
        """The classes to hold back in their shares, unless there are too few rows for that."""
        y = y.cpu().numpy().ravel().astype(int)
        counts = np.bincount(y)
        held_back = math.ceil(self.validation_fraction * len(y))
        return y if counts[counts > 0].min() > 1 and held_back >= len(counts) else None

    def decision_function(self, X: Any) -> Any:
        """Logits: (rows,) for two classes, (rows, classes) for more."""
        z = self._predict(X)
        if len(self.classes_) > 2:
            return z
        return z[:, 0] if z.shape[1] == 1 else z[:, 1] - z[:, 0]

    def predict(self, X: Any) -> Any:
        """The most probable class of each row."""
        z = self.decision_function(X)
        return self.classes_[(z > 0).astype(int) if z.ndim == 1 else z.argmax(axis=1)]

    def predict_log_proba(self, X: Any) -> Any:
        """Logarithms of the classes' probabilities, (rows, classes)."""
        z = self.decision_function(X)
        if z.ndim == 1:
            z = np.stack([np.zeros_like(z), z], axis=1)
        return F.log_softmax(nt.from_numpy(z), 1).numpy()

    def predict_proba(self, X: Any) -> Any:
        """The classes' probabilities, (rows, classes)."""
        return np.exp(self.predict_log_proba(X))

    @available_if(_in_batches)
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Any:
        """One more epoch, over these rows; `classes` names all that will come, at the first call.

        Not there with the optimizer "lbfgs", which needs all rows at once.
        """
        if not hasattr(self, "module_"):
            self._classes_are_told = classes is not None
            if classes is not None:
                self.classes_ = np.unique(classes)
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"{type(self).__name__}: classes {classes} are not those of the first call: "
                f"{self.classes_}"
            )
        try:
            return self._partial_fit(X, y, sample_weight)
        finally:
            self._classes_are_told = False


class _Regressor(RegressorMixin, _Estimator):
    """Numbers: one per row, or a column for each target."""

    _checks: ClassVar = {"multi_output": True, "y_numeric": True}

    def _targets(self, y: Any, anew: bool) -> Any:
        if anew:
            self._targets_shape = y.shape[1:]
        elif y.shape[1:] != self._targets_shape:
            raise ValueError(
                f"{type(self).__name__}: y has the shape {y.shape}; the first call's rows had "
                f"{self._targets_shape or 'one number'} each"
            )
        return y.reshape(len(y), -1).astype(np.float64)

    def _outputs(self) -> int:
        return math.prod(self._targets_shape)

    def _loss(self, z: Any, y: Any, weights: Any) -> Any:
        if z.shape != y.shape:
            raise ValueError(
                f"{type(self).__name__}: the module must give one number per row and target, "
                f"{tuple(y.shape)}, got {tuple(z.shape)}"
            )
        y = y.to(z.dtype)
        if weights is None:
            return F.mse_loss(z, y)
        return (F.mse_loss(z, y, reduction="none") * weights.unsqueeze(1)).mean()

    def predict(self, X: Any) -> Any:
        """The numbers of each row: (rows,), or (rows, targets) as y was."""
        z = self._predict(X)
        return z.reshape(len(z), *self._targets_shape)

    @available_if(_in_batches)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """One more epoch, over these rows. Not there with the optimizer "lbfgs"."""
        return self._partial_fit(X, y, sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class _ZeroLinear(nt.nn.Linear):
    """A linear layer whose weights are zeros at first."""

    def reset_parameters(self) -> None:
        for parameter in self.parameters():
            nt.nn.init.zeros_(parameter)


class _LinearModel(_Estimator):
    """One linear layer that starts from zeros."""

    def _module(self, inputs: int, outputs: int) -> nt.nn.Module:
        return _ZeroLinear(inputs, outputs, bias=self.fit_intercept)

    @property
    def intercept_(self) -> Any:
        """The bias of each output, zeros without one."""
        if self.module_.bias is None:
            return np.zeros(self.module_.out_features)
        return self.module_.bias.detach().cpu().numpy()


class LogisticClassifier(_Classifier, _LinearModel):
    """Logistic regression: one linear layer, for several classes with a softmax.

    Minimizes C · Σ loss + ½ ‖coef‖², as scikit-learn's LogisticRegression does, and finds the same
    coefficients.

    - `C`: the inverse of the penalty's strength; infinity for none
    - `class_weight`: None, "balanced", or a weight by class
    - `optimizer`: "lbfgs" over all rows, a name of `nanotorch.optim` in small letters, or a
      function of the parameters; `lr` and `batch_size` (rows) are for those in mini-batches
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
    >>> X, y = load_iris(return_X_y=True)
    >>> bool(LogisticClassifier().fit(X, y).score(X, y) > 0.96)
    True
    """

    def __init__(
        self, C: float = 1.0, *, fit_intercept: bool = True, class_weight: Any = None,
        optimizer: Any = "lbfgs", lr: float = 0.01, batch_size: int = 200, max_iter: int = 100,
        tol: float = 1e-4, early_stopping: bool = False, validation_fraction: float = 0.1,
        n_iter_no_change: int = 5, start: Mapping[str, Any] | None = None,
        freeze: Iterable[str] = (), callbacks: Iterable[Callback] | None = None,
        device: str = "cpu", warm_start: bool = False, random_state: Any = None,
    ) -> None:  # fmt: skip
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.optimizer = optimizer
        self.lr = lr
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.start = start
        self.freeze = freeze
        self.callbacks = callbacks
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state

    def _outputs(self) -> int:
        return 1 if len(self.classes_) == 2 else len(self.classes_)

    def _penalties(self, total: float) -> list[tuple[Any, float]]:
        return [(self.module_.weight, 1 / (self.C * total))] if math.isfinite(self.C) else []

    def _train(self, X: Any, y: Any, *rest: Any) -> None:
        if self._outputs() == 1:  # as the loss compares it, once for all steps
            y = y[:, None].astype(X.dtype)
        super()._train(X, y, *rest)

    @property
    def coef_(self) -> Any:
        """The weights: (1, features) for two classes, (classes, features) for more."""
        return self.module_.weight.detach().cpu().numpy()


class LinearRegressor(_Regressor, _LinearModel):
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
        start: Mapping[str, Any] | None = None, freeze: Iterable[str] = (),
        callbacks: Iterable[Callback] | None = None, device: str = "cpu",
        warm_start: bool = False, random_state: Any = None,
    ) -> None:  # fmt: skip
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.optimizer = optimizer
        self.lr = lr
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.start = start
        self.freeze = freeze
        self.callbacks = callbacks
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state

    def _penalties(self, total: float) -> list[tuple[Any, float]]:
        return [(self.module_.weight, 2 * self.alpha / (total * self._outputs()))]

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


class _Neural(_Estimator):
    """Any Module: a copy of one, what a function makes of (inputs, outputs), or an MLP."""

    def _module(self, inputs: int, outputs: int) -> nt.nn.Module:
        if isinstance(self.module, nt.nn.Module):
            return copy.deepcopy(self.module)
        if self.module is not None:
            made: nt.nn.Module = self.module(inputs, outputs)
            return made
        layers: list[nt.nn.Module] = []
        for width in self.hidden:
            layers += [nt.nn.Linear(inputs, width), nt.nn.ReLU()]
            inputs = width
        return nt.nn.Sequential(*layers, nt.nn.Linear(inputs, outputs))

    def _penalties(self, total: float) -> list[tuple[Any, float]]:
        if not self.alpha:
            return []
        return [(p, self.alpha) for p in self.module_.parameters() if p.ndim > 1]


class NeuralClassifier(_Classifier, _Neural):
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
        start: Mapping[str, Any] | None = None, freeze: Iterable[str] = (),
        callbacks: Iterable[Callback] | None = None, device: str = "cpu",
        warm_start: bool = False, random_state: Any = None,
    ) -> None:  # fmt: skip
        self.module = module
        self.hidden = hidden
        self.class_weight = class_weight
        self.alpha = alpha
        self.optimizer = optimizer
        self.lr = lr
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.start = start
        self.freeze = freeze
        self.callbacks = callbacks
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state


class NeuralRegressor(_Regressor, _Neural):
    """A neural network that gives one number per target, trained on the mean squared error.

    The parameters are those of `NeuralClassifier`, without `class_weight`.
    """

    def __init__(
        self, module: Any = None, *, hidden: Iterable[int] = (100,), alpha: float = 0.0,
        optimizer: Any = "adam", lr: float = 0.001, batch_size: int = 200, max_iter: int = 200,
        tol: float = 1e-4, early_stopping: bool = False, validation_fraction: float = 0.1,
        n_iter_no_change: int = 10, start: Mapping[str, Any] | None = None,
        freeze: Iterable[str] = (), callbacks: Iterable[Callback] | None = None,
        device: str = "cpu", warm_start: bool = False, random_state: Any = None,
    ) -> None:  # fmt: skip
        self.module = module
        self.hidden = hidden
        self.alpha = alpha
        self.optimizer = optimizer
        self.lr = lr
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.tol = tol
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.start = start
        self.freeze = freeze
        self.callbacks = callbacks
        self.device = device
        self.warm_start = warm_start
        self.random_state = random_state
