"""Estimators of scikit-learn over Modules: its own checks, and the same answers as its models."""

from __future__ import annotations

import pickle
import re
from typing import Any

import numpy as np
import pytest

import nanotorch as nt

pytest.importorskip("sklearn")

from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler, scale
from sklearn.utils.estimator_checks import parametrize_with_checks

import nanotorch.interop.sklearn as sklearn_models
from nanotorch.interop.sklearn import (
    LinearRegressor,
    LogisticClassifier,
    NeuralClassifier,
    NeuralRegressor,
)
from nanotorch.interop.sklearn_fit import Estimator

pytestmark = pytest.mark.ring("interop")

ESTIMATORS = [LogisticClassifier(), LinearRegressor(), NeuralRegressor(hidden=(16,))]
OTHERS = [
    LogisticClassifier(optimizer="adam"),
    NeuralClassifier(hidden=(16,)),
    NeuralRegressor(optimizer="lbfgs", hidden=(16,)),
]


@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(ESTIMATORS)
def test_passes_a_check_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@parametrize_with_checks(OTHERS)
def test_another_passes_a_check_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


SHARED = {
    "callbacks": None, "device": "cpu", "early_stopping": False, "freeze": (), "start": None,
    "random_state": None, "validation_fraction": 0.1, "warm_start": False, "batch_size": 200,
}  # fmt: skip
LINEAR = SHARED | {"fit_intercept": True, "lr": 0.01, "n_iter_no_change": 5, "optimizer": "lbfgs"}
NEURAL = SHARED | {
    "module": None, "hidden": (100,), "alpha": 0.0, "optimizer": "adam", "lr": 0.001,
    "max_iter": 200, "tol": 1e-4, "n_iter_no_change": 10,
}  # fmt: skip
DEFAULTS: list[tuple[Any, dict[str, Any]]] = [
    (LogisticClassifier, LINEAR | {"C": 1.0, "class_weight": None, "max_iter": 100, "tol": 1e-4}),
    (LinearRegressor, LINEAR | {"alpha": 0.0, "max_iter": 1000, "tol": 1e-6}),
    (NeuralClassifier, NEURAL | {"class_weight": None}),
    (NeuralRegressor, NEURAL),
]


@pytest.mark.parametrize(("kind", "defaults"), DEFAULTS)
def test_defaults(kind: Any, defaults: dict[str, Any]) -> None:
    assert kind().get_params() == defaults


@pytest.mark.parametrize("frozen", [(), ("weight",), ("bias",)])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "model",
    [
        *(LogisticClassifier(C) for C in (0.5, np.inf)),
        *(LinearRegressor(alpha) for alpha in (0.0, 2.0)),
        LogisticClassifier(fit_intercept=False),
    ],
)
@pytest.mark.parametrize("outputs", [1, 3])
def test_the_closed_form_is_the_sum_that_the_graph_gives(
    model: Any, outputs: int, weighted: bool, frozen: tuple[str, ...], monkeypatch: Any
) -> None:
    random = np.random.default_rng(0)
    X = random.standard_normal((50, 4))
    y = random.integers(0, 2 if outputs == 1 else 3, 50)
    if isinstance(model, LinearRegressor):
        y = random.standard_normal((50, outputs))
    start = {"weight": random.standard_normal((outputs, 4))}
    if not model.fit_intercept:  # nothing else would be left to train
        frozen = ()
    model = clone(model).set_params(start=start, freeze=frozen, max_iter=1)
    weights = random.uniform(0.1, 2, 50) if weighted else None
    sums: list[list[Any]] = []

    def both(self: Any, trained: Any, *rest: Any) -> None:
        for kind in (type(self), Estimator):
            loss = kind._sum_of_losses(self, trained, *rest[:-1])()
            sums.append([loss, *(p.grad.numpy().copy() for p in trained)])

    monkeypatch.setattr(sklearn_models, "BLOCK", 3 * 8 * 4)  # three rows, and two at the end
    monkeypatch.setattr(Estimator, "_search", both)
    model.fit(X, y, weights)
    closed, graph = sums
    assert len(closed) == len(graph) == 1 + len(list(model.module_.parameters())) - len(frozen)
    for ours, expected in zip(closed, graph, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [LogisticClassifier, NeuralClassifier])
def test_a_warning_names_the_callers_line(kind: Any) -> None:
    X, y = load_breast_cancer(return_X_y=True)
    with pytest.warns(ConvergenceWarning) as warnings:
        kind(optimizer="lbfgs", max_iter=1).fit(X, y)
    assert {warning.filename for warning in warnings} == {__file__}


