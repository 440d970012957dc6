"""Cells of tutorials of automatic differentiation, with what PyTorch 2.13 prints for each."""

from __future__ import annotations

from typing import NamedTuple


class Cell(NamedTuple):
    """A name, a program, and what it prints."""

    name: str
    program: str
    printed: str


CELLS = [
    Cell(
        "one layer and its loss",
        """
        torch.manual_seed(0)
        samples, target = torch.ones(5), torch.zeros(3)
        weight = torch.randn(5, 3, requires_grad=True)
        bias = torch.randn(3, requires_grad=True)
        score = torch.matmul(samples, weight) + bias
        loss = torch.nn.functional.binary_cross_entropy_with_logits(score, target)
        print(score.grad_fn)
        print(loss.grad_fn)
        loss.backward()
        print(weight.grad)
        print(bias.grad)
        print(samples.requires_grad)
        """,
        """
        <AddBackward0 object at 0x…>
        <BinaryCrossEntropyWithLogitsBackward0 object at 0x…>
        tensor([[0.2661, 0.1179, 0.0027],
                [0.2661, 0.1179, 0.0027],
                [0.2661, 0.1179, 0.0027],
                [0.2661, 0.1179, 0.0027],
                [0.2661, 0.1179, 0.0027]])
        tensor([0.2661, 0.1179, 0.0027])
        False
        """,
    ),
    Cell(
        "values in f-strings",
        """
        torch.manual_seed(7)
        samples, target = torch.ones(5), torch.zeros(3)
        weight = torch.randn(5, 3, requires_grad=True)
        bias = torch.randn(3, requires_grad=True)
        score = torch.matmul(samples, weight) + bias
        loss = torch.nn.functional.binary_cross_entropy_with_logits(score, target)
        print(f"samples:{samples},\\n weight:{weight},\\n bias:{bias},\\n score:{score}")
        print(f"made by {score.grad_fn}")
        print(f"and {loss.grad_fn}; loss:{loss:.4f}")
        loss.backward()
        print(weight.grad, bias.grad, sep="\\n")
        """,
        """
        samples:tensor([1., 1., 1., 1., 1.]),
         weight:tensor([[-0.1468,  0.7861,  0.9468],
                [-1.1143,  1.6908, -0.8948],
                [-0.3556,  1.2324,  0.1382],
                [-1.6822,  0.3177,  0.1328],
                [ 0.1373,  0.2405,  1.3955]], requires_grad=True),
         bias:tensor([1.3470, 2.4382, 0.2028], requires_grad=True),
         score:tensor([-1.8146,  6.7057,  1.9212], grad_fn=<AddBackward0>)
        made by <AddBackward0 object at 0x…>
        and <BinaryCrossEntropyWithLogitsBackward0 object at 0x…>; loss:2.9719
        tensor([[0.0467, 0.3329, 0.2908],
                [0.0467, 0.3329, 0.2908],
                [0.0467, 0.3329, 0.2908],
                [0.0467, 0.3329, 0.2908],
                [0.0467, 0.3329, 0.2908]])
        tensor([0.0467, 0.3329, 0.2908])
        """,
    ),
    Cell(
        "without a graph",
        """
        torch.manual_seed(1)
        samples, weight = torch.ones(5), torch.randn(5, 3, requires_grad=True)
        score = torch.matmul(samples, weight)
        print(score.requires_grad)
        with torch.no_grad():
            score = torch.matmul(samples, weight)
        print(score.requires_grad)
        print(torch.matmul(samples, weight).detach().requires_grad)
        point = torch.randn(3, requires_grad=True)
        print(point.requires_grad, (point ** 2).requires_grad)
        with torch.no_grad():
            print((point ** 2).requires_grad)
        """,
        """
        True
        False
        False
        True True
        False
        """,
    ),
    Cell(
        "products with the Jacobian of a square matrix",
        """
        base = torch.eye(5, requires_grad=True)
        squares = (base + 1).pow(2)
        for call in ("first", "second", "third"):
            squares.backward(torch.ones_like(base), retain_graph=True)
            print(call, base.grad, sep="\\n")
        print(base.grad.zero_())
        squares.backward(torch.ones_like(base), retain_graph=True)
        print(base.grad)
        """,
        """
        first
        tensor([[4., 2., 2., 2., 2.],
                [2., 4., 2., 2., 2.],
                [2., 2., 4., 2., 2.],
                [2., 2., 2., 4., 2.],
                [2., 2., 2., 2., 4.]])
        second
        tensor([[8., 4., 4., 4., 4.],
                [4., 8., 4., 4., 4.],
                [4., 4., 8., 4., 4.],
                [4., 4., 4., 8., 4.],
                [4., 4., 4., 4., 8.]])
        third
        tensor([[12.,  6.,  6.,  6.,  6.],
                [ 6., 12.,  6.,  6.,  6.],
                [ 6.,  6., 12.,  6.,  6.],
                [ 6.,  6.,  6., 12.,  6.],
                [ 6.,  6.,  6.,  6., 12.]])
        tensor([[0., 0., 0., 0., 0.],
                [0., 0., 0., 0., 0.],
                [0., 0., 0., 0., 0.],
                [0., 0., 0., 0., 0.],
                [0., 0., 0., 0., 0.]])
        tensor([[4., 2., 2., 2., 2.],
                [2., 4., 2., 2., 2.],
                [2., 2., 4., 2., 2.],
                [2., 2., 2., 4., 2.],
                [2., 2., 2., 2., 4.]])
        """,
    ),
    Cell(
        "products with the Jacobian of a transposed one",
        """
        base = torch.eye(4, 5, requires_grad=True)
        squares = (base + 1).pow(2).t()
        print(squares)
        squares.backward(torch.ones_like(squares), retain_graph=True)
        print(f"first\\n{base.grad}")
        squares.backward(torch.ones_like(squares), retain_graph=True)
        print(f"second\\n{base.grad}")
        base.grad.zero_()
        squares.backward(torch.ones_like(squares), retain_graph=True)
        print(f"after zeroing\\n{base.grad}")
        """,
        """
        tensor([[4., 1., 1., 1.],
                [1., 4., 1., 1.],
                [1., 1., 4., 1.],
                [1., 1., 1., 4.],
                [1., 1., 1., 1.]], grad_fn=<TBackward0>)
        first
        tensor([[4., 2., 2., 2., 2.],
                [2., 4., 2., 2., 2.],
                [2., 2., 4., 2., 2.],
                [2., 2., 2., 4., 2.]])
        second
        tensor([[8., 4., 4., 4., 4.],
                [4., 8., 4., 4., 4.],
                [4., 4., 8., 4., 4.],
                [4., 4., 4., 8., 4.]])
        after zeroing
        tensor([[4., 2., 2., 2., 2.],
                [2., 4., 2., 2., 2.],
                [2., 2., 4., 2., 2.],
                [2., 2., 2., 4., 2.]])
        """,
    ),
    Cell(
        "leaves and what is computed of them",
        """
        x = torch.ones(2, 2, requires_grad=True)
        print(x)
        print(x.grad_fn)
        y = x + 2
        print(y)
        print(y.grad_fn)
        print(x.is_leaf, y.is_leaf)
        z = y * y * 3
        mean = z.mean()
        print(z)
        print(mean)
        mean.backward()
        print(x.grad)
        """,
        """
        tensor([[1., 1.],
                [1., 1.]], requires_grad=True)
        None
        tensor([[3., 3.],
                [3., 3.]], grad_fn=<AddBackward0>)
        <AddBackward0 object at 0x…>
        True False
        tensor([[27., 27.],
                [27., 27.]], grad_fn=<MulBackward0>)
        tensor(27., grad_fn=<MeanBackward0>)
        tensor([[4.5000, 4.5000],
                [4.5000, 4.5000]])
        """,
    ),
    Cell(
        "requiring a gradient later",
        """
        torch.manual_seed(3)
        a = torch.randn(2, 2)
        a = (a * 3) / (a - 1)
        print(a)
        print(a.requires_grad)
        print(a.requires_grad_(True))
        total = (a * a).sum()
        print(total, total.grad_fn)
        a.requires_grad = False
        print(a.requires_grad)
        """,
        """
        tensor([[-12.2498,  -0.6356],
                [ -0.2930,   1.1409]])
        False
        tensor([[-12.2498,  -0.6356],
                [ -0.2930,   1.1409]], requires_grad=True)
        tensor(151.8491, grad_fn=<SumBackward0>) <SumBackward0 object at 0x…>
        False
        """,
    ),
    Cell(
        "gradients add up",
        """
        x = torch.ones(2, 2, requires_grad=True)
        (x * 3).mean().backward()
        print(x.grad)
        x.sum().backward()
        print(x.grad)
        print(x.grad.data.zero_())
        x.sum().backward()
        print(x.grad)
        """,
        """
        tensor([[0.7500, 0.7500],
                [0.7500, 0.7500]])
        tensor([[1.7500, 1.7500],
                [1.7500, 1.7500]])
        tensor([[0., 0.],
                [0., 0.]])
        tensor([[1., 1.],
                [1., 1.]])
        """,
    ),
    Cell(
        "weights for an output that is no scalar",
        """
        x = torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
        y = 2 * x
        z = y.view(2, 2)
        print(x)
        print(y)
        print(z)
        z.backward(torch.tensor([[1.0, 0.1], [0.01, 0.001]], dtype=torch.float))
        print(x.grad)
        """,
        """
        tensor([1., 2., 3., 4.], requires_grad=True)
        tensor([2., 4., 6., 8.], grad_fn=<MulBackward0>)
        tensor([[2., 4.],
                [6., 8.]], grad_fn=<ViewBackward0>)
        tensor([2.0000, 0.2000, 0.0200, 0.0020])
        """,
    ),
    Cell(
        "a part of the sum is not recorded",
        """
        x = torch.tensor(1.0, requires_grad=True)
        recorded = x ** 2
        with torch.no_grad():
            constant = x ** 3
        total = recorded + constant
        for value in (x, recorded, constant, total):
            print(value, value.requires_grad)
        total.backward()
        print(x.grad)
        """,
        """
        tensor(1., requires_grad=True) True
        tensor(1., grad_fn=<PowBackward0>) True
        tensor(1.) False
        tensor(2., grad_fn=<AddBackward0>) True
        tensor(2.)
        """,
    ),
    Cell(
        "data changed behind the graph's back",
        """
        for power in (1, 2):
            x = torch.ones(1, requires_grad=True)
            print(x.data, x.data.requires_grad)
            y = 2 * x if power == 1 else x * x
            x.data *= 100
            y.backward()
            print(x)
            print(x.grad)
        """,
        """
        tensor([1.]) False
        tensor([100.], requires_grad=True)
        tensor([2.])
        tensor([1.]) False
        tensor([100.], requires_grad=True)
        tensor([200.])
        """,
    ),
    Cell(
        "the gradient of 2 x'x",
        """
        x = torch.arange(4.0)
        print(x)
        print(x.requires_grad_(True))
        print(x.grad)
        y = 2 * torch.dot(x, x)
        print(y)
        y.backward()
        print(x.grad)
        print(x.grad == 4 * x)
        print(x.grad.zero_())
        y = x.sum()
        print(y)
        y.backward()
        print(x.grad)
        print(x * x)
        x.grad.zero_()
        (x * x).sum().backward()
        print(x.grad)
        """,
        """
        tensor([0., 1., 2., 3.])
        tensor([0., 1., 2., 3.], requires_grad=True)
        None
        tensor(28., grad_fn=<MulBackward0>)
        tensor([ 0.,  4.,  8., 12.])
        tensor([True, True, True, True])
        tensor([0., 0., 0., 0.])
        tensor(6., grad_fn=<SumBackward0>)
        tensor([1., 1., 1., 1.])
        tensor([0., 1., 4., 9.], grad_fn=<MulBackward0>)
        tensor([0., 2., 4., 6.])
        """,
    ),
    Cell(
        "a factor taken out of the graph",
        """
        x = torch.arange(4.0, requires_grad=True)
        y = x * x
        factor = y.detach()
        print(factor)
        (factor * x).sum().backward()
        print(x.grad == factor)
        x.grad.zero_()
        y.sum().backward()
        print(x.grad)
        """,
        """
        tensor([0., 1., 4., 9.])
        tensor([True, True, True, True])
        tensor([0., 2., 4., 6.])
        """,
    ),
    Cell(
        "gradients through control flow",
        """
        def doubled_until_large(a):
            b = a * 2
            while b.norm() < 1000:
                b = b * 2
            if b.sum() > 0:
                return b
            return b * 100

        torch.manual_seed(5)
        for _ in range(3):
            a = torch.randn(size=(), requires_grad=True)
            d = doubled_until_large(a)
            d.backward()
            print((a, a.grad == d / a))
            print(d, a.grad)
        """,
        """
        (tensor(-0.4868, requires_grad=True), tensor(True))
        tensor(-199385.4062, grad_fn=<MulBackward0>) tensor(409600.)
        (tensor(-0.6038, requires_grad=True), tensor(True))
        tensor(-123662.6562, grad_fn=<MulBackward0>) tensor(204800.)
        (tensor(-0.5581, requires_grad=True), tensor(True))
        tensor(-114298.1094, grad_fn=<MulBackward0>) tensor(204800.)
        """,
    ),
    Cell(
        "a graph that has been freed",
        """
        x = torch.ones(2, 2, requires_grad=True)
        y = x + 2
        z = y * y * 3
        mean = z.mean()
        mean.backward()
        print(x.grad)
        try:
            mean.backward()
        except Exception as error:
            print(type(error).__name__, "retain_graph=True" in str(error))
        print(y)
        print(y.grad, z.grad)
        """,
        """
        tensor([[4.5000, 4.5000],
                [4.5000, 4.5000]])
        RuntimeError True
        tensor([[3., 3.],
                [3., 3.]], grad_fn=<AddBackward0>)
        None None
        """,
    ),
    Cell(
        "elements that are written one by one",
        """
        x = torch.tensor([2, 3], dtype=torch.float, requires_grad=True)
        print(x)
        y = torch.zeros(2)
        print(y)
        y[0] = x[0] ** 2 + x[1] * 3
        y[1] = x[0] * 2 + x[1] ** 2
        print(y)
        y.backward(torch.tensor([1, 1], dtype=torch.float))
        print(x.grad)
        """,
        """
        tensor([2., 3.], requires_grad=True)
        tensor([0., 0.])
        tensor([13., 13.], grad_fn=<CopySlices>)
        tensor([6., 9.])
        """,
    ),
    Cell(
        "a weight of the wrong shape",
        """
        x = torch.tensor([2, 3], dtype=torch.float, requires_grad=True)
        y = torch.zeros(2)
        y[0], y[1] = x[0] ** 2, x[1] ** 2
        weight = torch.tensor([[1, 1], [1, 1]], dtype=torch.float)
        print(weight)
        try:
            y.backward(weight, retain_graph=True)
        except Exception as error:
            print(type(error).__name__, str(error).startswith("Mismatch in shape"))
        print(x.grad)
        """,
        """
        tensor([[1., 1.],
                [1., 1.]])
        RuntimeError True
        None
        """,
    ),
    Cell(
        "a Jacobian row by row",
        """
        x = torch.tensor([2, 3], dtype=torch.float, requires_grad=True)
        y = torch.zeros(2)
        y[0] = x[0] ** 2 + x[1] * 3
        y[1] = x[0] * 2 + x[1] ** 2
        rows, columns = y.shape[0], x.shape[0]
        print(rows, columns, y.shape)
        jacobian = torch.zeros(rows, columns, dtype=torch.float)
        for row in range(rows):
            weight = torch.zeros(columns, dtype=torch.float).clone()
            weight[row] = 1
            if x.grad is not None:
                x.grad.zero_()
            y.backward(weight, retain_graph=True)
            print(x.grad)
            jacobian[row, :] = x.grad
        print(jacobian)
        """,
        """
        2 2 torch.Size([2])
        tensor([4., 3.])
        tensor([2., 6.])
        tensor([[4., 3.],
                [2., 6.]])
        """,
    ),
]
