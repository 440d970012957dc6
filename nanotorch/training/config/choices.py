"""The sections of a configuration that are chosen by name: model, optimizer, schedule."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Betas = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


class Section(BaseModel):
    """A table of the configuration: unknown keys, wrong types, NaN and infinity are refused."""

    model_config = ConfigDict(
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        frozen=True,
        protected_namespaces=(),
        defer_build=True,  # once for the whole configuration, at its first use
    )


# --- model -------------------------------------------------------------------------------------


class ModelStart(Section):
    """What every model shares: where its weights start and which of them are trained."""

    start: str | None = Field(
        default=None, description="start from the weights of this run folder or .safetensors file"
    )
    start_skip: list[str] = Field(
        default=[], description="patterns of parameter names that keep fresh weights all the same"
    )
    freeze: list[str] = Field(
        default=[], description="patterns of parameter names that are not trained"
    )
    unfreeze_at: dict[str, Natural] = Field(
        default={},
        description="after how many epochs frozen patterns are trained after all",
    )


class Logistic(ModelStart):
    """One linear layer; sigmoid or softmax by the target."""

    name: Literal["logistic"] = "logistic"
    bias: bool = Field(default=True, description="train an intercept as well")


class LinearRegression(ModelStart):
    """One linear layer for targets that are numbers, trained on the squared error."""

    name: Literal["linear"] = "linear"
    bias: bool = Field(default=True, description="train an intercept as well")


class MultilayerPerceptron(ModelStart):
    """Linear layers with an activation between them."""

    name: Literal["mlp"] = "mlp"
    hidden: list[Count] = Field(default=[64], description="width of each hidden layer")
    activation: Literal["relu", "tanh", "sigmoid"] = Field(
        default="relu", description="function between the layers"
    )
    embedding: Count = Field(
        default=8, description="numbers that stand for a value of a hashed column (data.hash)"
    )
    dropout: Fraction = Field(
        default=0.0, description="share of hidden values set to zero in training"
    )
    bias: bool = Field(default=True, description="train intercepts as well")


class OwnModule(ModelStart):
    """A module of your own, called as Class(inputs, outputs, **arguments)."""

    name: Literal["module"] = "module"
    module: str = Field(description='where it is: "package.module:Class"')
    arguments: dict[str, Any] = Field(
        default={}, description="further keyword arguments of the class"
    )


Model = Annotated[
    Logistic | LinearRegression | MultilayerPerceptron | OwnModule, Field(discriminator="name")
]

# --- optimizer ---------------------------------------------------------------------------------


class Group(Section):
    """Parameters that are trained with values of their own."""

    parameters: list[str] = Field(description="patterns of parameter names")
    lr: Positive | None = Field(default=None, description="learning rate of this group")
    weight_decay: NotNegative | None = Field(default=None, description="weight decay of this group")


class OptimizerStart(Section):
    """What every optimizer shares."""

    groups: list[Group] = Field(default=[], description="parameters with values of their own")


class SGD(OptimizerStart):
    """Stochastic gradient descent."""

    name: Literal["sgd"] = "sgd"
    lr: Positive = Field(default=0.1, description="learning rate")
    momentum: Fraction = Field(default=0.0, description="share of the last update that is kept")
    dampening: Share = Field(
        default=0.0, description="share of the gradient that momentum leaves out"
    )
    nesterov: bool = Field(default=False, description="look ahead along the momentum")
    weight_decay: NotNegative = Field(
        default=0.0, description="pull of every parameter towards zero"
    )


class Adam(OptimizerStart):
    """Adam; weight decay is added to the gradient."""

    name: Literal["adam"] = "adam"
    lr: Positive = Field(default=0.001, description="learning rate")
    betas: Betas = Field(
        default=[0.9, 0.999], description="decay of the running mean and of the running square"
    )
    eps: Positive = Field(default=1e-8, description="added to the denominator")
    weight_decay: NotNegative = Field(
        default=0.0, description="pull of every parameter towards zero"
    )
    amsgrad: bool = Field(default=False, description="divide by the largest running square so far")


class AdamW(Adam):
    """Adam with weight decay apart from the gradient."""

    name: Literal["adamw"] = "adamw"  # type: ignore[assignment]
    weight_decay: NotNegative = Field(
        default=0.01, description="pull of every parameter towards zero"
    )


class NAdam(OptimizerStart):
    """Adam with Nesterov's momentum."""

    name: Literal["nadam"] = "nadam"
    lr: Positive = Field(default=0.002, description="learning rate")
    betas: Betas = Field(
        default=[0.9, 0.999], description="decay of the running mean and of the running square"
    )
    eps: Positive = Field(default=1e-8, description="added to the denominator")
    momentum_decay: NotNegative = Field(
        default=0.004, description="how fast the momentum grows to its full value"
    )
    weight_decay: NotNegative = Field(
        default=0.0, description="pull of every parameter towards zero"
    )
    decoupled_weight_decay: bool = Field(
        default=False, description="keep weight decay apart from the gradient"
    )


class RAdam(OptimizerStart):
    """Adam whose rate is rectified while the running square has seen few gradients."""

    name: Literal["radam"] = "radam"
    lr: Positive = Field(default=0.001, description="learning rate")
    betas: Betas = Field(
        default=[0.9, 0.999], description="decay of the running mean and of the running square"
    )
    eps: Positive = Field(default=1e-8, description="added to the denominator")
    weight_decay: NotNegative = Field(
        default=0.0, description="pull of every parameter towards zero"
    )
    decoupled_weight_decay: bool = Field(
        default=False, description="keep weight decay apart from the gradient"
    )


class Adamax(OptimizerStart):
    """Adam with the largest gradient in place of the running square."""

    name: Literal["adamax"] = "adamax"
    lr: Positive = Field(default=0.002, description="learning rate")
    betas: Betas = Field(
        default=[0.9, 0.999], description="decay of the running mean and of the largest gradient"
    )
    eps: Positive = Field(default=1e-8, description="added to the size of the gradient")
    weight_decay: NotNegative = Field(
        default=0.0, description="pull of every parameter towards zero"
    )


class Adadelta(OptimizerStart):
    """Gradient over the root of its running square, times that of the running square of steps."""

    name: Literal["adadelta"] = "adadelta"
    lr: Positive = Field(default=1.0, description="factor of each step")
    rho: Share = Field(default=0.9, description="decay of the running squares")
    eps: Positive = Field(default=1e-6, description="added to both running squares")
    weight_decay: NotNegative = Field(
        default=0.0, description="pull of every parameter towards zero"
    )


class RMSprop(OptimizerStart):
    """Gradient over the root of its running square."""

    name: Literal["rmsprop"] = "rmsprop"
    lr: Positive = Field(default=0.01, description="learning rate")
    alpha: Fraction = Field(default=0.99, description="decay of the running square")
    eps: Positive = Field(default=1e-8, description="added to the denominator")
    momentum: Fraction = Field(default=0.0, description="share of the last update that is kept")
    centered: bool = Field(default=False, description="subtract the running mean before squaring")
    weight_decay: NotNegative = Field(
        default=0.0, description="pull of every parameter towards zero"
    )


class Adagrad(OptimizerStart):
    """Gradient over the root of the sum of its squares."""

    name: Literal["adagrad"] = "adagrad"
    lr: Positive = Field(default=0.1, description="learning rate")
    lr_decay: NotNegative = Field(
        default=0.0, description="decay of the learning rate with each step"
    )
    eps: Positive = Field(default=1e-10, description="added to the denominator")
    weight_decay: NotNegative = Field(
        default=0.0, description="pull of every parameter towards zero"
    )


