"""Explicit graphs, as MXNet's `sym` builds them: first the computation, then the data.

from nanotorch import sym

a, b = sym.var("a"), sym.var("b")
c = 2 * a + b
c.list_arguments()                      # ["a", "b"]
c.infer_shape(a=(2, 3), b=(3,))         # nothing is computed
c.eval(a=ones, b=ones)                  # a Tensor
sym.grad(c, "a")                        # the gradient, a graph again
"""

from nanotorch.sym.loading import load_json as load_json
from nanotorch.sym.shapes import Undeclared as Undeclared
from nanotorch.sym.symbol import (
    Graph as Graph,
    Group as Group,
    NameManager as NameManager,
    Symbol as Symbol,
    var as var,
)

grad = Symbol.grad
tojson = Graph.tojson
