"""Pictures of what nanotorch does: of the graph behind a tensor, and of a compiled step's plan.

viz.graph(loss, model).save("loss.svg")
viz.plan(step).save("plan.png")
"""

from nanotorch.viz.graphs import Graph as Graph, Vertex as Vertex, graph as graph
from nanotorch.viz.plans import PlanPicture as PlanPicture, plan as plan