class LBFGS(OptimizerStart):
    """Limited-memory quasi-Newton steps on the whole training part."""

    name: Literal["lbfgs"] = "lbfgs"
    lr: Positive = Field(default=1.0, description="length of the first step tried")
    max_iter: Count = Field(default=20, description="iterations in one step of the training loop")
    history_size: Count = Field(default=10, description="updates that are remembered")
    tolerance_grad: NotNegative = Field(
        default=1e-7, description="stop at this largest gradient value"
    )
    tolerance_change: NotNegative = Field(
        default=1e-9, description="stop at this change of a parameter"
    )
    line_search: Literal["strong_wolfe", "none"] = Field(
        default="strong_wolfe", description="how the length of a step is found"
    )


Optimizer = Annotated[
    SGD | Adam | AdamW | NAdam | RAdam | Adamax | Adadelta | RMSprop | Adagrad | LBFGS,
    Field(discriminator="name"),
]

# --- learning rate schedule --------------------------------------------------------------------


class ScheduleStart(Section):
    """What every schedule shares: its unit of time and the warm-up before it."""

    unit: Literal["epoch", "step"] = Field(
        default="epoch", description="what the counts below count"
    )
    warmup: Natural = Field(
        default=0, description="units in which the rate climbs linearly to its value"
    )
    warmup_start: Share = Field(default=0.1, description="factor at the first unit of the warm-up")


class Constant(ScheduleStart):
    """The learning rate stays as it is."""

    name: Literal["constant"] = "constant"


class Step(ScheduleStart):
    """Multiply by `factor` every `every` units."""

    name: Literal["step"] = "step"
    every: Count = Field(default=30, description="units between two drops")
    factor: Positive = Field(default=0.1, description="multiplier at each drop")


class MultiStep(ScheduleStart):
    """Multiply by `factor` at each of the given units."""

    name: Literal["multistep"] = "multistep"
    at: list[Count] = Field(description="units at which the rate drops")
    factor: Positive = Field(default=0.1, description="multiplier at each drop")


class Exponential(ScheduleStart):
    """Multiply by `factor` every unit."""

    name: Literal["exponential"] = "exponential"
    factor: Positive = Field(default=0.95, description="multiplier at each unit")


class Cosine(ScheduleStart):
    """Half a cosine from the learning rate down to `lowest` times it, at the end of the run."""

    name: Literal["cosine"] = "cosine"
    lowest: Share = Field(default=0.0, description="factor at the end")


class CosineRestarts(ScheduleStart):
    """Cosines that start again after `period` units, each `growth` times as long as the last."""

    name: Literal["cosine_restarts"] = "cosine_restarts"
    period: Count = Field(default=10, description="units of the first cosine")
    growth: Count = Field(default=1, description="how many times as long each next cosine is")
    lowest: Share = Field(default=0.0, description="factor at the end of each cosine")


class Linear(ScheduleStart):
    """A straight line from the learning rate to `end` times it, at the end of the run."""

    name: Literal["linear"] = "linear"
    end: Share = Field(default=0.0, description="factor at the end")


class OneCycle(ScheduleStart):
    """Up to the learning rate and down to almost nothing, both along a cosine."""

    name: Literal["one_cycle"] = "one_cycle"
    rise: Fraction = Field(default=0.3, description="share of the run in which the rate climbs")
    first: Share = Field(default=0.04, description="factor at the start")
    last: Share = Field(default=4e-6, description="factor at the end")


class Plateau(ScheduleStart):
    """Multiply by `factor` when the watched value has not improved for `patience` epochs."""

    name: Literal["plateau"] = "plateau"
    factor: Fraction = Field(default=0.1, description="multiplier at each drop")
    patience: Natural = Field(
        default=10, description="epochs without improvement that are waited for"
    )
    min_change: NotNegative = Field(
        default=1e-4, description="smallest relative change that counts"
    )
    lowest: Share = Field(default=0.0, description="factor below which the rate never goes")


Schedule = Annotated[
    Constant
    | Step
    | MultiStep
    | Exponential
    | Cosine
    | CosineRestarts
    | Linear
    | OneCycle
    | Plateau,
    Field(discriminator="name"),
]
