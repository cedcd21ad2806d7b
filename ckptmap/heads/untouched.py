"""Evidence that a stored tensor looks untouched since initialisation; never a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import erf, exp, inf, pi, prod, sqrt
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    import torch

    from ckptmap.checkpoint import Checkpoint

Says: TypeAlias = Literal["untouched", "trained", "unclear"]
# What one tensor looks like by itself: one value throughout; carrying the grain of torch's generator, wholly or partly;
# not to be told from a fresh one; noise of an unknown spread; not noise; not looked at.
Kind: TypeAlias = Literal["constant", "grain", "partly", "like", "noise", "worked", "unseen"]

MAX_PARAMETERS = 1 << 26
"""Larger tensors are not read: half a gigabyte of memory is enough for a piece of evidence."""
MIN_PARAMETERS = 64
"""Fewer values do not show a distribution."""

# Thresholds; benchmarks/untouched.py measures what they give.
MAX_Z = 3.7
"""Standard errors by which mean and spread may miss an initialiser's: one fresh tensor in 5,000 misses by more."""
MAX_KS = 2.1
"""√n × Kolmogorov–Smirnov distance: one fresh tensor in 3,000 has more."""
MAX_EDGE = 5.0
"""Tracy–Widom units by which the largest singular value may pass that of noise: one fresh tensor in 10,000 has more."""
MIN_GRAIN = 8
"""Places that must show the grain. By chance one place in three does, and so all of eight once in 6,000 tensors."""
SAMPLE = 1 << 20
"""Values that go into a Kolmogorov–Smirnov distance."""
CHUNK = 1 << 22
"""Values looked at together for the grain; a multiple of 16."""

ROUNDING = {"F32": 0.0, "F64": 0.0, "F16": 0.001, "BF16": 0.004}
"""Dtypes looked at, and how far rounding to them moves a distribution (half a step of the most crowded values)."""
STD_KEYS = ("initializer_range", "init_std", "initializer_std", "initializer_factor")
LAYER_KEYS = ("num_hidden_layers", "num_layers", "n_layer", "encoder_layers", "decoder_layers")
TORCH, KAIMING = "torch's default 1/√fan_in", "kaiming"
LECUN = 0.87962566103423978
"""Std of a normal distribution cut at 2 stds. Source: transformers 5.23.0, initialization.py, _variance_scaling."""
STDS = (0.02, 1.0)
"""Stds of fresh weights where no config tells: what transformers falls back to, and torch's nn.Embedding.

Source: transformers 5.23.0, modeling_utils.py, PreTrainedModel._init_weights; torch 2.13.0, nn/modules/sparse.py.
"""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the values of one tensor suggest.

    Attributes:
        name: The tensor.
        says: `untouched` if it looks untouched since initialisation, `trained` if it does not look like a fresh one,
            `unclear` if values cannot tell: too few of them, or a training too short to leave a trace.
        statistic: A sentence with the numbers.
    """

    name: str
    says: Says
    statistic: str


@dataclass(frozen=True, slots=True)
class _Init:
    """A random initialiser.

    Attributes:
        shape: Normal, or uniform around 0.
        scale: The std of a normal distribution before it is cut, or the bound of a uniform one.
        called: What people call it.
        cut: Stds beyond which a normal distribution has nothing.
    """

    shape: Literal["normal", "uniform"]
    scale: float
    called: str
    cut: float = inf

    @property
    def std(self) -> float:
        if self.shape == "uniform":
            return self.scale / sqrt(3)
        if self.cut == inf:
            return self.scale
        return self.scale * sqrt(1 - self.cut * sqrt(2 / pi) * exp(-(self.cut**2) / 2) / erf(self.cut / sqrt(2)))

    @property
    def bound(self) -> float:
        return self.scale if self.shape == "uniform" else self.scale * self.cut


@dataclass(frozen=True, slots=True)
class _Look:
    """What one tensor looks like by itself.

    Attributes:
        kind: In one word.
        numbers: In numbers for people.
        value: Of a constant.
        init: The initialiser it looks like.
    """

    kind: Kind
    numbers: str
    value: float = 0.0
    init: _Init | None = None


def untouched(
    checkpoint: Checkpoint,
    names: Iterable[str] | None = None,
    *,
    initializer_range: float | None = None,
    max_parameters: int = MAX_PARAMETERS,
) -> dict[str, Evidence]:
    """Evidence, by name, that tensors look untouched since initialisation; one tensor at a time is in memory.

    A weight is compared with what the initialisers of transformers and torch make, and judged together with its bias:
    any step of training moves a bias off its start, while a short one leaves no trace in the spread of weights. Weights
    alone can tell only if they carry the grain of torch's generator: 32-bit ones, made on a CPU.

    Args:
        checkpoint: Where the values are.
        names: Tensors to look at, all by default; the bias of a weight and the weight of a bias are read too.
        initializer_range: Std of fresh weights; what config.json says, and the usual ones, are tried as well.
        max_parameters: Larger tensors are not read.

    Raises:
        KeyError: There is no such tensor.
        CheckpointError: A tensor cannot be read.
    """
    wanted = list(checkpoint) if names is None else list(dict.fromkeys(names))
    missing = [name for name in wanted if name not in checkpoint]
    if missing:
        raise KeyError(missing[0])
    stds = dict(_stds(checkpoint.config or {}, initializer_range))
    looks: dict[str, _Look] = {}
    found = {}
    for name in wanted:
        prefix, leaf = name[: -len(name.split(".")[-1])], name.split(".")[-1]
        pair = [f"{prefix}weight", f"{prefix}bias"] if leaf in ("weight", "bias") else [name]
        for each in pair:
            if each in checkpoint and each not in looks:
                looks[each] = _look(checkpoint, each, pair, stds, max_parameters)
        weight, bias = looks.get(pair[0]), looks.get(pair[1]) if len(pair) > 1 else None
        says, note = _of_bias(looks[name], weight) if leaf == "bias" else _of_weight(looks[name], bias, leaf)
        found[name] = Evidence(name, says, _sentence(says, looks[name].numbers, note))
    return found


def _of_weight(weight: _Look, bias: _Look | None, leaf: str) -> tuple[Says, str]:
    """Weigh a weight, or any other tensor, with its bias."""
    if weight.kind in ("unseen", "partly"):
        return "unclear", ""
    if weight.kind == "worked":
        # What is not called a weight may be a table or a statistic that no training made.
        return ("trained", "") if leaf == "weight" else ("unclear", "not like any initialiser known here")
    if bias is None:
        if weight.kind == "grain":
            return "untouched", ""
        if weight.kind == "constant":
            return "unclear", "as some initialisers leave it, but weak evidence alone"
        return "unclear", "a short training would leave no trace in it, and there is no bias to tell"
    if _starts(bias):
        if weight.kind in ("grain", "like"):
            return "untouched", f"its bias: {bias.numbers}"
        if weight.kind == "constant" and weight.value in (0, 1):  # a norm, or a gate that starts closed
            return "untouched", f"its bias: {bias.numbers}"
        if weight.kind == "noise":  # such is the pooler of all-MiniLM-L6-v2
            return "unclear", f"an unknown initialiser or weight decay alone would leave this; its bias: {bias.numbers}"
        return "unclear", f"but its bias: {bias.numbers}"
    if weight.kind == "grain" and not _moved(bias, weight):
        return "untouched", f"its bias: {bias.numbers}"
    if _moved(bias, weight) and weight.kind != "grain":
        return "trained", f"its bias: {bias.numbers}"
    return "unclear", f"but its bias: {bias.numbers}"


def _of_bias(bias: _Look, weight: _Look | None) -> tuple[Says, str]:
    """Weigh a bias with its weight."""
    if _moved(bias, weight):
        return "trained", ""
    if weight is None:
        return "unclear", "weak evidence alone"
    says, _ = _of_weight(weight, bias, "weight")
    return ("untouched" if says == "untouched" and _starts(bias) else "unclear"), f"its weight: {weight.numbers}"


def _starts(bias: _Look) -> bool:
    return bias.kind == "grain" or (bias.kind == "constant" and bias.value == 0)


def _moved(bias: _Look, weight: _Look | None) -> bool:
    """Whether a bias has left its start; only beside weights that start so may it be small, uniform and fresh."""
    if bias.kind == "like":
        if weight is None or weight.kind == "unseen":
            return False
        return weight.init is None or weight.init.called not in (TORCH, KAIMING)
    return bias.kind == "worked"


def _sentence(says: Says, numbers: str, note: str) -> str:
    said = {"untouched": "looks untouched since initialisation", "trained": "does not look fresh", "unclear": "unclear"}
    return f"{said[says]}: {numbers}" + (f"; {note}" if note else "")


def _stds(config: Mapping[str, Any], given: float | None) -> Iterator[tuple[str, float]]:
    """Stds that fresh weights may have, by what says so; configs of composite models hold others."""
    if given:
        yield "initializer_range", given
    for key in STD_KEYS:
        if isinstance(std := config.get(key), int | float) and 0 < std < 1e3:
            yield (f"config's {key}" if given else key), float(std)
            for layers in (config.get(key) for key in LAYER_KEYS):
                if isinstance(layers, int) and 0 < layers < 10_000:
                    # GPT-2's, for what ends a residual branch. Source: transformers 5.23.0, modeling_gpt2.py
                    yield f"{key} / √(2 × {layers} layers)", std / sqrt(2 * layers)
    for key, inner in config.items():
        if isinstance(inner, dict) and key.endswith("config"):
            yield from ((f"{key}.{name}", std) for name, std in _stds(inner, None) if name not in map(str, STDS))
    yield from ((str(std), std) for std in STDS)


def _inits(shape: tuple[int, ...], stds: Mapping[str, float]) -> Iterator[_Init]:
    """Initialisers that may have made a weight.

    Most truncated normals (ViT's) are cut at ±2, a hundred stds of 0.02 away, and are normal for us.

    Source: torch 2.13.0, nn/init.py (kaiming, xavier) and nn/modules/linear.py, conv.py (reset_parameters);
    transformers 5.23.0, modeling_t5.py (widths to the power of -0.5), modeling_wav2vec2.py (kaiming normal),
    modeling_modernbert.py (cut at 2 or 3 stds), initialization.py (lecun_normal_, whose 0.88 undoes the cut).
    """
    for called, std in stds.items():
        yield _Init("normal", std, called)
        yield from (_Init("normal", std, f"{called}, cut at {cut} stds", cut) for cut in (2, 3))
    if len(shape) < 2:
        return
    fan_in, fan_out = prod(shape[1:]), shape[0] * prod(shape[2:])
    yield _Init("uniform", 1 / sqrt(fan_in), TORCH)
    yield _Init("uniform", sqrt(6 / (fan_in + fan_out)), "xavier")
    yield _Init("normal", sqrt(2 / (fan_in + fan_out)), "xavier")
    yield _Init("normal", sqrt(2 / fan_in), KAIMING)
    yield _Init("normal", 1 / sqrt(fan_in), "1/√fan_in")
    yield _Init("normal", 1 / sqrt(fan_out), "1/√fan_out")
    yield _Init("normal", 1 / sqrt(fan_in) / LECUN, "lecun, cut at 2 stds", 2)
    yield _Init("normal", 1 / sqrt(fan_in), "1/√fan_in, cut at 2 stds", 2)


def _look(checkpoint: Checkpoint, name: str, pair: list[str], stds: Mapping[str, float], most: int) -> _Look:
    """Read one tensor and look at it by itself."""
    spec = checkpoint[name]
    if spec.dtype not in ROUNDING:
        return _Look("unseen", f"values of dtype {spec.dtype} are not looked at")
    if not 0 < spec.parameters <= most:
        return _Look("unseen", f"{spec.parameters:,} values are not looked at")
    values = checkpoint.load(name).detach()
    if values.is_meta:
        return _Look("unseen", "has no values")
    values = values.cpu().float().reshape(spec.shape)
    low, high = values.min().item(), values.max().item()
    if low == high:
        return _Look("constant", f"exactly {low:g} throughout; n {spec.parameters:,}", low)
    if not values.isfinite().all():
        return _Look("worked", "holds values that are not finite")
    if len(pair) > 1 and len(spec.shape) < 2:  # a bias, or the weight of a norm
        weight = checkpoint.get(pair[0])
        return _look_at_bias(values, spec.dtype, weight.shape if weight else ())
    return _look_at_noise(values, spec.dtype, list(_inits(spec.shape, stds)))


def _look_at_bias(values: torch.Tensor, dtype: str, weight: tuple[int, ...]) -> _Look:
    numbers = f"not constant, from {values.min().item():.3g} to {values.max().item():.3g}; n {values.numel():,}"
    if len(weight) > 1:
        init = _Init("uniform", 1 / sqrt(prod(weight[1:])), TORCH)
        std, most = values.std().item(), values.abs().max().item()
        if _near(init, std, most, values.numel(), ROUNDING[dtype]):
            places, shown = _grain(values, init) if dtype == "F32" else (0, 0)
            if places >= MIN_GRAIN and shown == places:
                return _Look("grain", f"{numbers}; all of {places:,} places show the grain of a fresh {init.called}")
            if places < MIN_GRAIN:  # few values, or 16-bit ones, cannot show it
                return _Look("like", f"{numbers}; within ±{init.scale:.3g}, {init.called}")
    return _Look("worked", numbers)


def _look_at_noise(values: torch.Tensor, dtype: str, inits: list[_Init]) -> _Look:
    """Compare values with each initialiser; the grain decides, then mean, spread, distribution and singular values."""
    rows = values.reshape(values.shape[0], -1)
    kept = rows.any(dim=1)
    if len(rows) - int(kept.sum()) == 1:  # the padding row of an embedding starts at 0
        rows = rows[kept]
    n = rows.numel()
    if n < MIN_PARAMETERS:
        return _Look("unseen", f"{n} values are too few to say")
    mean, std, most = rows.mean().item(), rows.std().item(), rows.abs().max().item()
    lengths = rows.norm(dim=1)
    if len(rows) > 2 and lengths.std().item() < 0.01 * lengths.mean().item() and n < 5000 * len(rows):
        return _Look("unseen", f"rows are all of one length, as in a fixed table of sines; n {n:,}")
    spread = f"mean {mean:.1e}, kurtosis {_kurtosis(rows, mean, std):.1f}; n {n:,}"
    if std == 0 or abs(mean) > MAX_Z * std / sqrt(n) * (1 + 1e-6):
        return _Look("worked", f"std {std:.4g}, mean {mean:.1e} is not that of noise around 0; n {n:,}")
    near = [init for init in inits if _near(init, std, most, n, ROUNDING[dtype])]
    if dtype == "F32":
        for init in (init for init in near if init.cut == inf):
            places, shown = _grain(values.reshape(-1), init)
            told = f"std {std:.4g} against {init.std:.4g} ({init.called}), {spread}; {shown:,} of {places:,} places"
            if places >= MIN_GRAIN and shown == places:
                return _Look("grain", f"{told} show the grain of torch's generator", init=init)
            # By chance one in three shows it.
            if places >= 4 * MIN_GRAIN and shown > 0.6 * places:
                return _Look("partly", f"{told} show the grain of torch's generator: in part untouched")
    edge = _edge(rows, std)
    if edge > MAX_EDGE:
        return _Look("worked", f"std {std:.4g}, {spread}; a direction stands out by {edge:.0f} units of noise")
    distances = {init: _distance(rows, init) for init in near}
    limit = MAX_KS / sqrt(min(n, SAMPLE)) + ROUNDING[dtype]
    best = min(distances, key=distances.__getitem__, default=None)
    if best is not None and distances[best] <= limit:
        return _Look("like", f"std {std:.4g} against {best.std:.4g} ({best.called}, {best.shape}), {spread}", init=best)
    own = (_Init("normal", std, ""), _Init("normal", std / LECUN, "", 2), _Init("uniform", most, ""))
    if min(_distance(rows, init) for init in own) <= limit:
        return _Look("noise", f"std {std:.4g} is not a known initialiser's, {spread}")
    return _Look("worked", f"std {std:.4g}, {spread}; not shaped like fresh noise")


def _kurtosis(rows: torch.Tensor, mean: float, std: float) -> float:
    return ((rows - mean) / std).pow(4).mean().item() if std else 0.0


def _near(init: _Init, std: float, most: float, n: int, rounding: float) -> bool:
    """Whether the spread is that of the initialiser: variances of n values have a known error."""
    if most > init.bound * (1 + 2 * rounding + 1e-6):
        return False
    error = sqrt((2 if init.shape == "normal" else 0.8) / n) / 2
    return abs(std / init.std - 1) <= MAX_Z * error + rounding / 4


def _distance(rows: torch.Tensor, init: _Init) -> float:
    """The Kolmogorov–Smirnov distance between values, evenly taken, and an initialiser."""
    import torch

    flat = rows.reshape(-1)
    values = flat[:: -(-flat.numel() // SAMPLE)].double().sort().values / init.scale
    if init.shape == "normal":
        expected = (1 + torch.erf(values / sqrt(2)) / erf(init.cut / sqrt(2))).clamp(0, 2) / 2
    else:
        expected = (1 + values).clamp(0, 2) / 2
    steps = torch.arange(len(values) + 1, dtype=torch.float64) / len(values)
    return max((steps[1:] - expected).max().item(), (expected - steps[:-1]).max().item())


def _edge(rows: torch.Tensor, std: float) -> float:
    """How far the largest singular value lies beyond that of noise, in Tracy–Widom units; training adds directions.

    Source: Johnstone, On the distribution of the largest eigenvalue in principal components analysis, 2001.
    """
    import torch

    small, large = sorted(rows.shape)
    if small < 2:
        return 0.0
    # Power iteration comes close from below, which errs on the side of noise.
    vector = torch.ones(rows.shape[1]) + torch.arange(rows.shape[1]) % 7
    largest = 0.0
    for _ in range(40):
        vector = rows.T @ (rows @ (vector / vector.norm()))
        largest = vector.norm().item()
    centre = sqrt(small - 1) + sqrt(large)
    return float((largest / std**2 - centre**2) / (centre * (1 / sqrt(small - 1) + 1 / sqrt(large)) ** (1 / 3)))


def _grain(flat: torch.Tensor, init: _Init) -> tuple[int, int]:
    """Places where rounding lets the grain of torch's generator be seen, and those where it is.

    On a CPU, 32-bit random numbers come from whole numbers of 24 bits, and undoing the initialiser gives them back;
    any step of training, however small, blurs them.

    Source: torch 2.13.0, aten/src/ATen/core/TransformationHelper.h (uniform_real), and
    aten/src/ATen/native/cpu/DistributionTemplates.h (normal_fill: Box–Muller on values 8 apart, in blocks of 16).
    """
    import torch

    scale = torch.tensor(init.scale, dtype=torch.float32).item()
    # If the length is no multiple of 16, the last 16 values are drawn again, out of step.
    end = flat.numel() // 16 * 16 - (16 if flat.numel() % 16 else 0) if init.shape == "normal" else flat.numel()
    places = shown = 0
    for start in range(0, end, CHUNK):
        values = flat[start : min(start + CHUNK, end)].double() / scale
        if init.shape == "normal":
            radius = values.reshape(-1, 2, 8).square().sum(dim=1)
            uniform = (-radius / 2).exp()
            seen = uniform[(uniform * radius < 0.05) & (radius > 0)]
        else:
            seen = (values[values.abs() < 0.25] + 1) / 2
        grain = (2 * pi * 2**24 * seen).cos()
        places += len(grain)
        shown += int((grain > 0.5).sum())
    return places, shown
