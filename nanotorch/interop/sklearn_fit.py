"""What all estimators of scikit-learn share here: rows in, training, and rows out.

`nanotorch.interop.sklearn` has the estimators themselves.
"""

from __future__ import annotations

import contextlib
import copy
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from numbers import Integral, Real
from typing import Any, ClassVar

import numpy as np

import nanotorch as nt
from nanotorch.backend.loading import when_called
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


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and int(value) >= 1


def _is_size(value: Any) -> bool:
    return isinstance(value, Real) and float(value) >= 0


# What a parameter must be, in words, and whether it is.
EXPECTED: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "C": ("C > 0", lambda x: _is_size(x) and x > 0),
    "alpha": ("alpha >= 0", _is_size),
    "hidden": ("hidden widths such as (100,)", lambda x: np.iterable(x) and all(map(_is_count, x))),
    "batch_size": ("an integer batch_size >= 1", _is_count),
    "max_iter": ("an integer max_iter >= 1", _is_count),
    "tol": ("tol >= 0", _is_size),
    "validation_fraction": ("0 < validation_fraction < 1", lambda x: _is_size(x) and 0 < x < 1),
    "n_iter_no_change": ("an integer n_iter_no_change >= 1", _is_count),
    "callbacks": (
        "a list of functions as callbacks",
        lambda x: x is None or (np.iterable(x) and all(map(callable, x))),
    ),
}


def in_batches(estimator: Any) -> bool:
    """Whether its optimizer goes on from batch to batch, as L-BFGS does not."""
    return bool(estimator.optimizer != "lbfgs")


def keep(estimator: Any, arguments: dict[str, Any]) -> None:
    """Set the `locals()` of an `__init__` as attributes, as scikit-learn reads parameters."""
    vars(estimator).update({name: x for name, x in arguments.items() if name != "self"})


class History(list[dict[str, float]]):
    """A record for each epoch, which a notebook shows as curves of the loss."""

    _repr_png_ = when_called("nanotorch.training.live", "history_png")


