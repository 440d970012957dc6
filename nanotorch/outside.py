"""The answers to asking for what PyTorch has and NanoTorch leaves out: what to use instead."""

from __future__ import annotations

_ARRAYS = "use {} on x.numpy()"
_PROGRAMS = "call the function as it is, or use nanotorch.compile"
_SMALL = "use autocast to compute in 16 bits"
_DEVICES = "there are CPUs and CUDA devices"

OUTSIDE = {
    "nanotorch.fft": _ARRAYS.format("numpy.fft"),
    "nanotorch.stft": _ARRAYS.format("scipy.signal.stft"),
    "nanotorch.istft": _ARRAYS.format("scipy.signal.istft"),
    "nanotorch.signal": _ARRAYS.format("scipy.signal"),
    "nanotorch.sparse": "gradients of Embedding(…, sparse=True) are the sparse tensors there are",
    "nanotorch.sparse_coo_tensor": "use index_add on a dense tensor, or Embedding(…, sparse=True)",
    "nanotorch.nested": "pad the sequences and mask them",
    "nanotorch.masked": "use where and masked_fill",
    "nanotorch.symeig": "use nanotorch.linalg.eigh",
    "nanotorch.eig": "use numpy.linalg.eig on x.numpy()",
    "nanotorch.solve": "use nanotorch.linalg.solve",
    "nanotorch.lstsq": "use nanotorch.linalg.lstsq",
    "nanotorch.matrix_rank": "use nanotorch.linalg.matrix_rank",
    "nanotorch.linalg.eig": "use eigh for symmetric matrices, or numpy.linalg.eig on x.numpy()",
    "nanotorch.linalg.lu": "use solve or inv",
    "nanotorch.jit": _PROGRAMS,
    "nanotorch.fx": _PROGRAMS,
    "nanotorch.export": _PROGRAMS,
    "nanotorch._dynamo": _PROGRAMS,
    "nanotorch.ao": _SMALL,
    "nanotorch.quantization": _SMALL,
    "nanotorch.hub": "load weights with load_state_dict",
    "nanotorch.multiprocessing": "use Python's multiprocessing on arrays",
    "nanotorch.profiler": "use nanotorch.compile(step, explain=True)",
    "nanotorch.mps": _DEVICES,
    "nanotorch.xpu": _DEVICES,
    "nanotorch.nn.quantized": _SMALL,
    "nanotorch.nn.Conv3d": "convolutions have one or two dimensions",
    "nanotorch.nn.SyncBatchNorm": "use BatchNorm1d on each process",
    "nanotorch.nn.DataParallel": "use nanotorch.distributed.average_gradients after backward",
    "nanotorch.nn.parallel": "use nanotorch.distributed.average_gradients after backward",
    **{
        f"nanotorch.distributions.{name}": "there are Bernoulli, Categorical, Normal and Uniform"
        for name in (
            *("Beta", "Binomial", "Cauchy", "Chi2", "ContinuousBernoulli", "Dirichlet"),
            *("Exponential", "ExponentialFamily", "FisherSnedecor", "Gamma", "GeneralizedPareto"),
            *("Geometric", "Gumbel", "HalfCauchy", "HalfNormal", "Independent", "InverseGamma"),
            *("Kumaraswamy", "LKJCholesky", "Laplace", "LogNormal", "LogisticNormal"),
            *("LowRankMultivariateNormal", "MixtureSameFamily", "Multinomial"),
            *("MultivariateNormal", "NegativeBinomial", "OneHotCategorical"),
            *("OneHotCategoricalStraightThrough", "Pareto", "Poisson", "RelaxedBernoulli"),
            *("RelaxedOneHotCategorical", "StudentT", "TransformedDistribution", "VonMises"),
            *("Weibull", "Wishart", "constraints", "register_kl", "transforms"),
        )
    },
}


def answer(name: str) -> str:
    """What asking for a name that is not there says."""
    package, _, last = name.rpartition(".")
    if name in OUTSIDE:
        return f"{name} is not part of NanoTorch; {OUTSIDE[name]}"
    return f"module {package!r} has no attribute {last!r}"