LOADERS = {"breast_cancer": load_breast_cancer, "wine": load_wine, "digits": load_digits}


@pytest.mark.parametrize(
    "name", ["breast_cancer", "wine", pytest.param("digits", marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("options", [{}, {"C": 0.1, "fit_intercept": False}, {"C": 10.0}])
@pytest.mark.parametrize("weights", [None, "balanced", "sample_weight"])
def test_coefficients_are_those_of_logistic_regression(
    name: str, options: dict[str, Any], weights: str | None
) -> None:
    X, y = LOADERS[name](return_X_y=True)
    X = scale(X)
    each = np.random.default_rng(0).integers(0, 4, len(y)) if weights == "sample_weight" else None
    options = options | {
        "tol": 1e-10,
        "max_iter": 5000,
        "class_weight": "balanced" if weights == "balanced" else None,
    }
    ours = LogisticClassifier(**options).fit(X, y, each)
    theirs = LogisticRegression(solver="newton-cholesky", **options).fit(X, y, each)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-4)
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("targets", [1, 3])
@pytest.mark.parametrize("alpha", [0.0, 2.5])
def test_coefficients_are_those_of_ridge(targets: int, alpha: float) -> None:
    X, y = load_diabetes(return_X_y=True)
    X = scale(X)
    y = scale(y)
    if targets > 1:
        y = np.stack([y, y**2, X[:, 0]], axis=1)
    ours = LinearRegressor(alpha, tol=1e-9).fit(X, y)
    theirs = Ridge(alpha, solver="svd").fit(X, y)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, atol=1e-4)
    np.testing.assert_allclose(ours.intercept_, theirs.intercept_, atol=1e-4)
    assert ours.predict(X).shape == y.shape


def test_a_search_over_a_pipeline_of_mixed_columns() -> None:
    pandas = pytest.importorskip("pandas")
    random = np.random.default_rng(0)
    rows = 300
    frame = pandas.DataFrame(
        {
            "fare": random.lognormal(3, 1, rows),
            "age": np.where(random.random(rows) < 0.2, np.nan, random.normal(30, 12, rows)),
            "sex": random.choice(["male", "female"], rows),
            "port": random.choice(["S", "C", "Q"], rows),
        }
    )
    chance = 1 / (1 + np.exp(-2.5 * (frame["sex"] == "female") + 1.2))
    survived = np.where(random.random(rows) < chance, "yes", "no")
    columns = make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), ["fare", "age"]),
        (OneHotEncoder(), ["sex", "port"]),
    )
    search = GridSearchCV(
        make_pipeline(columns, LogisticClassifier()), {"logisticclassifier__C": [0.01, 1.0]}, cv=3
    ).fit(frame, survived)
    theirs = make_pipeline(columns, LogisticRegression())
    expected = cross_val_score(theirs, frame, survived, cv=3).mean()
    assert abs(search.cv_results_["mean_test_score"][1] - expected) < 1e-9
    assert set(search.predict(frame)) == {"yes", "no"}


def test_calibration_and_scores() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    model = make_pipeline(StandardScaler(), LogisticClassifier())
    calibrated = CalibratedClassifierCV(model, cv=3).fit(X, y)
    assert calibrated.score(X, y) > 0.97
    assert cross_val_score(model, X, y, cv=3, scoring="roc_auc").min() > 0.99


def test_feature_names_are_remembered_and_compared() -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [0.0, 1, 2, 3], "b": [1.0, 0, 1, 0]})
    model = LogisticClassifier().fit(frame, [0, 0, 1, 1])
    assert model.feature_names_in_.tolist() == ["a", "b"]
    with pytest.raises(ValueError, match="feature names"):
        model.predict(frame.rename(columns={"a": "c"}))


class Net(nt.nn.Module):
    """A module of a user's own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nt.nn.Linear(inputs, 8)
        self.norm = nt.nn.BatchNorm1d(8)
        self.last = nt.nn.Linear(8, outputs)

    def forward(self, x: nt.Tensor) -> nt.Tensor:
        return self.last(self.norm(self.first(x)).tanh())


@pytest.mark.parametrize(
    "module", [Net, Net(13, 3), lambda inputs, outputs: nt.nn.Linear(inputs, outputs)]
)
def test_any_module_is_trained(module: Any) -> None:
    X, y = load_wine(return_X_y=True)
    X = scale(X)
    model = NeuralClassifier(module, lr=0.02, max_iter=40, random_state=0).fit(X, y)
    assert model.score(X, y) > 0.95
    assert not model.module_.training
    losses = [record["loss"] for record in model.history_]
    assert losses[-1] < losses[0]
    assert model.n_iter_ == len(losses)


def test_a_module_given_is_copied() -> None:
    module = Net(13, 3)
    before = module.last.weight.detach().numpy().copy()
    X, y = load_wine(return_X_y=True)
    NeuralClassifier(module, max_iter=2).fit(scale(X), y)
    np.testing.assert_array_equal(module.last.weight.detach().numpy(), before)


def test_a_single_logit_serves_two_classes() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    X = scale(X)
    model = NeuralClassifier(nt.nn.Linear(30, 1), optimizer="lbfgs", max_iter=15)
    with pytest.warns(ConvergenceWarning, match="not converged after 15 iterations"):
        model.fit(X, y)
    assert model.decision_function(X).shape == (569,)
    assert model.predict_proba(X).shape == (569, 2)
    assert model.score(X, y) > 0.98


def test_frozen_parameters_stay_where_they_start() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    X = scale(X)
    start = {"weight": np.linspace(-1, 1, 30)[None]}
    model = LogisticClassifier(start=start, freeze=["weight"]).fit(X, y)
    np.testing.assert_array_equal(model.coef_, start["weight"])
    assert model.intercept_[0] != 0
    same = LogisticClassifier(start=start, freeze="weight").fit(X, y)
    np.testing.assert_array_equal(same.coef_, start["weight"])
    with pytest.raises(ValueError, match=r"freeze 'wait\*' fits no parameter.*weight, bias"):
        LogisticClassifier(freeze=["wait*"]).fit(X, y)


def test_everything_frozen_trains_nothing() -> None:
    X, y = load_breast_cancer(return_X_y=True)
    model = LogisticClassifier(freeze=["*"]).fit(X, y)
    assert (model.coef_ == 0).all()


def test_early_stopping_keeps_the_best_epoch() -> None:
    X, y = load_digits(return_X_y=True)
    model = NeuralClassifier(
        early_stopping=True, lr=0.05, max_iter=30, n_iter_no_change=3, random_state=1
    ).fit(X[:400], y[:400])
    watched = [record["validation_loss"] for record in model.history_]
    assert len(watched) < 30
    assert len(watched) - 1 - int(np.argmin(watched)) >= 3 - 1


def test_a_callback_sees_every_epoch_and_may_end_training() -> None:
    X, y = load_wine(return_X_y=True)
    epochs = []

    def callback(estimator: Any, record: dict[str, float]) -> bool:
        epochs.append(record["epoch"])
        return len(epochs) == 3

    NeuralClassifier(callbacks=[callback]).fit(scale(X), y)
    assert epochs == [1, 2, 3]


def test_warm_start_goes_on_and_a_plain_fit_starts_anew() -> None:
    X, y = load_wine(return_X_y=True)
    X = scale(X)
    warm = NeuralClassifier(max_iter=5, warm_start=True, random_state=0)
    assert warm.fit(X, y).n_iter_ == 5
    assert warm.fit(X, y).n_iter_ == 10
    cold = NeuralClassifier(max_iter=5, random_state=0).fit(X, y)
    assert cold.fit(X, y).n_iter_ == 5


def test_partial_fit_goes_on_with_the_optimizers_state() -> None:
    X, y = load_digits(return_X_y=True)
    model = NeuralClassifier(lr=0.01, random_state=0)
    for _ in range(5):
        for part in range(0, 1200, 300):
            model.partial_fit(X[part : part + 300], y[part : part + 300], classes=range(10))
    assert model.n_iter_ == 20
    assert model.score(X[1200:], y[1200:]) > 0.85
    assert not hasattr(LogisticClassifier(), "partial_fit")


def test_the_history_of_a_search_has_the_loss_where_it_ended() -> None:
    X, y = load_digits(return_X_y=True)
    model = LogisticClassifier(C=1e6, max_iter=30)
    with pytest.warns(ConvergenceWarning):
        model.fit(X, y)
    assert model.history_[-1]["loss"] == pytest.approx(log_loss(y, model.predict_proba(X)), rel=0.1)


def test_a_single_epoch_trains_on_all_rows() -> None:
    X, y = load_digits(return_X_y=True)
    options = {"early_stopping": True, "random_state": 0}
    model = NeuralClassifier(**options).partial_fit(X, y)  # type: ignore[arg-type]
    assert "validation_loss" not in model.history_[0]
    assert "validation_loss" in NeuralClassifier(**options, max_iter=2).fit(X, y).history_[0]  # type: ignore[arg-type]


def test_the_same_seed_gives_the_same_model_and_disturbs_no_other() -> None:
    X, y = load_wine(return_X_y=True)
    nt.manual_seed(5)
    expected = nt.rand(3).numpy()
    nt.manual_seed(5)
    models = [NeuralClassifier(max_iter=3, random_state=7).fit(X, y) for _ in range(2)]
    np.testing.assert_array_equal(nt.rand(3).numpy(), expected)
    np.testing.assert_array_equal(*(model.predict_proba(X) for model in models))


def test_a_fitted_estimator_survives_pickling_and_cloning_forgets() -> None:
    X, y = load_wine(return_X_y=True)
    model = NeuralClassifier(Net, max_iter=3).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert not hasattr(clone(model), "module_")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rows_are_computed_in_their_own_dtype(dtype: Any) -> None:
    X, y = load_wine(return_X_y=True)
    model = LogisticClassifier().fit(scale(X).astype(dtype), y)
    assert model.coef_.dtype == dtype
    assert model.predict_proba(scale(X)).dtype == dtype


MISTAKES: list[tuple[Any, str]] = [
    (lambda X, y: NeuralClassifier(nt.nn.Linear(13, 2)).fit(X, y), r"for 3 classes .* got \(178"),
    (lambda X, y: NeuralRegressor(nt.nn.Linear(13, 2)).fit(X, y), "one number per row and target"),
    (lambda X, y: NeuralClassifier(optimizer="adma").fit(X, y), "optimizer 'adma' is unknown"),
    (
        lambda X, y: NeuralRegressor(
            nt.nn.Linear(13, 1), optimizer="sgd", n_iter_no_change=99, lr=1.0
        ).fit(X, y),
        "the loss is .* lower lr",
    ),
    (lambda X, y: LogisticClassifier(class_weight={0: 0, 1: 0, 2: 0}).fit(X, y), "has weight 0"),
    (lambda X, y: LogisticClassifier().fit(X, y * 0), "two classes or more"),
    (
        lambda X, y: NeuralClassifier().partial_fit(X, y).partial_fit(X, y + 1),
        "y has the class .*3",
    ),
    (
        lambda X, y: LogisticClassifier(class_weight={0: -1}).fit(X, y),
        "expected class weights >= 0",
    ),
    (
        lambda X, y: LogisticClassifier(start={"w": np.zeros(3)}).fit(X, y),
        r"start has 'w' of shape \(3,\); the module has weight \(3, 13\), bias \(3,\)",
    ),
    (
        lambda X, y: LogisticClassifier(start={"bias": [0.0]}).fit(X, y),
        r"start has 'bias' of shape \(1,\)",
    ),
]


def test_many_classes_are_warned_of_as_scikit_learn_does() -> None:
    X, y = np.arange(60.0).reshape(30, 2), np.arange(30) // 2 * 7
    y[:10] = np.arange(10)
    for kind in (LogisticClassifier, LogisticRegression):
        with pytest.warns(UserWarning, match="unique classes is greater than 50%"):
            kind(max_iter=1000).fit(scale(X), y)


UNUSABLE: list[tuple[str, Any, str]] = [
    *(("C", value, "C > 0") for value in (0, -1.0, np.nan, "1")),
    *(("tol", value, "tol >= 0") for value in (-1e-9, None)),
    *(("max_iter", value, "an integer max_iter >= 1") for value in (0, 2.5)),
    ("batch_size", 0, "an integer batch_size >= 1"),
    ("n_iter_no_change", 0, "an integer n_iter_no_change >= 1"),
    *(("validation_fraction", value, "0 < validation_fraction < 1") for value in (0, 1, 2)),
    *(("callbacks", value, "a list of functions") for value in (print, [1])),
    *(("hidden", value, "hidden widths such as") for value in (100, (0,), (2.5,))),
    ("alpha", -1, "alpha >= 0"),
]


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(("name", "value", "words"), UNUSABLE)
def test_a_parameter_that_no_fit_can_use_is_refused(
    name: str, value: Any, words: str, method: str
) -> None:
    kind = LogisticClassifier if name == "C" else NeuralRegressor
    model = kind(optimizer="adam").set_params(**{name: value})
    message = re.escape(f"{kind.__name__}: expected {words}") + ".*, got "
    with pytest.raises(ValueError, match=message):
        getattr(model, method)([[0.0], [1.0]], [0, 1])


@pytest.mark.parametrize(("act", "words"), MISTAKES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_mistakes_are_told_in_one_line(act: Any, words: str) -> None:
    X, y = load_wine(return_X_y=True)
    with pytest.raises(ValueError, match=words):
        act(X, y)