class Estimator(BaseEstimator):
    """What all estimators share: rows to tensors, the training loop, and the state of a fit."""

    # What the `__init__` of every estimator takes
    optimizer: Any
    lr: float
    batch_size: int
    max_iter: int
    tol: float
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: int
    start: Mapping[str, Any] | None
    freeze: Iterable[str] | str
    callbacks: Iterable[Callback] | None
    device: str
    warm_start: bool
    random_state: Any

    # What a fit leaves
    module_: Any  # the Module
    n_iter_: int  # iterations of L-BFGS, or epochs
    history_: History

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train on rows X, a matrix of (rows, features), and their targets y.

        float32 rows are computed in float32, all others in float64. With `warm_start` a second
        call goes on from the weights of the first. Returns the estimator.
        """
        self._check_parameters()
        anew = not (self.warm_start and hasattr(self, "module_"))
        X, y, weights = self._rows(X, y, sample_weight, anew)
        if anew:
            self._begin(X.shape[1], X.dtype)
        self._train(X, y, weights, self.max_iter)
        return self

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any) -> Any:
        """One epoch over these rows, from the weights and the optimizer's state as they are."""
        self._check_parameters()
        anew = not hasattr(self, "module_")
        X, y, weights = self._rows(X, y, sample_weight, anew)
        if anew:
            self._begin(X.shape[1], X.dtype)
        self._train(X, y, weights, 1, getattr(self, "optimizer_", None))
        return self

    def _check_parameters(self) -> None:
        """ValueError for a parameter that no fit can use."""
        for name, (words, is_right) in EXPECTED.items():
            if hasattr(self, name) and not is_right(value := getattr(self, name)):
                raise ValueError(f"{type(self).__name__}: expected {words}, got {value!r}")

    # Rows in

    def _rows(self, X: Any, y: Any, sample_weight: Any, anew: bool) -> tuple[Any, Any, Any]:
        """X, y and the weights of all rows that count (None where all weigh the same)."""
        X, y = validate_data(self, X, y, reset=anew, dtype=[np.float64, np.float32], **self._checks)
        y = self._targets(y, anew)
        weights = self._class_weights(y)
        if sample_weight is not None:
            shares = _check_sample_weight(sample_weight, X, dtype=X.dtype, ensure_non_negative=True)
            weights = shares if weights is None else weights * shares
        if weights is None:
            return X, y, None
        if weights.min() < 0:
            raise ValueError(f"{type(self).__name__}: expected class weights >= 0")
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
        with self._seeded():
            module = self._module(inputs, self._outputs())
        module = module.to(device=self.device, dtype=getattr(nt, str(dtype)))
        if self.start is not None:
            start = {name: nt.as_tensor(np.asarray(array)) for name, array in self.start.items()}
            state = module.state_dict()
            for name, array in start.items():
                if name not in state or state[name].shape != array.shape:
                    there = ", ".join(f"{name} {tuple(p.shape)}" for name, p in state.items())
                    raise ValueError(
                        f"{type(self).__name__}: start has {name!r} of shape "
                        f"{tuple(array.shape)}; the module has {there}"
                    )
            module.load_state_dict({**state, **start})
        for pattern in [self.freeze] if isinstance(self.freeze, str) else self.freeze:
            parameters = dict(module.named_parameters())
            frozen = [p for name, p in parameters.items() if fnmatchcase(name, pattern)]
            if not frozen:
                raise ValueError(
                    f"{type(self).__name__}: freeze {pattern!r} fits no parameter; "
                    f"there are: {', '.join(parameters)}"
                )
            for parameter in frozen:
                parameter.requires_grad_(False)
        self.module_ = module
        self.history_ = History()
        self.n_iter_ = 0
        self.__dict__.pop("optimizer_", None)

    @contextlib.contextmanager
    def _seeded(self) -> Iterator[None]:
        """Random numbers that follow from `random_state`, and leave nanotorch's own as they are."""
        with nt.random.fork_rng():
            nt.manual_seed(self._random.randint(2**31))
            yield

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
        with self._seeded():
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
        evaluate = self._sum_of_losses(trained, parts, penalties, total)
        losses = []

        def closure() -> float:
            losses.append(evaluate())
            return losses[-1]

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

    def _sum_of_losses(
        self, trained: list[Any], parts: list[Any], penalties: list[tuple[Any, Any, float]],
        total: float,
    ) -> Callable[[], float]:  # fmt: skip
        """A function that returns the sum of losses and penalties, and leaves its gradients."""
        scale = nt.tensor(total, dtype=trained[0].dtype, device=self.device)

        def evaluate() -> float:
            for parameter in trained:
                parameter.grad = None
            loss = total * float(self._gradients(parts, penalties, scale))
            return loss + sum(
                factor / 2 * float(values.square().sum()) for _, values, factor in penalties
            )

        return evaluate

    def _go_through(
        self, optimizer: Any, parts: list[Any], penalties: list[tuple[Any, Any, float]], epochs: int
    ) -> None:
        """Epochs of mini-batches; ends early where the loss that is watched falls no further."""
        validation = None
        if self.early_stopping and epochs > 1:
            parts, validation = self._hold_back(parts)
        rows = len(parts[0])
        size = min(self.batch_size, rows)

        def step(*batch: Any) -> Any:
            optimizer.zero_grad()
            loss = self._gradients([*batch, None][:3], penalties)
            optimizer.step()
            return loss

        best, epochs_since, best_state = math.inf, 0, None
        for _ in range(epochs):
            order = nt.randperm(rows, device=self.device)
            total = 0.0
            for first in range(0, rows, size):
                batch = order[first : first + size]
                rows_of_batch = [part[batch] for part in parts if part is not None]
                total += float(step(*rows_of_batch)) * len(batch)
            self.n_iter_ += 1
            record = {"epoch": self.n_iter_, "loss": total / rows}
            watched = record["loss"]
            if validation is not None:
                watched = record["validation_loss"] = self._measure(validation)
            if not math.isfinite(record["loss"]):
                raise ValueError(
                    f"{type(self).__name__}: the loss is {record['loss']} in epoch {self.n_iter_}; "
                    "lower lr, or scale the features"
                )
            ends = self._record(record)
            epochs_since = 0 if watched < best - self.tol else epochs_since + 1
            if watched < best:
                best = watched
                best_state = (
                    copy.deepcopy(self.module_.state_dict()) if validation is not None else None
                )
            if ends or epochs_since >= self.n_iter_no_change:
                break
        if best_state is not None:
            self.module_.load_state_dict(best_state)

    def _hold_back(self, parts: list[Any]) -> tuple[list[Any], list[Any]]:
        """The rows to train on and those to watch, `validation_fraction` of them."""
        train, validation = train_test_split(
            np.arange(len(parts[0])),
            test_size=self.validation_fraction,
            random_state=self._random.randint(2**31),
            stratify=self._strata(parts[1]),
        )
        picks = (nt.from_numpy(np.sort(part)).to(self.device) for part in (train, validation))
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


class Classifier(ClassifierMixin, Estimator):
    """Classes out of logits: one column for two classes, or a column per class."""

    def _targets(self, y: Any, anew: bool) -> Any:
        plain = y.dtype.kind in "biuUS"  # which no check need find out to be classes
        if not plain:
            check_classification_targets(y)
        finds_classes = anew and not getattr(self, "_classes_are_named", False)
        if finds_classes:
            self.classes_, numbers = np.unique(y, return_inverse=True)
            if plain and 2 * len(self.classes_) > len(y):
                check_classification_targets(y)  # which warns that these may be amounts
            y = numbers
        if len(self.classes_) < 2:
            raise ValueError(
                f"{type(self).__name__}: needs two classes or more, y has one class: "
                f"{self.classes_[0]}"
            )
        if finds_classes:
            return y
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
            target = y.to(z.dtype).unsqueeze(1)
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
        validation = math.ceil(self.validation_fraction * len(y))
        return y if counts[counts > 0].min() > 1 and validation >= len(counts) else None

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

    @available_if(in_batches)
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Any:
        """One more epoch, over these rows; `classes` names all that will come, at the first call.

        Not there with the optimizer "lbfgs", which needs all rows at once.
        """
        if not hasattr(self, "module_"):
            self._classes_are_named = classes is not None
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
            self._classes_are_named = False


class Regressor(RegressorMixin, Estimator):
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

    @available_if(in_batches)
    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """One more epoch, over these rows. Not there with the optimizer "lbfgs"."""
        return self._partial_fit(X, y, sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags
