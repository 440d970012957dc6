"""Random programs of layers, losses, optimizers and schedules, on NanoTorch and PyTorch side by
side: a second kind of program beside those of `fuzzing.py`.

Weights come from PyTorch's random numbers, which both libraries draw for the same seed. After each
line everything is compared: outputs, parameters, gradients, buffers, names, modes, texts, the state
and the options of optimizers and schedules, what hooks saw, and the state of the generator.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy
from fuzzing import Program, array_of

import nanotorch

PRELUDE = """
import copy, io, pickle
F, S, U = t.nn.functional, t.optim.lr_scheduler, t.nn.utils
P = U.parametrize
LOG = []

class First(t.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner
    def forward(self, x):
        return self.inner(x)[0]

class Residual(t.nn.Module):
    def __init__(self, inner, scale=1.0):
        super().__init__()
        self.inner = inner
        self.scale = t.nn.Parameter(t.full((), scale))
        self.register_buffer('calls', t.zeros((), dtype=t.int64))
    def forward(self, x):
        self.calls += 1
        return x + self.scale * self.inner(x)

class Named(t.nn.Module):
    def __init__(self, *inner):
        super().__init__()
        self.parts = t.nn.ModuleDict({f'part{i}': one for i, one in enumerate(inner)})
        self.weights = t.nn.ParameterList([t.nn.Parameter(t.ones(())) for _ in inner])
        self.options = t.nn.ParameterDict({'shift': t.nn.Parameter(t.zeros(1))})
    def forward(self, x):
        for weight, part in zip(self.weights, self.parts.values()):
            x = part(x) * weight
        return x + self.options['shift']
    def extra_repr(self):
        return f'parts={len(self.parts)}'

def saved(x):
    file = io.BytesIO()
    t.save(x, file)
    file.seek(0)
    return file

def backward_of(o, loss):
    def evaluate():
        o.zero_grad()
        value = loss()
        value.backward()
        return value
    return evaluate

def seen(kind):
    def hook(module, *rest):
        LOG.append((kind, type(module).__name__, shapes(rest)))
    return hook

def shapes(x):
    if isinstance(x, t.Tensor):
        return tuple(x.shape)
    if isinstance(x, (tuple, list)):
        return [shapes(y) for y in x]
    if isinstance(x, dict):
        return {k: shapes(y) for k, y in x.items()}
    return type(x).__name__
"""

# `<a|b|c>` is one of the three at random. @N @C @F are the first, second and last size of the
# input, @S its shape, @x its name, @m @o @s a module, an optimizer and a schedule.
MACROS = {
    "REDUCED": """\
<||, reduction='sum'|, reduction='none'|, reduction='mean'>""",
    "LINEAR": """\
Linear(@F, <1|2|3|4><||, bias=False|, False>)""",
    "CONV": """\
<@C|@C|3|4>, <1|2|3>, <1|1|2>, <0|1|2|'same'|'valid'>, <1|1|2><|||, groups=@C|, groups=2><||, \
bias=False><|||, padding_mode='<reflect|circular|replicate>'>""",
    "BACK": """\
<@C|2|4>, <1|2|3>, <1|2|3>, <0|1|2>, <0|0|0|1><|||, groups=@C|, groups=2><||, bias=False><||, \
dilation=2>""",
    "POOL": """\
<1|2|3><|, stride=<1|2|3>><|, padding=1><||, ceil_mode=True>""",
    "AFFINE": """\
<|, eps=1e-3|, affine=False|, affine=True>""",
    "BATCH": """\
@C<|, eps=1e-3><||, momentum=0.3|, momentum=None><||, affine=False>\
<||, track_running_stats=False>""",
    "RECURRENT": """\
@F, <1|2|3><|, 2|, num_layers=2><||, bias=False><|, batch_first=True><||, dropout=<0.5|0.2>><|, \
bidirectional=True>""",
    "ENCODER": """\
@F, <1|1|2|@F>, <3|4>, dropout=0.0<|, activation='gelu'|, activation=F.gelu><|, batch_first=True>\
<|, norm_first=True><||, bias=False><||, layer_norm_eps=1e-3>""",
    "FLAGS": """\
<||||, maximize=True><||, foreach=False|, foreach=None>""",
    "DECAY": """\
<|, weight_decay=0.1>""",
    "HEADS": """\
<1|1|2|@F>""",
}


def templates(text: str) -> tuple[str, ...]:
    """The lines of a table, with what its macros stand for."""
    while "$" in text:
        text = re.sub(r"\$([A-Z]+)", lambda m: MACROS[m[1]], text)
    return tuple(text.strip().split("\n"))


ACTIVATIONS = templates("""
ReLU(<||inplace=True>)
Tanh()
Sigmoid()
GELU(<|approximate='tanh'>)
SiLU()
ELU(<|0.5>)
LeakyReLU(<|0.2|0.1, inplace=True>)
Softplus(<|beta=2|2, 1>)
Hardtanh(<|-0.5, 0.5>)
ReLU6()
Hardswish()
Hardsigmoid()
Hardshrink(<|0.2>)
Softshrink(<|0.2>)
Mish()
SELU()
CELU(<|0.5>)
LogSigmoid()
Softsign()
Tanhshrink()
Threshold(0.1, <-1|0.5>)
PReLU(<|@C|init=0.1>)
Softmax(<-1|1|0|None>)
LogSoftmax(dim=<-1|1>)
Softmin(dim=-1)
GLU(<|1|-1>)
Identity(<|3, a=2>)
Dropout(<|0.3|p=0.8|0|1.0>)
AlphaDropout(<|0.2>)
Flatten(<||0|1, 2|0, 1>)
""")
LAYERS: dict[str, tuple[str, ...]] = {
    "rows": templates("""
$LINEAR
$LINEAR
$LINEAR
BatchNorm1d($BATCH)
BatchNorm1d($BATCH)
LayerNorm(<@F|[@F]|(@C,)><||, eps=1e-3><||, elementwise_affine=False|, bias=False>)
RMSNorm(@F<||, eps=1e-3><||, elementwise_affine=False>)
GroupNorm(<1|@C|2>, @C<||, affine=False>)
Unflatten(1, <(1, @C)|(@C, 1)|(-1, 2)|(2, -1)>)
RNNCell(@F, 2<||, nonlinearity='relu'><||, bias=False>)
GRUCell(@F, 3<||, bias=False>)
ConstantPad1d(<1|(1, 2)>, 0.5)
ZeroPad1d(1)
AvgPool1d(2)
MaxPool1d(2)
Conv1d(@N, $CONV)
"""),
    "three": templates("""
$LINEAR
First(RNN($RECURRENT<||, nonlinearity='relu'>))
First(LSTM($RECURRENT<||, proj_size=1>))
First(GRU($RECURRENT))
RNN($RECURRENT)
LSTM($RECURRENT)
GRU($RECURRENT)
TransformerEncoderLayer($ENCODER)
TransformerEncoderLayer($ENCODER)
TransformerEncoder(t.nn.TransformerEncoderLayer($ENCODER), <1|2><||, t.nn.LayerNorm(@F)><|, \
enable_nested_tensor=False>)
Conv1d(@C, $CONV)
Conv1d(@C, $CONV)
ConvTranspose1d(@C, $BACK)
ConvTranspose1d(@C, $BACK)
BatchNorm1d($BATCH)
AvgPool1d($POOL<||, count_include_pad=False>)
MaxPool1d($POOL<||, dilation=2>)
AdaptiveAvgPool1d(<1|2|3>)
AdaptiveMaxPool1d(<1|2|3>)
LayerNorm(<@F|[@C, @F]><||, eps=1e-3><||, elementwise_affine=False|, bias=False>)
RMSNorm(<@F|[@C, @F]>)
GroupNorm(<1|@C|2>, @C$AFFINE)
InstanceNorm1d(@C$AFFINE<||, track_running_stats=True><||, momentum=0.3>)
Upsample(<scale_factor=2|size=5|scale_factor=1.5>, mode='<nearest|linear>'<||, \
align_corners=True>)
<ReflectionPad|ReplicationPad|CircularPad|ZeroPad>1d(<1|(1, 0)|(0, 2)>)
ConstantPad1d(1, <0.5|-1>)
Dropout1d(<|0.3>)
Flatten(<||0|1, 2|0, 1>)
"""),
    "four": templates("""
Conv2d(@C, $CONV)
Conv2d(@C, $CONV)
Conv2d(@C, <2|3>, (<1|2>, <1|2>), stride=(1, 2), padding=(1, 0))
ConvTranspose2d(@C, $BACK)
ConvTranspose2d(@C, $BACK)
BatchNorm2d($BATCH)
AvgPool2d($POOL<||, count_include_pad=False><||, divisor_override=3>)
MaxPool2d($POOL<||, dilation=2>)
AvgPool2d((1, 2))
MaxPool2d((2, 1), stride=(1, 1))
AdaptiveAvgPool2d(<1|2|(1, 2)|(None, 2)>)
AdaptiveMaxPool2d(<1|2|(2, 1)>)
GroupNorm(<1|@C|2>, @C$AFFINE)
InstanceNorm2d(@C$AFFINE<||, track_running_stats=True>)
LayerNorm(<@F|@S[1:]|@S[2:]>)
Upsample(<scale_factor=2|size=5|size=(2, 3)|scale_factor=1.5>, mode='<nearest|bilinear|bicubic>'<\
||, align_corners=True>)
<ReflectionPad|ReplicationPad|CircularPad|ZeroPad>2d(<1|(1, 0, 1, 1)|(0, 1, 0, 0)>)
ConstantPad2d(1, 0.5)
PixelShuffle(2)
PixelUnshuffle(<1|2>)
ChannelShuffle(<1|2|@C>)
Dropout2d(<|0.3>)
Softmax2d()
Flatten(<||0|1, 2|2>)
$LINEAR
Unfold(<1|2><||, padding=1><||, stride=2>)
UpsamplingNearest2d(scale_factor=2)
UpsamplingBilinear2d(<scale_factor=2|size=3>)
"""),
    "one": templates("""
$LINEAR
LayerNorm(@F)
GRUCell(@F, 2)
RNNCell(@F, 2)
Unflatten(0, (1, @F))
"""),
    "tokens": templates("""
Embedding(<6|8>, <2|3|4><||, padding_idx=<0|1|-1>>)
Embedding(6, 4)
EmbeddingBag(6, <2|3><|, mode='<sum|mean|max>'><||, padding_idx=<0|1>>)
Flatten()
Embedding(2, 3)
Embedding.from_pretrained(t.randn(6, 2)<||, freeze=False>)
"""),
}
SHAPES: tuple[tuple[int, ...], ...] = (
    (3,), (2, 3), (4, 2), (5, 4), (1, 3), (2, 3, 4), (3, 2, 4), (1, 4, 2), (4, 4, 6), (2, 2, 3, 4),
    (2, 4, 4, 4), (1, 3, 5, 5), (2, 4, 3, 3), (0, 3), (6, 4), (8, 2),
)  # fmt: skip
LOSSES = templates("""
F.mse_loss(@x, @y$REDUCED)
t.nn.<MSE|L1|Huber|SmoothL1>Loss(<|reduction='sum'|reduction='none'>)(@x, @y)
F.l1_loss(@x, @y$REDUCED)
F.smooth_l1_loss(@x, @y$REDUCED<|, beta=0.5>)
F.huber_loss(@x, @y$REDUCED<|, delta=0.5>)
F.binary_cross_entropy_with_logits(@x, t.rand(@S)$REDUCED<||, weight=t.rand(@F)><||, \
pos_weight=t.rand(@F)>)
F.binary_cross_entropy(@x.sigmoid(), t.rand(@S)$REDUCED<||, weight=t.rand(@F)>)
F.cross_entropy(@x, @c$REDUCED<|, label_smoothing=0.2><||, ignore_index=1|, ignore_index=-1><|, \
weight=t.rand(@C)>)
F.cross_entropy(@x, @c$REDUCED)
F.cross_entropy(@x, @y.softmax(1)$REDUCED<|, label_smoothing=0.2><|, weight=t.rand(@C)>)
F.nll_loss(@x.log_softmax(1), @c$REDUCED<|, ignore_index=0><|, weight=t.rand(@C)>)
F.kl_div(@x.log_softmax(-1), @y.<softmax(-1)|log_softmax(-1)><, reduction='batchmean'><|\
|, log_target=True>)
F.poisson_nll_loss(@x, @y.abs()$REDUCED<|, log_input=False><|, full=True>)
F.gaussian_nll_loss(@x, @y, t.rand(@S) + 0.1$REDUCED<|, full=True>)
F.hinge_embedding_loss(@x, @y.sign()$REDUCED<|, margin=0.5>)
F.margin_ranking_loss(@x, @y, t.randn(@S).sign()$REDUCED<|, margin=0.1>)
F.soft_margin_loss(@x, @y.sign()$REDUCED)
F.triplet_margin_loss(@x, @y, t.randn(@S)$REDUCED<|, margin=0.5><|, p=1><|, swap=True>)
F.cosine_embedding_loss(@x, @y, t.randn(@N).sign()$REDUCED<|, margin=0.2>)
F.multi_margin_loss(@x, @c$REDUCED<|, p=2><|, margin=0.3><|, weight=t.rand(@C)>)
F.multilabel_soft_margin_loss(@x, t.rand(@S).round()$REDUCED<|, weight=t.rand(@C)>)
@x.square().mean()
@x.sum()
@x.logsumexp(-1).sum()
F.pairwise_distance(@x, @y<|, p=1><|, keepdim=True>).sum()
""")
OPTIMIZERS = templates("""
SGD(@p, <0.1|0.01|lr=0.5><|, momentum=0.9<||, nesterov=True|, dampening=0.3>>$DECAY$FLAGS)
SGD(@p, <0.1|0.01|lr=0.5><|, momentum=0.9<||, nesterov=True|, dampening=0.3>>$DECAY$FLAGS)
Adam(@p<|, lr=0.01|, 0.1><|, betas=(0.8, 0.9)><||, eps=1e-3>$DECAY<||, amsgrad=True>$FLAGS<|||, \
decoupled_weight_decay=True>)
AdamW(@p<|, lr=0.01|, 0.1><|, betas=(0.5, 0.7)><||, eps=1e-3>$DECAY<||, amsgrad=True>$FLAGS)
Adamax(@p<|, lr=0.01|, 0.1><|, betas=(0.8, 0.9)>$DECAY$FLAGS)
NAdam(@p<|, lr=0.01|, 0.1>$DECAY<|, momentum_decay=0.1><||, decoupled_weight_decay=True>$FLAGS)
RAdam(@p<|, lr=0.01|, 0.1><|, betas=(0.5, 0.7)>$DECAY<||, decoupled_weight_decay=True>$FLAGS)
RMSprop(@p<|, lr=0.01|, 0.1><|, alpha=0.5><|, momentum=0.8><|, centered=True>$DECAY$FLAGS)
Adagrad(@p<|, lr=0.01|, 0.1><|, lr_decay=0.1><|, initial_accumulator_value=0.5>$DECAY$FLAGS)
Adadelta(@p<|, lr=0.5|, 0.1><|, rho=0.5>$DECAY$FLAGS)
""")
WRONG_OPTIMIZERS = templates("""
SGD(@p, lr=-1)
SGD(@p, nesterov=True)
Adam(@p, betas=(1.0, 0.5))
Adam(@p, eps=-1)
SGD([], lr=1)
SGD(@m.weight, lr=1)
SGD(3, lr=1)
Adam([1, 2])
RMSprop(@p, alpha=-1)
Adagrad(@p, lr_decay=-1)
SGD(list(@m.parameters()) * 2, lr=0.1)
Adadelta(@p, rho=2)
AdamW(@p, weight_decay=-1)
SGD([{'lr': 1}], lr=1)
SGD([{'params': set(@m.parameters())}], lr=1)
NAdam(@p, momentum_decay=-1)
Adam([@x * 2])
SGD(@p, momentum=-1)
Adam(@p, lr='a')
SGD([{'params': list(@m.parameters())}, {'params': list(@m.parameters())}])
LBFGS([{'params': []}, {'params': []}])
""")
PARAMETERS = templates("""
@m.parameters()
@m.parameters()
@m.parameters()
@m.named_parameters()
list(@m.parameters())[::-1]
[p for p in @m.parameters() if p.requires_grad]
[{'params': list(@m.parameters())[:1]}, {'params': list(@m.parameters())[1:], 'lr': 0.3, \
'weight_decay': 0.05}]
[{'params': [p], 'lr': 0.1 * (i + 1)} for i, p in enumerate(@m.parameters())]
[*@m.parameters(), @x]
""")
AVERAGES = templates("""
t.optim.swa_utils.AveragedModel(@m<||, use_buffers=True><||, \
multi_avg_fn=t.optim.swa_utils.get_ema_multi_avg_fn(0.9)>)
""")
AVERAGE_STATEMENTS = templates("""
@a.update_parameters(@a.module)
@a.update_parameters(@a.module)
@a.update_parameters(@m)
t.optim.swa_utils.update_bn([@x], @m)
""")
SIMPLE_SCHEDULES = templates("""
StepLR(@o, <1|2|3><|, gamma=0.5>)
MultiStepLR(@o, <[1, 3]|[2]|[1, 1, 2]><|, gamma=0.5>)
ConstantLR(@o<|, 0.5|, factor=0.2><|, total_iters=3>)
LinearLR(@o<|, 0.5|, start_factor=0.1, end_factor=0.7><|, total_iters=3>)
ExponentialLR(@o, <0.9|gamma=0.5>)
CosineAnnealingLR(@o, <3|5|T_max=2><|, eta_min=0.01>)
CosineAnnealingWarmRestarts(@o, <1|2|3><|, T_mult=2|, 3><|, eta_min=0.01>)
PolynomialLR(@o<|, 3|, total_iters=4><|, power=2.0>)
LambdaLR(@o, lambda e: 0.9 ** e)
MultiplicativeLR(@o, lambda e: 0.9)
""")
SCHEDULES = SIMPLE_SCHEDULES + templates("""
OneCycleLR(@o, <0.5|max_lr=0.2>, <total_steps=3|total_steps=10|epochs=2, steps_per_epoch=3><|, \
pct_start=0.5><|, anneal_strategy='linear'><|, cycle_momentum=False><|, div_factor=5><|, \
final_div_factor=10><|, three_phase=True>)
CyclicLR(@o, 0.01, 0.2<|, step_size_up=2|, step_size_up=1, step_size_down=3><|, mode='<\
triangular2|exp_range>'<|, gamma=0.9>><, cycle_momentum=False|>)
ReduceLROnPlateau(@o<|, '<min|max>'><|, factor=0.5><|, patience=0|, patience=1><|, threshold=0.1>\
<|, threshold_mode='abs'><|, cooldown=1><|, min_lr=0.05><|, eps=1e-3>)
ReduceLROnPlateau(@o<|, '<min|max>'><|, factor=0.5>, patience=0)
SequentialLR(@o, [S.@1, S.@2], milestones=[<1|2|3>])
SequentialLR(@o, [S.@1, S.@2, S.@1], [1, <2|3>])
ChainedScheduler([S.@1, S.@2])
ChainedScheduler([S.@1], optimizer=@o)
SWALR(@o, <0.05|swa_lr=0.3><|, anneal_epochs=2><|, anneal_strategy='linear'>)
""")
WRONG_SCHEDULES = templates("""
StepLR(@m, 1)
LambdaLR(@o, [lambda e: 1] * 5)
SequentialLR(@o, [S.@1, S.@2], milestones=[])
ConstantLR(@o, 2)
OneCycleLR(@o, 0.1)
LinearLR(@o, start_factor=0)
ReduceLROnPlateau(@o, factor=2)
CosineAnnealingWarmRestarts(@o, 0)
ReduceLROnPlateau(@o, mode='x')
StepLR(@o, 2, last_epoch=3)
OneCycleLR(@o, 0.1, total_steps=0)
ExponentialLR(@o, 0.9, last_epoch=2)
OneCycleLR(@o, 0.1, total_steps=5, anneal_strategy='x')
SequentialLR(@o, [])
ChainedScheduler([])
OneCycleLR(@o, 0.1, total_steps=5, pct_start=2)
StepLR(None, 1)
ReduceLROnPlateau(@o, min_lr=[0.1] * 7)
""")
STATEMENTS = templates("""
@m.train()
@m.eval()
@m.eval()
@m.train(False)
@m.requires_grad_(<False|True>)
@m.zero_grad(<|set_to_none=False>)
@m.apply(lambda m: m.train())
for p in list(@m.parameters())[:1]: p.requires_grad_(<False|True>)
for p in list(@m.parameters())[-1:]: p.grad = None
for p in @m.parameters(): p.data.mul_(<0.5|0.9>)
for p in @m.parameters(): p.register_hook(lambda g: g * 0.5)
@m.double()
@m.float()
@m.to(t.<float64|float32>)
@m.half()
@m.bfloat16()
@m.cpu()
@m.register_forward_hook(seen('forward'))
@m.register_forward_pre_hook(seen('before'))
@m.register_full_backward_hook(seen('backward'))
@m.register_full_backward_pre_hook(seen('walk'))
@m.register_forward_hook(lambda m, a, y: y * 2)
@m.register_forward_pre_hook(lambda m, a: (a[0] * 2,))
@m.register_full_backward_hook(lambda m, a, b: tuple(g if g is None else g * 2 for g in a))
@m.register_full_backward_pre_hook(lambda m, g: (g[0] * 2,))
@m.register_forward_hook(lambda m, a, k, y: y + 1, with_kwargs=True<|, prepend=True|, \
always_call=True>)
@m.register_forward_pre_hook(lambda m, a, k: (a, k), with_kwargs=True)
@m.register_buffer('<b|weight|a.b>', t.zeros(2)<|, persistent=False>)
@m.register_parameter('<q|weight|>', <None|t.nn.Parameter(t.ones(2))|t.ones(2)>)
@m.extra = t.nn.<Linear(2, 2)|Parameter(t.ones(2))|Buffer(t.ones(3))>
@m.add_module('<z|0>', <@n|None>)
del @m.<weight|bias|extra|q|z|b>
@m.weight = <@n.weight|None|t.ones(2)>
@m.bias = <@n.bias|None>
@m.weight = t.nn.Parameter(@m.weight.detach() * <0.5|1.5>)
@m.load_state_dict(@n.state_dict()<|, strict=False|, assign=True>)
@m.load_state_dict(@m.state_dict())
@m.load_state_dict({k: v * 0.5 for k, v in @m.state_dict().items()}<|, assign=True>)
R = @m.load_state_dict({**@n.state_dict(), 'more': t.ones(1)}, strict=False)
R = @m.load_state_dict(dict(list(@m.state_dict().items())[1:]), strict=False)
@m.load_state_dict({k: v[:1] for k, v in @m.state_dict().items() if v.ndim})
@m.load_state_dict(t.load(saved(@m.state_dict())))
@m.load_state_dict(pickle.loads(pickle.dumps(@m.state_dict())))
R = [n for n, _ in @m.named_modules(<|prefix='a'|remove_duplicate=False>)]
R = [n for n, _ in @m.named_parameters(<|recurse=False|remove_duplicate=False|'pre'>)]
R = [n for n, _ in @m.named_children()]
R = list(@m.state_dict(prefix='a.'))
R = list(@m.named_buffers())
R = @m.get_parameter('<weight|0.weight|inner.weight|x>')
R = @m.get_submodule('<0|inner|x|>')
R = str(@m.get_submodule('<0|inner|x|>'))
R = @m.training
R = @m.<weight|bias|in_features|kernel_size|eps|padding|stride|p|dim|inplace|hidden_size|\
num_layers|running_mean|num_batches_tracked|scale_factor|output_size>
R = len(@m)
R = (@m == @m, @m in [@m], hash(@m) == hash(@m))
t.nn.init.<xavier_uniform_|xavier_normal_|kaiming_uniform_|kaiming_normal_|orthogonal_|normal_|\
uniform_|ones_|zeros_|trunc_normal_|eye_|dirac_|sparse_>(@m.weight)
t.nn.init.kaiming_<uniform|normal>_(@m.weight, a=<0|0.2>, mode='<fan_in|fan_out>', \
nonlinearity='<relu|leaky_relu|tanh>')
t.nn.init.constant_(@m.bias, 0.3)
t.nn.init.xavier_uniform_(@m.weight, gain=t.nn.init.calculate_gain('<relu|tanh|selu|x>'))
@m.reset_parameters()
@m.reset_running_stats()
t.manual_seed(<0|1|2|123456789>)
U.vector_to_parameters(U.parameters_to_vector(@m.parameters()) * 0.5, @m.parameters())
R = U.parameters_to_vector(@m.parameters())
U.parametrizations.weight_norm(@m<|, 'weight'|, name='<weight|bias>'><|, dim=<0|1|None>>)
U.weight_norm(@m<|, 'weight'><|, dim=1>)
U.remove_weight_norm(@m)
P.remove_parametrizations(@m, '<weight|bias>'<|, leave_parametrized=False>)
R = (P.is_parametrized(@m), P.is_parametrized(@m, 'weight'))
@m.requires_grad_(False).eval()
R = repr(@m)
@m.share_memory()
R = @m.extra_repr()
R = @m._get_name()
R = [type(x).__name__ for x in @m.modules()]
R = [type(x).__name__ for x in @m.children()]
R = isinstance(@m, t.nn.Module)
R = sum(p.numel() for p in @m.parameters())
@m.to(@x)
@m.to('cpu'<|, t.float64>)
@m.type(t.float64)
@m.to(t.int64)
@m.foo
@m(@x, @x, @x)
@m()
""")
CONTAINER_STATEMENTS = templates("""
@m.append(@n)
@m.extend([@n])
@m.insert(<0|1|-1|9>, @n)
R = @m.pop(<0|-1|9>) is None
del @m[<0|-1|1:|9>]
R = str(@m[<0|-1|1:|:1|9|'part0'>])
@m[<0|-1|9|'k'>] = @n
R = len(@m)
@m += t.nn.Sequential(@n)
R = [type(x).__name__ for x in @m]
R = @n in @m
@m.update({'k': @n})
R = list(@m.keys())
R = [n for n, _ in @m.items()]
@m.clear()
R = [str(x) for x in @m.values()]
R = [type(x).__name__ for x in reversed(@m)]
R = dir(@m) == 3
""")
CONTAINERS = templates("""
t.nn.Sequential(@n, @m)
t.nn.ModuleList([@m, @n])
t.nn.ModuleDict({'a': @m, 'b': @n})
t.nn.ModuleDict([('x', @m)])
t.nn.ParameterList(<[t.nn.Parameter(t.ones(2)), t.ones(3)]|@m.parameters()>)
t.nn.ParameterDict({'u': t.nn.Parameter(t.ones(2)), 'w': <t.zeros(1)|3>})
Residual(@m<|, 0.5>)
Named(@m<|, @n>)
@m + @n
@m[:1]
@m * 2
t.nn.Sequential(*@m, @n)
t.nn.Sequential(@m, @m)
t.nn.ModuleList(@m)
First(@m)
""")
OPTIMIZER_STATEMENTS = templates("""
exchange('@o')
exchange('@o')
exchange('@m')
@o.step()
@o.step()
@o.zero_grad(<|set_to_none=False|set_to_none=True>)
@o.param_groups[<0|-1>]['lr'] = <0.05|0.2>
for g in @o.param_groups: g['lr'] *= 0.5
@o.load_state_dict(@o.state_dict())
@o.load_state_dict(copy.deepcopy(@o.state_dict()))
@o.load_state_dict(t.load(saved(@o.state_dict())))
@o.load_state_dict(@q.state_dict())
@o.add_param_group({'params': <list(@m.parameters())|@m.parameters()|[@x]|@x|\
t.nn.Parameter(t.ones(2))><|, 'lr': 0.02>})
@o.param_groups[0]['<weight_decay|momentum|maximize>'] = <0.1|0.3|True>
R = repr(@o)
R = list(@o.state_dict()['state'])
@o.register_step_post_hook(lambda o, a, k: LOG.append('after'))
@o.register_step_pre_hook(lambda o, a, k: LOG.append('before'))
R = [sorted(v) for v in @o.state.values()]
R = sorted(@o.defaults)
for p in @o.param_groups[0]['params'][:1]: p.grad = None
for p in @o.param_groups[0]['params']: p.grad = t.ones_like(p)
@o.state.clear()
R = @o.step(lambda: t.ones(()))
for p in @o.param_groups[0]['params']: p.requires_grad_(<False|True>)
@o.param_groups[0]['params'].pop()
@o.load_state_dict({**@o.state_dict(), 'state': {}})
""")
SCHEDULE_STATEMENTS = templates("""
exchange('@s')
@s.step(@k)
@s.step(@k)
@s.step(@k)
R = @s.get_last_lr()
@s.load_state_dict(@s.state_dict())
@s.load_state_dict(copy.deepcopy(@s.state_dict()))
R = sorted(k for k in @s.state_dict() if k[0] != '_')
@s.load_state_dict(t.load(saved(@s.state_dict())))
@s.step(<2|5>)
R = @s.last_epoch
R = getattr(@s, 'base_lrs', 0)
R = @s.get_lr()
""")
CLIPPING = templates("""
R = U.clip_grad_norm_(@m.parameters(), <0.1|1.0|10.0><|, norm_type=<1|2|float('inf')|3>><|, \
error_if_nonfinite=True><|, foreach=False>)
U.clip_grad_value_(@m.parameters(), <0.01|0.5>)
R = U.get_total_norm([p.grad for p in @m.parameters() if p.grad is not None]<|, 1.0>)
U.clip_grads_with_norm_(@m.parameters(), 0.5, t.tensor(2.0))
""")
CALLS = templates("""
t.nn.MultiheadAttention(@F, $HEADS, batch_first=True)(@x, @x, @x, key_padding_mask=\
t.rand(@N, @C).gt(0.8), need_weights=<False|True>)[<0|1>]
t.nn.MultiheadAttention(@F, $HEADS<|, batch_first=True>)(@x, @x[:, :1], @x[:, :1], attn_mask=\
<None|t.zeros(@C, 1)|t.rand(@C, 1).gt(2)>)[0]
t.nn.MultiheadAttention(@F, 1, kdim=3, vdim=2)(@x, t.ones(4, @C, 3), t.ones(4, @C, 2))[0]
t.nn.TransformerEncoderLayer($ENCODER)(@x, src_mask=<t.rand(@C, @C).gt(0.9)|\
t.nn.Transformer.generate_square_subsequent_mask(@C)><|, is_causal=True>)
t.nn.TransformerEncoderLayer(@F, 1, 3, dropout=0.0, batch_first=True)(@x, src_key_padding_mask=\
t.arange(@C).gt(1 + t.zeros(@N, 1)))
t.nn.TransformerDecoder(t.nn.TransformerDecoderLayer($ENCODER), <1|2>)(@x, @x.detach())
F.scaled_dot_product_attention(@x, @x, @x, attn_mask=<t.rand(@C, @C)|t.rand(@C, @C).gt(0.3)|None>)
t.nn.EmbeddingBag(6, 2, mode='<sum|mean|max>'<|, include_last_offset=True>)(\
t.tensor([0, 2, 5, 1]), t.tensor([0, <1|2|3>, 4]))
t.nn.EmbeddingBag(6, 2, mode='sum')(t.tensor([[0, 2], [5, 1]]), per_sample_weights=\
t.rand(2, 2, requires_grad=True))
F.embedding(t.tensor([0, <1|2|9>]), @x<|, padding_idx=0>)
F.embedding_bag(t.tensor([0, 2, 1]), @x, t.tensor([0, 1])<|, mode='<sum|max>'>)
t.nn.GRU(@F, 2, <1|2>)(@x, t.ones(<1|2>, <@C|1>, 2))[<0|1>]
t.nn.LSTM(@F, 2, batch_first=True)(@x, (t.ones(1, @N, 2), t.zeros(1, @N, 2)))[0]
t.nn.RNN(@F, 2, nonlinearity='<relu|tanh|x>')(@x, t.zeros(1, <@C|3>, 2))[0]
t.nn.GRUCell(@F, 2)(@x, t.ones(<@N|1>, 2))
t.nn.<CrossEntropy|NLL|MSE|BCEWithLogits|KLDiv|Huber>Loss(<|reduction='sum'|reduction='x'>)\
(@x, @y)
t.nn.CrossEntropyLoss(<|weight=t.rand(@C)|label_smoothing=0.1|ignore_index=0>)(@x, @c)
t.nn.MultiheadAttention(@F, $HEADS<||, bias=False><||, add_bias_kv=True><||, add_zero_attn=True><\
|, batch_first=True>)(@x, @x, @x<|, need_weights=False><|, average_attn_weights=False>)[0]
t.nn.TransformerDecoderLayer($ENCODER)(@x, @x.detach() * 0.5)
t.nn.Transformer(@F, $HEADS, 1, 1, 4, dropout=0.0<|, batch_first=True>)(@x, @x)
t.nn.Bilinear(@F, @F, 2<|, bias=False>)(@x, @x)
t.nn.LSTMCell(@F, 2)(@x)[<0|1>]
F.scaled_dot_product_attention(@x, @x, @x<|, is_causal=True><|, scale=0.5>)
F.<layer_norm|rms_norm>(@x, (@F,)<||, eps=1e-3>)
F.normalize(@x<|, p=1><|, dim=0|, dim=-1>)
F.dropout(@x, <0.3|0.9><|, training=False>)
F.gumbel_softmax(@x<|, tau=0.5><|, hard=True>)
F.pad(@x, <(1, 1)|(0, 2)|(-1, 0)><|, mode='reflect'|, value=0.3>)
F.interpolate(@x, scale_factor=2<|, mode='nearest'>)
U.rnn.pad_sequence([@x, @x[:1]]<|, batch_first=True><|, padding_value=1.0>)
t.nn.CosineSimilarity(dim=<1|-1>)(@x, @x.detach() + 0.1)
F.instance_norm(@x)
F.batch_norm(@x, None, None, training=True)
F.<celu|elu|leaky_relu|softplus|gelu|hardtanh|mish|rrelu>(@x)
F.one_hot(t.arange(3) % 2<|, 4>)
F.alpha_dropout(@x, 0.3, training=True)
F.feature_alpha_dropout(@x, 0.3, training=True)
F.local_response_norm(@x, 2)
F.glu(@x)
F.cosine_similarity(@x, @x.detach() * 2)
F.max_pool1d(@x, 2, return_indices=True)[1]
F.<avg_pool1d|max_pool1d>(@x, 2)
F.<avg_pool2d|max_pool2d>(@x, 2)
F.threshold(@x, 0.1, 0.2)
F.softmin(@x, -1)
F.fold(F.unfold(@x, 2), @S[2:], 2)
F.linear(@x, t.randn(2, @F), t.randn(2))
F.conv1d(@x, t.randn(2, @C, 2))
F.conv2d(@x, t.randn(2, @C, 2, 2)<|, t.randn(2)>)
U.rnn.pad_packed_sequence(t.nn.GRU(@F, 2, batch_first=True)(U.rnn.pack_padded_sequence(@x, \
[@C] * @N, batch_first=True))[0], batch_first=True)[0]
U.rnn.pad_packed_sequence(t.nn.LSTM(@F, 2, batch_first=True<|, bidirectional=True>)\
(U.rnn.pack_padded_sequence(@x, [@C - i % @C for i in range(@N)], batch_first=True, \
enforce_sorted=False))[0], batch_first=True)[0]
""")
# What NanoTorch has not, or PyTorch has no kernel for; see docs/differences.md.
EXCUSED = (
    "share_memory", "rrelu", "optional 0 dim batch size", "Expected 3D or 4D input, but got",
    "Expected !nested_tensorlist", "It is expected", "Padding size", "__call__() takes",
    "input must have", "MultiheadAttention: expected query, key", "ein_sum",
    "match the broadcast shape", "possibly 0 batch size", "local_response_norm",
    "feature_alpha_dropout", "bicubic", "is too small", "has no attribute 'weight'",
    "expected common dtype", "bias=None", "RNN input dtype", "zip()", "scalar types",
    "PyTorch torch.int64", "BackwardHookFunction", "PyTorch IndexError: tuple index", "got ()",
    "Dimension specified as 0", "weight to be at least 1", "key_padding_mask (S)",
    "dirac_", "expected tensors of one dtype", "expected floating point numbers",
    "RecurrenceBackward0: input weight", "NoneType", "to have non-zero size for non-batch",
)  # fmt: skip


class Excused(Exception):
    """A difference that is none of the package's."""


class ModuleProgram(Program):
    """One random program of layers, losses, optimizers and schedules."""

    def __init__(self, random: Random, torch: Any) -> None:
        super().__init__(random, torch)
        self.waiting: list[str] = []
        self.count = 0
        self.modules: list[str] = []
        self.optimizers: list[str] = []
        self.schedules: list[str] = []
        self.averages: list[str] = []
        self.origin: dict[str, tuple[str, str]] = {}  # the module and the input behind a tensor
        self.narrowest = 1e-7
        self.defaults = {id(lib): lib.get_default_dtype() for lib in (nanotorch, torch)}
        for lib, space in ((nanotorch, self.ours), (torch, self.theirs)):
            lib.manual_seed(0)
            exec(PRELUDE, space)
        self.ours["exchange"] = lambda name: self.exchange(name, torch, self.theirs, self.ours)
        self.theirs["exchange"] = lambda name: self.exchange(
            name, nanotorch, self.ours, self.theirs
        )

    # --- making lines ---

    def fresh(self, kind: str) -> str:
        self.count += 1
        return f"{kind}{self.count}"

    def fill(self, template: str, **names: str) -> str:
        """The template with each choice made, and the letters replaced."""
        while "<" in template:
            template = re.sub(r"<([^<>]*)>", lambda m: str(self.pick(m[1].split("|"))), template)
        if "@p" in template:
            template = template.replace("@p", self.fill(str(self.pick(PARAMETERS))))
        for mark in ("@1", "@2"):
            while mark in template:
                template = template.replace(mark, self.fill(str(self.pick(SIMPLE_SCHEDULES))), 1)
        x = names.get("x") or self.name()
        shape = self.shape(x)
        off = 1 if self.chance(0.03) else 0
        classes = (shape[1] if len(shape) > 1 else shape[0] if shape else 1) or 1
        rest = (shape[:1] + shape[2:]) if len(shape) > 1 else ()
        values: dict[str, Any] = {
            "x": x,
            "S": shape,
            "N": shape[0] if shape else 1,
            "C": (shape[1] if len(shape) > 1 else shape[0] if shape else 1) + off,
            "F": (shape[-1] if shape else 1) + off,
            "y": f"t.randn({shape})",
            "c": f"t.randint(0, {classes}, {rest})",
            "m": self.recent(self.modules),
            "n": self.recent(self.modules),
            "o": self.recent(self.optimizers),
            "q": self.recent(self.optimizers),
            "s": self.recent(self.schedules),
            **names,
        }
        return re.sub(r"@([a-zA-Z])", lambda m: str(values.get(m[1], m[0])), template)

    def recent(self, names: list[str]) -> str:
        if not names:
            return "None"
        return str(self.pick(names[-3:] if self.chance(0.6) else names))

    def name(self) -> str:
        if not self.names:
            return "None"
        return super().name()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.theirs[name].shape) if name in self.names else ()

    def input(self) -> str:
        shape = self.pick(SHAPES)
        if self.chance(0.15):
            return f"t.randint(0, 6, {self.pick(((2, 3), (4,), (3, 2), (1, 4)))})"
        grad = ", requires_grad=True" if self.chance(0.3) else ""
        return f"t.randn({shape}{grad})"

    def layer(self) -> list[str]:
        """A module that fits a variable, and the call of it."""
        x = self.name()
        if len(self.names) > 1 and self.chance(0.6):
            x = self.names[-1]
        shape = self.shape(x)
        kind = {1: "one", 2: "rows", 3: "three", 4: "four"}.get(len(shape), "one")
        if not self.theirs[x].is_floating_point():
            kind = "tokens"
        table = LAYERS[kind] if self.chance(0.65) or kind == "tokens" else ACTIVATIONS
        text = self.fill(str(self.pick(table)), x=x)
        m, y = self.fresh("m"), self.fresh("v")
        prefix = "" if text.startswith("First") else "t.nn."
        text = text.replace("First(", "First(t.nn.")
        lines = [f"{m} = {prefix}{text}"]
        if self.chance(0.2):
            lines.append(f"{m}.eval()")
        plain = not re.match(r"(RNN|LSTM|GRU)\(", text)
        lines.append(f"{y} = {m}({x})" + ("" if plain else str(self.pick(("[0]", "[1]", "")))))
        if lines[-1].endswith("[1]") and text.startswith("LSTM"):
            lines[-1] += "[0]"
        elif not plain and lines[-1].endswith(")"):
            lines[-1] = "R = " + lines[-1].partition(" = ")[2]
        return lines

    def stack(self) -> list[str]:
        """The modules on the way to a tensor as one, with a call."""
        y = self.name()
        path: list[str] = []
        while y in self.origin:
            module, y = self.origin[y]
            path.insert(0, module)
        if not path:
            return self.layer()
        kind = self.pick(
            (
                "t.nn.Sequential({})",
                "t.nn.Sequential({})",
                "Named({})",
                "Residual(t.nn.Sequential({}))",
            )
        )
        m, v = self.fresh("m"), self.fresh("v")
        names = ", ".join(path)
        if kind.startswith("t.nn") and self.chance(0.2):
            names = (
                f"OrderedDict([{', '.join(f'({chr(97 + i)!r}, {p})' for i, p in enumerate(path))}])"
            )
            names = names.replace("OrderedDict", "__import__('collections').OrderedDict")
        return [f"{m} = {kind.format(names)}", f"{v} = {m}({y})"]

    def training(self) -> list[str]:
        """A step of training: gradients, perhaps clipped, an optimizer's step, a schedule's."""
        calls = [(v, *self.origin[v]) for v in self.names if v in self.origin]
        if not calls or not self.optimizers:
            return self.optimizer()
        v, m, x = self.pick(calls[-4:])
        y, loss, o = self.fresh("v"), self.fresh("v"), self.recent(self.optimizers)
        text = self.fill(str(self.pick(LOSSES)), x=v)  # fits the shape of the earlier call
        text = re.sub(rf"\b{v}\b", y, text)
        if self.chance(0.1):
            option = self.pick(
                ("", ", max_iter=4", ", line_search_fn='strong_wolfe'", ", history_size=2")
            )
            o2 = self.fresh("o")
            text = re.sub(rf"\b{y}\b", f"{m}({x})", text)
            if "rand" in text:
                text = f"{m}({x}).square().mean()"
            return [
                f"{o2} = t.optim.LBFGS({m}.parameters(), lr=0.3{option})",
                f"R = {o2}.step(backward_of({o2}, lambda: {text}))",
                f"R = {o2}.step(backward_of({o2}, lambda: {text}))",
            ]
        lines = [f"{o}.zero_grad({self.pick(('', '', 'set_to_none=False'))})"]
        if self.chance(0.1):
            lines = []
        lines += [f"{y} = {m}({x})", f"{loss} = {text}"]
        lines.append(f"{loss}.backward()" if "none" not in text else f"{loss}.sum().backward()")
        if self.chance(0.25):
            lines.append(self.fill(str(self.pick(CLIPPING)), m=m))
        lines.append(f"{o}.step()")
        if self.schedules and self.chance(0.6):
            lines.append(self.schedule_statement("@s.step(@k)"))
        return lines

    def optimizer(self) -> list[str]:
        if not self.modules:
            return self.layer()
        table = WRONG_OPTIMIZERS if self.chance(0.06) else OPTIMIZERS
        text = self.fill(str(self.pick(table)))
        return [f"{self.fresh('o')} = t.optim.{text}"]

    def schedule(self) -> list[str]:
        if not self.optimizers:
            return self.optimizer()
        table = WRONG_SCHEDULES if self.chance(0.08) else SCHEDULES
        o = self.recent(self.optimizers)
        text = f"S.{self.fill(str(self.pick(table)), o=o)}"
        text = text.replace("S.SWALR", "t.optim.swa_utils.SWALR")
        return [f"{self.fresh('s')} = {text}"]

    def schedule_statement(self, template: str | None = None) -> str:
        s = self.recent(self.schedules)
        plateau = "Plateau" in type(self.theirs[s]).__name__
        metric = self.pick(("0.5", "1.0", "0.4", "2.0")) if plateau else ""
        return self.fill(template or str(self.pick(SCHEDULE_STATEMENTS)), s=s, k=metric)

    def copies(self) -> str:
        kinds = [k for k in (self.modules, self.optimizers, self.schedules) if k]
        name = self.recent(self.pick(kinds))
        new = self.fresh(name[0])
        if self.optimizers and self.chance(0.4):
            m, o = self.recent(self.modules), self.recent(self.optimizers)
            m2, o2 = self.fresh("m"), self.fresh("o")
            self.waiting += [f"{m2} = PAIR[0]", f"{o2} = PAIR[1]"]
            how = self.pick(("copy.deepcopy(({}, {}))", "pickle.loads(pickle.dumps(({}, {})))"))
            return f"PAIR = {how.format(m, o)}"
        return f"{new} = " + str(
            self.pick(
                (
                    f"copy.deepcopy({name})",
                    f"copy.deepcopy({name})",
                    f"pickle.loads(pickle.dumps({name}))",
                )
            )
        )

    def line(self) -> str:
        if not self.lines and self.chance(0.8):
            return "t.set_default_dtype(t.float64)"
        if self.waiting:
            return self.waiting.pop(0)
        if not self.names or self.chance(0.06):
            return f"{self.fresh('v')} = {self.input()}"
        if len(self.modules) < 2 or self.chance(0.3):
            self.waiting += self.layer()
        elif self.chance(0.12):
            self.waiting += self.stack()
        elif self.chance(0.3):
            self.waiting += self.training()
        elif self.chance(0.08):
            self.waiting += self.optimizer()
        elif self.chance(0.1):
            self.waiting += self.schedule()
        elif self.schedules and self.chance(0.1):
            return self.schedule_statement()
        elif self.optimizers and self.chance(0.15):
            return self.fill(str(self.pick(OPTIMIZER_STATEMENTS)))
        elif self.chance(0.06):
            return self.copies()
        elif self.chance(0.03):
            return f"{self.fresh('m')} = {self.fill(str(self.pick(AVERAGES)))}"
        elif self.averages and self.chance(0.3):
            return self.fill(str(self.pick(AVERAGE_STATEMENTS)), a=self.recent(self.averages))
        elif self.chance(0.2):
            x = self.floating()
            return f"{self.fresh('v')} = {self.fill(str(self.pick(CALLS)), x=x)}"
        elif self.chance(0.12):
            return f"{self.fresh('m')} = {self.fill(str(self.pick(CONTAINERS)))}"
        elif self.chance(0.1):
            return self.fill(str(self.pick(CONTAINER_STATEMENTS)))
        elif self.chance(0.1):
            return self.fill(str(self.pick(CLIPPING)))
        elif self.chance(0.15):
            x = self.floating()
            loss = self.fill(str(self.pick(LOSSES)), x=x)
            v = self.fresh("v")
            self.waiting += [
                f"{v} = {loss}",
                f"{v}.backward()" if self.chance(0.7) else f"{v}.sum().backward()",
            ]
        elif self.chance(0.1):
            m, x = self.recent(self.modules), self.name()
            return f"{self.fresh('v')} = {m}({x})"
        else:
            return self.fill(str(self.pick(STATEMENTS)))
        return self.waiting.pop(0)

    # --- running and comparing ---

    @staticmethod
    def exchange(name: str, library: Any, source: dict[str, Any], target: dict[str, Any]) -> None:
        """Loads what the other library's object of that name saves."""
        file = io.BytesIO()
        library.save(source[name].state_dict(), file)
        file.seek(0)
        target[name].load_state_dict(target["t"].load(file))

    def fail(self, what: str) -> None:
        if any(part in what for part in EXCUSED):
            raise Excused
        super().fail(what)

    def run_line(self, line: str) -> None:
        libraries = (nanotorch, self.torch)
        before = [lib.get_default_dtype() for lib in libraries]
        try:
            for lib in libraries:
                lib.set_default_dtype(self.defaults[id(lib)])
            try:
                super().run_line(line)
            except (Excused, RecursionError):  # of a module within itself
                self.over = True
            if re.search(r"vector_to|\.(double|float|half|bfloat16|to|type|cpu)\(|assign", line):
                self.forget()
            for lib in libraries:
                self.defaults[id(lib)] = lib.get_default_dtype()
        finally:
            for lib, dtype in zip(libraries, before, strict=True):
                lib.set_default_dtype(dtype)

    def forget(self) -> None:
        """Leaves out what was computed from weights that have other memory now: PyTorch's walk
        would use the new values."""
        self.names = [name for name in self.names if self.theirs[name].is_leaf]

    def follow(self, name: str) -> None:
        theirs = self.theirs[name]
        lists: dict[str, list[str]] = {
            "v": self.names, "m": self.modules, "o": self.optimizers, "s": self.schedules,
        }  # fmt: skip
        if not re.fullmatch(r"[vmos]\d+", name) or name in lists[name[0]]:
            return
        if name[0] == "v" and not isinstance(theirs, self.torch.Tensor):
            if type(self.ours[name]).__name__ != type(theirs).__name__:
                self.fail(f"{name}: NanoTorch {self.ours[name]!r}, PyTorch {theirs!r}")
            return
        if name[0] == "m" and not isinstance(theirs, self.torch.nn.Module):
            return
        if type(theirs).__name__ == "Adagrad" and not all(
            p.requires_grad for group in theirs.param_groups for p in group["params"]
        ):
            return  # which keeps no state for what requires no gradient
        lists[name[0]].append(name)
        if "AveragedModel" in type(theirs).__name__:
            self.averages.append(name)
        called = re.fullmatch(r"v\d+ = (m\d+)\((v\d+)\)", self.lines[-1])
        if called:
            self.origin[name] = (called[1], called[2])

    def compare(self) -> None:
        if "R" in self.theirs:
            self.alike("R", self.ours.pop("R", "missing"), self.theirs.pop("R"))
        for name in self.names:
            self.alike(name, self.ours[name], self.theirs[name])
        for name in self.modules:
            self.same_module(name, self.ours[name], self.theirs[name])
        for name in self.optimizers:
            ours, theirs = self.ours[name], self.theirs[name]
            try:
                theirs.state_dict()
            except KeyError:  # a parameter with state was taken out of its group
                self.over = True
                return
            self.alike(f"{name}.state_dict()", *(ordered(o.state_dict()) for o in (ours, theirs)))
            self.alike(
                f"{name} parameters",
                *([p for g in o.param_groups for p in g["params"]] for o in (ours, theirs)),
            )
            for group, other in zip(ours.param_groups, theirs.param_groups):
                self.alike(
                    f"{name}.param_groups",
                    *({k: g[k] for k in sorted(g) if k != "params"} for g in (group, other)),
                )
        for name in self.schedules:
            ours, theirs = self.ours[name], self.theirs[name]
            for method in ("state_dict", "get_last_lr"):
                try:
                    expected = getattr(theirs, method)()
                except AttributeError:
                    continue
                found = getattr(ours, method)()
                if method == "state_dict":
                    found, expected = (
                        {k: d[k] for k in sorted(d) if k[0] != "_"} for d in (found, expected)
                    )
                self.alike(f"{name}.{method}()", found, expected)
        self.alike("LOG", self.ours["LOG"], self.theirs["LOG"])
        one, other = nanotorch.get_rng_state().numpy(), self.torch.get_rng_state().numpy()
        if not self.over and not numpy.array_equal(one, other):
            self.fail("the states of the generators differ")

    def same_module(self, name: str, ours: Any, theirs: Any) -> None:
        try:
            repr(theirs), repr(ours)
        except (
            AttributeError,
            RecursionError,
            RuntimeError,
        ):  # a part that its text tells of was taken out
            self.over = True
        if self.over:
            return
        if placeless(repr(ours)) != placeless(repr(theirs)):
            self.fail(f"{name}: NanoTorch\n{ours!r}\nPyTorch\n{theirs!r}")
        self.alike(
            f"{name}.named_parameters()",
            *(list(m.named_parameters(remove_duplicate=False)) for m in (ours, theirs)),
        )
        self.alike(f"{name}.named_buffers()", *(list(m.named_buffers()) for m in (ours, theirs)))
        self.alike(f"{name}.state_dict()", *(list(m.state_dict()) for m in (ours, theirs)))
        self.alike(f"{name}.training", *([m.training for m in x.modules()] for x in (ours, theirs)))

    def alike(self, name: str, ours: Any, theirs: Any) -> None:
        """Fails unless two values say the same, whatever they are made of."""
        if self.over:
            return
        if isinstance(theirs, self.torch.Tensor):
            if not isinstance(ours, nanotorch.Tensor):
                self.fail(f"{name}: NanoTorch {ours!r}\nPyTorch {theirs!r}")
            self.same(name, ours, theirs)
            if theirs.is_leaf or theirs.retains_grad:
                if not self.over:
                    self.grads(name, ours, theirs)
            return
        if isinstance(theirs, Mapping) and isinstance(ours, Mapping):
            if list(map(str, ours)) != list(map(str, theirs)):
                self.fail(f"{name}: NanoTorch {list(ours)}\nPyTorch {list(theirs)}")
            for (key, one), other in zip(ours.items(), theirs.values(), strict=True):
                self.alike(f"{name}[{key!r}]", one, other)
            return
        if isinstance(theirs, str):
            agree = isinstance(ours, str) and placeless(ours) == placeless(theirs)
        elif isinstance(theirs, bool | None | type):
            agree = ours == theirs or isinstance(theirs, type)
        elif isinstance(theirs, float | int | complex):
            agree = type(ours) is type(theirs) and bool(
                numpy.isclose(ours, theirs, self.narrowest, 1e-12, True)
            )
        elif isinstance(theirs, list | tuple):
            names = [type(x).__name__.lstrip("_") for x in (ours, theirs)]
            agree = names[0] == names[1] and len(ours) == len(theirs)
            if agree:
                for i, (one, other) in enumerate(zip(ours, theirs)):
                    self.alike(f"{name}[{i}]", one, other)
        else:
            agree = type(ours).__name__ == type(theirs).__name__
        if not agree:
            self.fail(f"{name}: NanoTorch {ours!r}\nPyTorch {theirs!r}")

    def tame(self, one: Any, other: Any, rounding: float) -> bool:
        """... nor what is left of a difference of equals, which a norm layer would make large."""
        tiny = (numpy.abs(other) < rounding * 0.1) & (numpy.abs(one) < rounding * 0.1)
        return super().tame(one, other, rounding) and not (tiny & (one != other)).any()

    def same(self, name: str, ours: Any, theirs: Any) -> None:
        for field in ("requires_grad", "is_leaf"):
            one, other = getattr(ours, field), getattr(theirs, field)
            if one != other:
                self.fail(f"{name}.{field}: NanoTorch {one}, PyTorch {other}")
        if repr(ours.dtype) != repr(theirs.dtype) or tuple(ours.shape) != tuple(theirs.shape):
            self.fail(
                f"{name}: NanoTorch {ours.dtype} {tuple(ours.shape)}, "
                f"PyTorch {theirs.dtype} {tuple(theirs.shape)}"
            )
        kind = repr(theirs.dtype)
        if "float32" in kind:
            self.narrowest = max(self.narrowest, 1e-3)
        elif "float16" in kind:
            self.narrowest = 4e-2
        one, other = array_of(ours), array_of(theirs)
        if other.dtype.kind == "f":
            if not self.tame(one, other, self.narrowest):
                self.over = True
                return
            if "LBFGS" in "".join(self.lines) and not numpy.array_equal(one, other):
                self.over = True  # its last digits are not PyTorch's
                return
            if not numpy.allclose(
                one, other, rtol=self.narrowest, atol=max(self.narrowest, 1e-8), equal_nan=True
            ):
                self.fail(f"{name}: NanoTorch\n{one}\nPyTorch\n{other}")
        elif not numpy.array_equal(one, other):
            self.fail(f"{name}: NanoTorch\n{one}\nPyTorch\n{other}")


def drawn() -> list[Any]:
    """How far the generators of the CPU and, where that is the default, of the GPU have drawn."""
    on_gpu = nanotorch.get_default_device().type == "cuda"
    return [nanotorch.get_rng_state(), *([nanotorch.cuda.get_rng_state()] if on_gpu else [])]


def draw_on(states: list[Any]) -> None:
    """Makes the generators go on from there."""
    nanotorch.set_rng_state(states[0])
    for state in states[1:]:
        nanotorch.cuda.set_rng_state(state)


def placeless(text: str) -> str:
    """A text without the GPU that NanoTorch's tensors are on."""
    for name, rest in ((" (cuda:0)", ""), (", device='cuda:0'", ""), ("torch.cuda.", "torch.")):
        text = text.replace(name, rest)
    return text


def ordered(state: Any) -> Any:
    """The state of an optimizer with the options of a group in the order of their names."""
    groups = [{key: group[key] for key in sorted(group)} for group in state["param_groups"]]
    if any("func_evals" in values for values in state["state"].values()):
        return {"param_groups": groups}  # L-BFGS keeps its vectors otherwise
    return {**state, "param_groups": groups}


# --- compiled steps -------------------------------------------------------------------------------

STEPS = """
def like(m, x):
    with t.no_grad():
        return t.randn_like(copy.deepcopy(m)(x))

def training(m, o, loss, clip, late, none):
    def step(x, k):
        if not late:
            o.zero_grad(none)
        value = loss(m(x), k)
        value.backward()
        if clip:
            U.clip_grad_norm_(m.parameters(), clip)
        o.step()
        if late:
            o.zero_grad(none)
        return value
    return wrap(step)

def gradients(m, loss):
    def step(x, k):
        value = loss(m(x), k)
        value.backward()
        return value, [p.grad for p in m.parameters() if p.requires_grad]
    return wrap(step)

def accumulating(m, o, loss):
    counts = [0]
    def step(x, k):
        counts[0] += 1
        value = loss(m(x), k) / 2
        value.backward()
        if pure or counts[0] % 2 == 0:
            o.step()
            o.zero_grad()
        return value
    return wrap(step)

def twice(m, o, loss):
    def step(x, k):
        o.zero_grad()
        value = loss(m(x), k)
        other = loss(m(x), k * 0.5)
        value.backward()
        other.backward()
        U.clip_grad_value_(m.parameters(), 0.1)
        o.step()
        return value, other.detach()
    return wrap(step)

def penalized(m, o, loss):
    def step(x, k):
        o.zero_grad()
        value = loss(m(x), k)
        wanted = [p for p in m.parameters() if p.requires_grad]
        found = t.autograd.grad(value, wanted, create_graph=True, allow_unused=True)
        (value + sum(g.square().sum() for g in found if g is not None) * 0.1).backward()
        o.step()
        return value
    return wrap(step)

def scheduled(m, o, loss):
    s = S.ExponentialLR(o, 0.9)
    def step(x, k):
        o.zero_grad()
        value = loss(m(x), k)
        value.backward()
        o.step()
        s.step()
        return value
    return wrap(step)

def module(m, loss):
    compiled = wrap(m)
    def step(x, k):
        with t.no_grad():
            return compiled(x)
    return step

def evaluation(m, loss):
    def step(x, k):
        with t.no_grad():
            y = m(x)
            return loss(y, k), y.argmax(-1)
    return wrap(step)
"""
STEP_LOSSES = templates("""
F.mse_loss(y, k$REDUCED)
F.l1_loss(y, k)
F.huber_loss(y, k<|, delta=0.3>)
F.smooth_l1_loss(y, k<|, reduction='sum'>)
F.cross_entropy(y, k.argmax(1)<|, label_smoothing=0.1><|, reduction='sum'>)
F.cross_entropy(y, k.softmax(1))
F.nll_loss(y.log_softmax(1), k.argmax(1))
F.binary_cross_entropy_with_logits(y, k.sigmoid()<|, pos_weight=k.exp()>)
F.binary_cross_entropy(y.sigmoid(), k.sigmoid())
F.kl_div(y.log_softmax(-1), k.softmax(-1), reduction='batchmean')
F.gaussian_nll_loss(y, k, k.exp())
F.poisson_nll_loss(y, k.abs())
F.soft_margin_loss(y, k.sign())
F.cosine_similarity(y, k).mean()
F.multi_margin_loss(y, k.argmax(1))
(y * k).sum()
(y - k).abs().max() + y.square().mean()
y.logsumexp(-1).mean()
F.dropout(y, 0.3).square().mean() + y[:1].sum()
(y.tanh() * k).mean() + sum(p.square().sum() for p in M.parameters()) * 0.01
""")
BETWEEN = templates("""
@m.train()
@m.eval()
@m.train(False)
for p in list(@m.parameters())[:<1|2>]: p.requires_grad_(<False|True>)
for p in list(@m.parameters())[-1:]: p.requires_grad_(<False|True>)
@m.requires_grad_(True)
for p in @m.parameters(): p.grad = None
@m.zero_grad(<|set_to_none=False>)
for p in list(@m.parameters())[:1]: p.grad = t.ones_like(p)
for p in @m.parameters(): p.data.mul_(<0.5|0.9>)
for p in @m.parameters(): p.data = p.data * 0.5
@m.load_state_dict({k: v * 0.5 for k, v in @m.state_dict().items()}<|, assign=True>)
@m.load_state_dict(t.load(saved(@m.state_dict())))
for b in @m.buffers(): b.zero_()
for n in @m.modules(): n.reset_parameters() if hasattr(n, 'reset_parameters') else None
U.vector_to_parameters(U.parameters_to_vector(@m.parameters()) * 0.5, @m.parameters())
@m.double()
@m.float()
@o.param_groups[<0|-1>]['lr'] = <0.05|0.2>
@o.param_groups[0]['weight_decay'] = <0|0.1>
@o.zero_grad()
@o.step()
@o.load_state_dict(copy.deepcopy(@o.state_dict()))
@o.load_state_dict(t.load(saved(@o.state_dict())))
@o.state.clear()
R = @o.state_dict()
R = [p.grad for p in @m.parameters()]
R = U.clip_grad_norm_(@m.parameters(), 0.3)
t.manual_seed(<0|1|2>)
""")


