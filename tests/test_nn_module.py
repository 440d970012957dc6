"""Modules: what they know of their parts, how they save, load, print and call their hooks."""

from __future__ import annotations

import copy
import pickle
import weakref
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any

import pytest
from collector import without_collector

import nanotorch as nt
from nanotorch import nn


class Chain(nn.Module):
    """Calls its modules, which are named by their numbers, one after another."""

    def __init__(self, *modules: Any) -> None:
        super(type(self), self).__init__()
        for number, module in enumerate(modules):
            self.add_module(str(number), module)

    def __getitem__(self, number: int) -> Any:
        return list(self.children())[number]

    def forward(self, x: Any) -> Any:
        for module in self.children():
            x = module(x)
        return x


class Net(nn.Module):
    """A module with everything: parts out of order, a shared one, buffers, an absent bias."""

    def __init__(self, nn: Any = nn, nt: Any = nt, chain: Any = Chain) -> None:
        super(type(self), self).__init__()
        self.first = nn.Linear(3, 4)
        self.scale = nn.Parameter(nt.ones(4))
        self.register_buffer("seen", nt.zeros(1))
        self.register_buffer("scratch", nt.zeros(2), persistent=False)
        self.body = chain(nn.Linear(4, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 2))
        self.again = self.first
        self.shift = nn.Parameter(nt.zeros(2))
        self.register_parameter("nothing", None)
        self.note = "an ordinary attribute"

    def forward(self, x: Any) -> Any:
        return self.body(self.first(x) * self.scale) + self.shift


def torch_net() -> tuple[Any, Any]:
    """The same network made of PyTorch's modules."""
    torch = pytest.importorskip("torch")
    twins = [
        type(
            kind.__name__,
            (torch.nn.Module,),
            {k: v for k, v in vars(kind).items() if k != "__dict__"},
        )
        for kind in (Net, Chain)
    ]
    return torch, twins[0](torch.nn, torch, twins[1])


@pytest.mark.torch
def test_parts_are_found_in_pytorchs_order_and_shared_ones_once() -> None:
    _, theirs = torch_net()
    ours = Net()
    for walk in ("named_parameters", "named_buffers", "named_modules", "named_children"):
        for options in ({}, {"remove_duplicate": False}):
            if options and walk == "named_children":
                continue
            got = [name for name, _ in getattr(ours, walk)(**options)]
            assert got == [name for name, _ in getattr(theirs, walk)(**options)], walk
    for recurse in (True, False):
        assert len(list(ours.parameters(recurse))) == len(list(theirs.parameters(recurse)))
        assert len(list(ours.buffers(recurse))) == len(list(theirs.buffers(recurse)))
    assert [n for n, _ in ours.named_parameters(prefix="p")][:2] == ["p.scale", "p.shift"]
    assert len(list(ours.modules())) == len(list(theirs.modules()))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert list(ours.state_dict(prefix="net.")) == list(theirs.state_dict(prefix="net."))


@pytest.mark.torch
@pytest.mark.ring("layers")
def test_a_module_prints_as_pytorchs() -> None:
    torch, theirs = torch_net()
    assert repr(Net()) == repr(theirs)

    def empties(nn: Any) -> list[Any]:
        return [nn.Sequential(), nn.ModuleList(), nn.ModuleDict(), nn.ModuleList([Net()] * 0)]

    assert list(map(repr, empties(nn))) == list(map(repr, empties(torch.nn)))


def test_parts_are_ordinary_attributes() -> None:
    net = Net()
    assert vars(net)["first"] is net.first
    assert "scale" in vars(net)
    assert "__getattr__" not in dir(nn.Module)
    with pytest.raises(AttributeError, match="'Net' object has no attribute 'frist'"):
        net.frist  # noqa: B018


def test_a_part_assigned_again_keeps_its_place_and_a_deleted_one_is_gone() -> None:
    net = nn.Module()
    net.a, net.b = nn.Parameter(nt.ones(1)), nn.Parameter(nt.ones(1))
    net.a = nn.Parameter(nt.zeros(1))
    assert [name for name, _ in net.named_parameters()] == ["a", "b"]
    del net.a
    assert [name for name, _ in net.named_parameters()] == ["b"]
    net.c = nn.Linear(1, 1)
    net.c = nn.Parameter(nt.ones(1))  # a new role
    assert [name for name, _ in net.named_parameters()] == ["b", "c"]