class StepProgram(ModuleProgram):
    """A random program whose training and evaluation steps are compiled here, and eager there:
    NanoTorch beside itself, bit for bit."""

    def __init__(self, random: Random, torch: Any = None) -> None:
        super().__init__(random, nanotorch)
        self.pure = False
        self.steps: list[tuple[str, str, str]] = []  # a step, its module and an input of it
        self.states = {id(space): drawn() for space in (self.ours, self.theirs)}
        self.theirs["wrap"] = lambda f: f
        self.ours["wrap"] = lambda f: nanotorch.compile(f, pure=self.pure)
        for space in (self.ours, self.theirs):
            exec(STEPS, space)

    def run_line(self, line: str) -> None:
        super().run_line(line)
        self.pure = self.ours.get("pure", False)

    def attempt(self, code: Any, space: dict[str, Any]) -> Exception | None:
        draw_on(self.states[id(space)])
        try:
            return super().attempt(code, space)
        finally:
            self.states[id(space)] = drawn()

    def line(self) -> str:
        if not self.lines:
            return f"pure = {self.chance(0.5)}"
        if len(self.lines) == 1 and self.chance(0.5):
            return "t.set_default_dtype(t.float64)"
        if self.waiting:
            return self.waiting.pop(0)
        if not self.names or (not self.steps and self.chance(0.05)):
            return f"{self.fresh('v')} = {self.input()}"
        if len(self.origin) < self.random.randrange(2, 5):
            self.waiting += self.layer()
        elif not self.steps or self.chance(0.03):
            self.waiting += self.compiled()
        elif self.schedules and self.chance(0.1):
            return self.schedule_statement("@s.step(@k)")
        elif self.chance(0.03):
            self.waiting += self.schedule()
        elif self.chance(0.45):
            _, m, _ = self.pick(self.steps)
            choices = [text for text in BETWEEN if self.optimizers or "@o" not in text]
            return self.fill(str(self.pick(choices)), m=m)
        else:
            self.waiting += self.call()
        return self.waiting.pop(0)

    def compiled(self) -> list[str]:
        """A module of the layers on the way to a tensor, its optimizer, and a step on them."""
        lines = self.stack()
        called = re.fullmatch(r"v\d+ = (m\d+)\((v\d+)\)", lines[-1])
        if not called or not lines[0].startswith(called[1]):
            return lines
        m, x = called[1], called[2]
        loss = self.fill(str(self.pick(STEP_LOSSES))).replace("M.", f"{m}.")
        loss = f"({loss})" + (".sum()" if "'none'" in loss else "")
        f, kind = self.fresh("f"), self.random.randrange(12)
        if kind == 0:
            lines.append(f"{f} = evaluation({m}, lambda y, k: {loss})")
        elif kind == 1:
            lines.append(f"{f} = gradients({m}, lambda y, k: {loss})")
        elif kind == 2:
            lines.append(f"{f} = module({m}, lambda y, k: {loss})")
        else:
            o = self.fresh("o")
            text = self.fill(str(self.pick(OPTIMIZERS)), m=m, x=x)
            lines.append(f"{o} = t.optim.{text}")
            clip, late, none = self.pick((0, 0, 0.5)), self.chance(0.3), self.chance(0.7)
            rest = f", {clip}, {late}, {none}"
            others = ("accumulating", "twice", "penalized", "scheduled")
            step = "training" if kind < 8 else others[kind - 8]
            rest = rest if step == "training" else ""
            lines.append(f"{f} = {step}({m}, {o}, lambda y, k: {loss}{rest})")
        self.steps.append((f, m, x))
        return lines

    def call(self) -> list[str]:
        """Calls of a step, with an input as it was or with another batch."""
        f, m, x = self.pick(self.steps)
        lines = []
        if self.theirs[x].requires_grad and self.chance(0.9):  # no argument of a pure step does
            lines.append(f"{x} = {x}.detach()")
        if self.chance(0.3):
            shape, new = self.shape(x), self.fresh("v")
            other = (self.pick((1, 2, 3, 5)), *shape[1:])
            whole = x in self.names and not self.theirs[x].is_floating_point()
            lines.append(f"{new} = t.{'randint(0, 6, ' if whole else 'randn('}{other})")
            x = new
        k = self.fresh("v")
        lines.append(f"{k} = like({m}, {x})")
        return lines + [f"R = {f}({x}, {k})"] * self.pick((1, 2, 3))

    def alike(self, name: str, ours: Any, theirs: Any) -> None:
        if name == "LOG":
            return
        super().alike(name, ours, theirs)

    def compare(self) -> None:
        draw_on(self.states[id(self.ours)])
        super().compare()
        one, other = (
            [x.tolist() for x in self.states[id(space)]] for space in (self.ours, self.theirs)
        )
        if not self.over and one != other:
            self.fail("the states of the generators differ")

    def same(self, name: str, ours: Any, theirs: Any) -> None:
        # What a pure step returns is a copy outside of the graph.
        fields = () if self.pure and name[0] == "R" else ("requires_grad", "is_leaf")
        for field in ("dtype", "shape", *fields):
            one, other = getattr(ours, field), getattr(theirs, field)
            if one != other:
                self.fail(f"{name}.{field}: compiled {one}, eager {other}")
        one, other = array_of(ours), array_of(theirs)
        if one.tobytes() != other.tobytes() and not numpy.array_equal(one, other, equal_nan=True):
            if self.pure and self.mixed() and numpy.allclose(one, other, 1e-4, 1e-6):
                self.over = True  # an eager walk multiplies float32 by integers in float64
                return
            self.fail(f"{name}: compiled\n{one}\neager\n{other}")

    def mixed(self) -> bool:
        """Whether tensors of several dtypes are about."""
        tensors = [self.theirs[name] for name in self.names]
        tensors += [p for name in self.modules for p in self.theirs[name].parameters()]
        return len({x.dtype for x in tensors}) > 1