def test_an_attribute_that_was_none_becomes_a_parameter_in_its_turn() -> None:
    net = nn.Module()
    net.late = None
    net.early = nn.Parameter(nt.ones(1))
    net.late = nn.Parameter(nt.ones(1))
    assert [name for name, _ in net.named_parameters()] == ["early", "late"]


def test_buffers_may_be_assigned_as_attributes() -> None:
    net = nn.Module()
    net.kept = nn.Buffer(nt.ones(1))
    net.lost = nn.Buffer(nt.ones(1), persistent=False)
    net.kept = nt.zeros(1)
    assert [name for name, _ in net.named_buffers()] == ["kept", "lost"]
    assert list(net.state_dict()) == ["kept"]


class Forgetful(nn.Module):
    def __init__(self) -> None:
        self.layer = nn.Linear(1, 1)


def misuse(action: str) -> None:
    net, linear = Net(), nn.Linear(2, 2, bias=False)
    actions: dict[str, Any] = {
        "tensor for a parameter": lambda: setattr(net, "scale", nt.ones(4)),
        "tensor for an absent one": lambda: setattr(linear, "bias", nt.ones(2)),
        "number for a module": lambda: setattr(net, "first", 3),
        "number for a buffer": lambda: setattr(net, "seen", 3),
        "no super init": Forgetful,
        "dot": lambda: net.register_buffer("a.b", None),
        "empty name": lambda: net.add_module("", linear),
        "no string": lambda: net.add_module(3, linear),  # type: ignore[arg-type]
        "taken name": lambda: net.register_parameter("forward", None),
        "no module": lambda: net.add_module("x", 3),  # type: ignore[arg-type]
        "no tensor": lambda: net.register_buffer("x", 3),  # type: ignore[arg-type]
        "no parameter": lambda: net.register_parameter("x", nt.ones(1)),  # type: ignore[arg-type]
        "no data": lambda: nn.Parameter([1.0]),  # type: ignore[arg-type]
        "integer parameter": lambda: nn.Parameter(nt.tensor([1])),
        "no forward": lambda: nn.Module()(),
        "train": lambda: net.train("yes"),  # type: ignore[arg-type]
        "integer dtype": lambda: net.to(nt.int64),
        "unknown submodule": lambda: net.get_submodule("body.9"),
        "not a submodule": lambda: net.get_submodule("note"),
        "not a parameter": lambda: net.get_parameter("body.1"),
        "no mapping": lambda: net.load_state_dict([1]),  # type: ignore[arg-type]
    }
    actions[action]()


@pytest.mark.parametrize(
    "action, error, message",
    [
        ("tensor for a parameter", TypeError, "parameter 'scale'.*no_grad"),
        ("tensor for an absent one", TypeError, "parameter 'bias'"),
        ("number for a module", TypeError, "'int' object to module 'first'"),
        ("number for a buffer", TypeError, "buffer 'seen'"),
        ("no super init", AttributeError, r"cannot assign module before Module.__init__\(\) call"),
        ("dot", KeyError, "contain"),
        ("empty name", KeyError, "empty string"),
        ("no string", TypeError, "should be a string, got int"),
        ("taken name", KeyError, "'forward' already exists"),
        ("no module", TypeError, "cannot assign 'int' object to module"),
        ("no tensor", TypeError, "'int' object to buffer 'x'"),
        ("no parameter", TypeError, "'Tensor' object to parameter 'x'"),
        ("no data", TypeError, "expected a Tensor, got list"),
        ("integer parameter", RuntimeError, "floating point"),
        ("no forward", NotImplementedError, "forward"),
        ("train", ValueError, "boolean"),
        ("integer dtype", TypeError, "floating point"),
        ("unknown submodule", AttributeError, "Chain has no attribute `9`"),
        ("not a submodule", AttributeError, "`note` is not an nn.Module"),
        ("not a parameter", AttributeError, "`1` is not a parameter"),
        ("no mapping", TypeError, "dict-like, got list"),
    ],
)
def test_misuse_is_refused(action: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        misuse(action)


def test_parts_are_found_by_their_paths() -> None:
    net = Net()
    assert net.get_submodule("body.1") is net.body[1]
    assert net.get_submodule("") is net
    assert net.get_parameter("body.2.bias") is net.body[2].bias
    assert net.get_buffer("seen") is net.seen


# Saving and loading


def test_state_goes_from_one_module_to_another() -> None:
    source, target = Net(), Net()
    with nt.no_grad():
        source.seen.fill_(5)
    result = target.load_state_dict(source.state_dict())
    assert repr(result) == "<All keys matched successfully>"
    assert result.missing_keys == [] and result.unexpected_keys == []
    for (name, a), (_, b) in zip(source.state_dict().items(), target.state_dict().items()):
        assert a.tolist() == b.tolist(), name
    assert target.first.weight.data_ptr() != source.first.weight.data_ptr()


def test_a_state_dict_shares_memory_and_is_detached_unless_asked_for_otherwise() -> None:
    net = Net()
    assert net.state_dict()["scale"].data_ptr() == net.scale.data_ptr()
    assert not net.state_dict()["scale"].requires_grad
    assert net.state_dict(keep_vars=True)["scale"] is net.scale


def wrong_state(module: Any, state: dict[str, Any]) -> dict[str, Any]:
    """A state with two keys missing, three too many and two of another shape."""
    state = OrderedDict(state)
    del state["first.weight"], state["shift"]
    state["x"] = module.ones(1)
    state["first.extra"] = module.ones(1)
    state["9.z"] = module.ones(1)
    state["body.2.weight"] = module.ones(2, 2)
    state["scale"] = module.ones(7)
    return state


@pytest.mark.torch
def test_a_state_that_does_not_fit_is_refused_in_pytorchs_words_all_at_once() -> None:
    torch, theirs = torch_net()
    ours = Net()
    with pytest.raises(RuntimeError) as wanted:
        theirs.load_state_dict(wrong_state(torch, theirs.state_dict()))
    with pytest.raises(RuntimeError) as got:
        ours.load_state_dict(wrong_state(nt, ours.state_dict()))
    assert str(got.value) == str(wanted.value)

    state = {"first.bias": theirs.first.bias, "x": torch.ones(1)}
    expected = theirs.load_state_dict(state, strict=False)
    result = ours.load_state_dict({"first.bias": ours.first.bias, "x": nt.ones(1)}, strict=False)
    assert tuple(result) == tuple(expected)
    assert repr(result) == repr(expected)


def test_a_value_that_is_no_tensor_is_named() -> None:
    with pytest.raises(RuntimeError, match=r'parameter named "scale"'):
        Net().load_state_dict({"scale": 3.0}, strict=False)


def test_loading_casts_to_the_modules_dtype_and_assign_takes_the_tensor_itself() -> None:
    linear = nn.Linear(1, 1)
    state = {"weight": nt.ones(1, 1, dtype=nt.float64), "bias": nt.ones(1, dtype=nt.float64)}
    weight = linear.weight
    linear.load_state_dict(state)
    assert linear.weight is weight and weight.dtype is nt.float32 and weight.item() == 1.0
    linear.load_state_dict(state, assign=True)
    assert linear.weight.data_ptr() == state["weight"].data_ptr()
    assert isinstance(linear.weight, nn.Parameter) and linear.weight.dtype is nt.float64


SURGERIES: dict[str, Callable[[Any, Any], Any]] = {
    "a module": lambda t, m: m._modules.__setitem__("1", t.nn.Tanh()),
    "a new module": lambda t, m: m._modules.update(last=t.nn.Linear(3, 1)),
    "a module popped": lambda t, m: m._modules.pop("0"),
    "a module deleted": lambda t, m: m._modules.__delitem__("1"),
    "all modules": lambda t, m: m._modules.clear(),
    "a parameter": lambda t, m: m[0]._parameters.__setitem__("weight", t.nn.Parameter(t.ones(1))),
    "no parameter": lambda t, m: m[0]._parameters.__setitem__("bias", None),
    "a buffer": lambda t, m: m[2]._buffers.setdefault("extra", t.ones(2)),
    "a buffer read": lambda t, m: (m[2]._buffers["running_mean"].add_(1), m[2]._buffers.get("no")),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", SURGERIES)
def test_what_is_written_to_the_parts_of_a_module_is_written_to_it(name: str) -> None:
    torch = pytest.importorskip("torch")
    reports = []
    for t in (nt, torch):
        model = t.nn.Sequential(t.nn.Linear(2, 3), t.nn.ReLU(), t.nn.BatchNorm1d(3))
        result = repr(SURGERIES[name](t, model))
        state = {k: tuple(v.shape) for k, v in model.state_dict().items()}
        reports.append((result, repr(model), state, [n for n, _ in model.named_parameters()]))
    assert reports[0] == reports[1]


@pytest.mark.torch
def test_a_module_may_have_its_own_way_to_load() -> None:
    torch = pytest.importorskip("torch")

    def renaming(t: Any) -> Any:
        class Renaming(t.nn.Linear):  # type: ignore[misc]
            def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
                state[f"{prefix}weight"] = state.pop(f"{prefix}w")
                super()._load_from_state_dict(state, prefix, *rest)
                if f"{prefix}scale" in state:
                    rest[-1].append(f"{prefix}scale is none of ours")

        return t.nn.Sequential(Renaming(1, 1), t.nn.Tanh())

    for t in (nt, torch):
        model, state = renaming(t), {"0.w": t.ones(1, 1), "0.bias": t.zeros(1)}
        assert repr(model.load_state_dict(state)) == "<All keys matched successfully>"
        assert list(state) == ["0.w", "0.bias"] and model[0].weight.item() == 1
        with pytest.raises(RuntimeError, match=r"0\.scale is none of ours"):
            model.load_state_dict({**state, "0.scale": t.ones(1)}, strict=False)


def test_extra_state_is_saved_with_the_rest() -> None:
    class Counting(nn.Module):
        count = 0

        def get_extra_state(self) -> int:
            return self.count

        def set_extra_state(self, state: int) -> None:
            self.count = state

    source, target = Chain(Counting()), Chain(Counting())
    source[0].count = 7
    assert source.state_dict() == {"0._extra_state": 7}
    target.load_state_dict(source.state_dict())
    assert target[0].count == 7
    with pytest.raises(RuntimeError, match=r'Missing key.*"0\._extra_state"'):
        target.load_state_dict({})


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_is_independent_and_keeps_what_is_shared(duplicate: Any) -> None:
    net = Net()
    twin = duplicate(net)
    assert twin.again is twin.first
    assert twin.first.weight.tolist() == net.first.weight.tolist()
    with nt.no_grad():
        twin.first.weight.fill_(0)
    assert net.first.weight.abs().sum().item() > 0
    assert isinstance(twin.scale, nn.Parameter) and twin.scale.requires_grad
    assert list(twin.state_dict()) == list(net.state_dict())


# Modes and moves


def test_train_and_eval_reach_every_module() -> None:
    net = Net()
    assert all(not module.training for module in net.eval().modules())
    assert all(module.training for module in net.train().modules())


@pytest.mark.ring("layers")
def test_moves_change_parameters_in_place_with_their_gradients() -> None:
    net = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    weight = net[0].weight
    net(nt.randn(4, 2)).sum().backward()
    net.double()
    assert net[0].weight is weight and weight.dtype is nt.float64
    assert weight.grad.dtype is nt.float64
    assert net[1].running_mean.dtype is nt.float64
    assert net[1].num_batches_tracked.dtype is nt.int64  # integers stay
    assert net.to("cpu", nt.float32)[0].weight.dtype is nt.float32
    assert net.to(nt.zeros(1, dtype=nt.float64))[0].weight.dtype is nt.float64
    assert net.half()[0].weight.dtype is nt.float16
    assert net.float()[0].weight.dtype is nt.float32
    assert net.cpu()[0].weight.device.type == "cpu"
    assert net.type(nt.float64)[1].num_batches_tracked.dtype is nt.float64
    with pytest.raises(TypeError, match="got float"):
        net.to(3.5)


def test_freezing_and_clearing_gradients() -> None:
    net = Net()
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    net.requires_grad_()
    net(nt.ones(2, 3)).sum().backward()
    net.zero_grad(set_to_none=False)
    assert net.shift.grad.tolist() == [0.0, 0.0]
    net.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def test_apply_visits_children_first() -> None:
    order: list[str] = []
    Chain(nn.Linear(1, 1), Chain(nn.Module())).apply(
        lambda module: order.append(type(module).__name__)
    )
    assert order == ["Linear", "Module", "Chain", "Chain"]


def test_a_module_is_freed_without_the_garbage_collector() -> None:
    with without_collector():
        net = Net()
        net(nt.ones(1, 3)).sum().backward()
        gone = weakref.ref(net)
        del net
        assert gone() is None


# Parameters


def test_a_parameter_is_a_tensor_that_prints_its_kind_and_makes_plain_tensors() -> None:
    parameter = nn.Parameter(nt.ones(2))
    assert parameter.requires_grad and parameter.is_leaf
    assert type(parameter * 2) is nt.Tensor
    assert type(parameter.detach()) is nt.Tensor
    assert repr(parameter) == "Parameter containing:\ntensor([1., 1.], requires_grad=True)"
    assert not nn.Parameter(nt.ones(1), requires_grad=False).requires_grad
    assert nn.Parameter().shape == (0,)


def test_a_parameter_shares_memory_with_its_data_and_stands_outside_its_graph() -> None:
    data = nt.ones(2, requires_grad=True) * 3
    parameter = nn.Parameter(data)
    assert parameter.is_leaf and parameter.data_ptr() == data.data_ptr()


# Hooks


def hooks_seen(torch: Any) -> list[Any]:
    """What the hooks see and change, on modules of one tensor and of several."""
    seen: list[Any] = []

    def listed(gradients: Any) -> list[Any]:
        return [None if g is None else g.tolist() for g in gradients]

    linear = torch.nn.Linear(2, 3)
    with torch.no_grad():
        linear.weight.fill_(0.5)
        linear.bias.fill_(0.25)
    linear.register_forward_pre_hook(lambda m, args: (args[0] * 2,))
    linear.register_forward_hook(lambda m, args, y: seen.append(("y", y.tolist())))
    linear.register_forward_hook(lambda m, args, y: y * 2)
    linear.register_full_backward_pre_hook(lambda m, gy: (gy[0] * 3,))
    linear.register_full_backward_hook(lambda m, gx, gy: seen.append((listed(gx), listed(gy))))
    x = torch.ones(1, 2).requires_grad_()
    y = linear(x)
    (y * y).sum().backward()
    seen += [y.tolist(), x.grad.tolist(), linear.weight.grad.tolist()]

    class Two(torch.nn.Module):  # type: ignore[name-defined, misc]
        def forward(self, a: Any, b: Any, c: int) -> Any:
            return a * b, a + b

    two = Two()

    def double_the_first(module: Any, gx: Any, gy: Any) -> Any:
        seen.append((listed(gx), listed(gy)))
        return (gx[0] * 2, gx[1], None)

    two.register_full_backward_hook(double_the_first)
    a, b = torch.ones(2).requires_grad_(), (torch.ones(2) * 3).requires_grad_()
    p, q = two(a, b, 5)
    (p.sum() + 2 * q.sum()).backward(retain_graph=True)
    seen.append(listed([a.grad, b.grad]))
    p.sum().backward()  # another pass, in which one output takes no part
    seen.append(listed([a.grad, b.grad]))
    a.grad = b.grad = None
    p, q = two(a, b, 5)
    (g,) = torch.autograd.grad((p * p).sum(), a, create_graph=True)
    g.sum().backward()
    seen += [g.tolist(), listed([a.grad, b.grad])]
    return seen


@pytest.mark.torch
def test_hooks_see_and_change_what_pytorchs_do() -> None:
    torch = pytest.importorskip("torch")
    assert hooks_seen(nt) == hooks_seen(torch)


def test_a_backward_hook_fires_where_no_input_requires_grad_and_may_not_replace_anything() -> None:
    linear, seen = nn.Linear(2, 1), []
    handle = linear.register_full_backward_hook(lambda m, gx, gy: seen.append((gx, gy[0].tolist())))
    linear(nt.ones(1, 2)).sum().backward()
    assert seen == [((None,), [[1.0]])]
    handle.remove()
    linear.register_full_backward_hook(lambda m, gx, gy: (nt.ones(1, 2),))
    with pytest.raises(RuntimeError, match="no input of the module requires grad"):
        linear(nt.ones(1, 2)).sum().backward()


def test_a_backward_hook_must_return_as_many_gradients_as_it_got() -> None:
    linear = nn.Linear(2, 1)
    linear.register_full_backward_hook(lambda m, gx, gy: (gx[0], gx[0]))
    with pytest.raises(RuntimeError, match="expected 1 gradients for grad_input, got 2"):
        linear(nt.ones(1, 2, requires_grad=True)).sum().backward()


def test_hooks_run_in_order_with_keywords_until_they_are_removed() -> None:
    class Named(nn.Module):
        def forward(self, x: float, scale: float = 1.0) -> float:
            return x * scale

    module, order = Named(), []
    handles = [
        module.register_forward_pre_hook(lambda m, args: order.append("second")),
        module.register_forward_pre_hook(lambda m, args: order.append("first"), prepend=True),
        module.register_forward_pre_hook(
            lambda m, args, kwargs: (args, {"scale": kwargs["scale"] + 1}), with_kwargs=True
        ),
        module.register_forward_hook(
            lambda m, args, kwargs, y: y + kwargs["scale"], with_kwargs=True
        ),
    ]
    assert module(2.0, scale=3.0) == 2 * 4 + 4
    assert order == ["first", "second"]
    for handle in handles:
        handle.remove()
        handle.remove()  # a second time does nothing
    assert module(2.0, scale=3.0) == 6.0
    with module.register_forward_hook(lambda m, args, y: -y):
        assert module(2.0) == -2.0
    assert module(2.0) == 2.0


def test_a_hook_may_be_called_even_where_forward_raises() -> None:
    class Broken(nn.Module):
        def forward(self) -> None:
            raise ZeroDivisionError

    module, seen = Broken(), []
    module.register_forward_hook(lambda m, args, y: seen.append("never"))
    module.register_forward_hook(lambda m, args, y: seen.append(y), always_call=True)
    with pytest.raises(ZeroDivisionError):
        module()
    assert seen == [None]


def test_backward_hooks_see_named_tuples_and_leave_other_outputs_alone() -> None:
    Pair = namedtuple("Pair", ["a", "b"])

    class Named(nn.Module):
        def forward(self, x: Any) -> Any:
            return Pair(x * 2, "text") if x.ndim else {"y": x * 2}

    module, seen = Named(), []
    module.register_full_backward_hook(lambda m, gx, gy: seen.append(gy[0].tolist()))
    pair = module(nt.ones(2, requires_grad=True))
    assert isinstance(pair, Pair) and pair.b == "text"
    pair.a.sum().backward()
    assert seen == [[1.0, 1.0]]
    assert set(module(nt.ones((), requires_grad=True))) == {"y"}


def test_an_attribute_hides_no_digits_from_dir() -> None:
    assert "0" not in dir(Chain(nn.Module())) and "forward" in dir(Chain())


def test_a_pre_hook_with_keywords_must_return_both() -> None:
    module = Chain()
    module.register_forward_pre_hook(lambda m, args, kwargs: args, with_kwargs=True)
    with pytest.raises(RuntimeError, match=r"\(args, kwargs\)"):
        module(1)


# Containers


@pytest.mark.torch
@pytest.mark.ring("layers")
def test_containers_hold_number_and_print_as_pytorchs() -> None:
    torch = pytest.importorskip("torch")

    def build(nn: Any, ones: Any) -> list[Any]:
        listed = nn.ModuleList([nn.Linear(1, 1), nn.Linear(1, 1), nn.ReLU()])
        listed.append(nn.Tanh())
        listed.insert(1, nn.Sigmoid())
        del listed[0]
        listed[-1] = nn.Identity()
        listed += [nn.ReLU(), nn.ReLU()]
        sequence = nn.Sequential(OrderedDict(a=nn.Linear(2, 2), b=nn.ReLU()))
        sequence.append(nn.Linear(2, 1))
        numbered = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid())
        del numbered[1]
        numbered.insert(0, nn.Identity())
        named = nn.ModuleDict({"left": nn.ReLU(), "right": nn.Tanh()})
        named.update([("middle", nn.Identity())])
        named.pop("right")
        parameters = nn.ParameterList([ones(2, 3), nn.Parameter(ones(()))])
        parameters.append(ones(1))
        return [
            listed,
            listed[1:3],
            sequence,
            sequence[:2],
            numbered,
            numbered + sequence,
            named,
            parameters,
        ]

    for ours, theirs in zip(build(nn, nt.ones), build(torch.nn, torch.ones)):
        assert repr(ours) == repr(theirs)
        assert list(ours.state_dict()) == list(theirs.state_dict())
        assert len(ours) == len(theirs)


@pytest.mark.ring("layers")
def test_a_sequential_calls_its_modules_in_order_and_is_indexed_like_a_list() -> None:
    first, second = nn.Linear(2, 3), nn.Linear(3, 1)
    model = nn.Sequential(first, nn.ReLU(), second)
    x = nt.randn(5, 2)
    assert model(x).tolist() == second(first(x).relu()).tolist()
    assert model[0] is first and model[-1] is second and list(model)[1] is model[1]
    with pytest.raises(IndexError, match="index 3 is out of range"):
        model[3]
    assert model.pop(1).__class__ is nn.ReLU and len(model) == 2
    with pytest.raises(ValueError, match="expected a Sequential to add, got list"):
        model + [first]  # noqa: RUF005


@pytest.mark.ring("layers")
def test_sequences_are_joined_repeated_and_cut() -> None:
    model = nn.Sequential(OrderedDict(a=nn.ReLU(), b=nn.Tanh(), c=nn.Sigmoid()))
    del model[1]
    assert list(dict(model.named_children())) == ["0", "1"]  # numbered anew, as by PyTorch
    model += [nn.Identity()]
    assert list(dict(model.named_children())) == ["0", "1", "2"]
    assert len(model * 2) == 6
    with pytest.raises(ValueError, match="positive number of repetitions, got 0"):
        model * 0
    listed = nn.ModuleList([nn.ReLU()]) + [nn.Tanh()]  # noqa: RUF005
    assert [type(m) for m in listed] == [nn.ReLU, nn.Tanh]
    with pytest.raises(IndexError, match="out of range: 5"):
        listed.insert(5, nn.ReLU())


@pytest.mark.ring("layers")
def test_a_list_of_parameters_holds_other_values_too_and_is_cut() -> None:
    parameters = nn.ParameterList([nt.ones(1), "text"])
    parameters += [nt.zeros(2)]
    assert [type(value).__name__ for value in parameters] == ["Parameter", "str", "Parameter"]
    assert len(parameters[1:]) == 2
    assert "(1): Object of type: str" in repr(parameters)


@pytest.mark.ring("layers")
def test_dictionaries_of_modules_and_of_parameters() -> None:
    modules = nn.ModuleDict([("a", nn.ReLU())])
    assert "a" in modules and list(modules) == ["a"] and list(modules.keys()) == ["a"]
    assert [type(m) for m in modules.values()] == [nn.ReLU]
    with pytest.raises(KeyError, match="b"):
        modules["b"]
    with pytest.raises(KeyError, match="'keys' already exists"):
        modules["keys"] = nn.ReLU()
    with pytest.raises(TypeError, match="but got int"):
        modules.update(3)  # type: ignore[arg-type]
    modules.clear()
    assert len(modules) == 0
    parameters = nn.ParameterDict({"w": nt.ones(2)})
    assert isinstance(parameters["w"], nn.Parameter)
    assert [n for n, _ in parameters.named_parameters()] == ["w"]
    assert "w" in parameters and list(parameters) == list(parameters.keys()) == ["w"]
    assert [value.tolist() for value in parameters.values()] == [[1.0, 1.0]]
    assert [key for key, _ in parameters.items()] == ["w"]
    with pytest.raises(KeyError, match="v"):
        parameters["v"]
    del parameters["w"]
    assert len(parameters) == 0


@pytest.mark.ring("layers")
def test_a_list_of_parameters_is_no_function() -> None:
    parameters = nn.ParameterList([nt.ones(1)])
    parameters[0] = nt.zeros(1)
    assert [p.item() for p in parameters] == [0.0]
    with pytest.raises(IndexError):
        parameters[1]
    with pytest.raises(RuntimeError, match="should not be called"):
        parameters()
    with pytest.raises(TypeError, match="expected an iterable"):
        parameters.extend(nt.ones(1))


@pytest.mark.torch
@pytest.mark.parametrize("register", ["register_parameter", "register_buffer"])
@pytest.mark.parametrize("name", ["", "a.b", "weight", 3, "forward"])
def test_a_wrong_name_is_refused_before_a_wrong_value(register: str, name: Any) -> None:
    torch = pytest.importorskip("torch")
    errors = []
    for t in (nt, torch):
        with pytest.raises((KeyError, TypeError)) as error:
            getattr(t.nn.Linear(2, 2), register)(name, [1.0])
        errors.append(error.type)
    assert errors[0] is errors[1]


def test_the_names_of_a_shallow_copy_are_its_own() -> None:
    layer = nn.Linear(2, 3)
    other = copy.copy(layer)
    assert other.weight is layer.weight
    del other.bias
    other.extra = nn.Linear(1, 1)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    assert [name for name, _ in other.named_parameters()] == [
        "weight", "extra.weight", "extra.bias",
    ]  # fmt: skip


@pytest.mark.torch
@pytest.mark.parametrize(
    "change",
    [
        lambda t, U: U.parametrizations.weight_norm(t.nn.ReLU()),
        lambda t, U: U.parametrizations.weight_norm(t.nn.Linear(2, 2), "forward"),
        lambda t, U: U.parametrizations.weight_norm(t.nn.Linear(2, 2, bias=False), "bias"),
        lambda t, U: U.weight_norm(t.nn.GroupNorm(1, 4), dim=1),
        lambda t, U: U.parameters_to_vector(t.nn.ReLU().parameters()),
        lambda t, U: U.rnn.pack_padded_sequence(t.ones(1, 3), [3]) and t.nn.GRU(3, 2)(
            U.rnn.pack_padded_sequence(t.ones(3, 1), [3])
        ),
        lambda t, U: t.ones(()).unflatten(0, (1, 1)),
        lambda t, U: t.ones(4).unflatten(0, ()),
        lambda t, U: t.broadcast_tensors(t.ones(2), t.ones(3)),
        lambda t, U: t.cat([]),
        lambda t, U: t.nn.functional.instance_norm(t.ones(3)),
        lambda t, U: t.nn.functional.group_norm(t.ones(2, 4), 3),
        lambda t, U: t.optim.Adam([t.ones(1, requires_grad=True)], lr="a"),
    ],
)  # fmt: skip
def test_what_does_not_fit_has_pytorchs_class_of_error(change: Any) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(Exception) as theirs:
        change(torch, torch.nn.utils)
    with pytest.raises(theirs.type):
        change(nt, nt.nn.utils)


@pytest.mark.torch
def test_a_weight_norm_is_in_its_layers_mode() -> None:
    torch = pytest.importorskip("torch")
    modes = []
    for t in (nt, torch):
        layer = t.nn.utils.parametrizations.weight_norm(t.nn.Linear(2, 2).eval())
        modes.append([module.training for module in layer.modules()])
    assert modes[0] == modes[1]


@pytest.mark.torch
@pytest.mark.parametrize("strict", [True, False])
def test_a_count_of_batches_that_a_plain_state_lacks_stays_as_it_is(strict: bool) -> None:
    torch = pytest.importorskip("torch")
    seen = []
    for t in (nt, torch):
        model = t.nn.Sequential(
            t.nn.BatchNorm1d(2), t.nn.InstanceNorm1d(2, track_running_stats=True)
        )
        model(t.ones(3, 2, 4) * t.arange(4))
        state = {k: v for k, v in model.state_dict().items() if "num" not in k}
        keys = model.load_state_dict(state, strict=strict)
        seen.append((list(keys.missing_keys), model[0].num_batches_tracked.item()))
        with pytest.raises(RuntimeError, match="running_var"):
            model.load_state_dict({k: v for k, v in state.items() if "var" not in k})
    assert seen[0] == seen[1] == ([], 1)


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:`(nanotorch|torch).nn.utils.weight_norm`")
@pytest.mark.parametrize("newer", [True, False])
def test_a_frozen_weight_is_normalized_as_by_pytorch(newer: bool) -> None:
    torch = pytest.importorskip("torch")
    seen = []
    for t in (nt, torch):
        U, layer = t.nn.utils, t.nn.Linear(2, 3).requires_grad_(False)
        (U.parametrizations if newer else U).weight_norm(layer)
        frozen = {name: p.requires_grad for name, p in layer.named_parameters()}
        if newer:
            U.parametrize.remove_parametrizations(layer, "weight")
        else:
            U.remove_weight_norm(layer)
        after = [(name, p.requires_grad) for name, p in layer.named_parameters()]
        seen.append((frozen, after, list(layer.state_dict())))
    assert seen[0] == seen[1]
