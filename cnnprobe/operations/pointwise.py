"""Operations on each value by itself: arithmetic, comparisons, functions of one number, casts."""

from collections.abc import Iterator

from cnnprobe.operations.info import Family, OperationInfo, define, define_rows

_MATH = """
abs absolute __abs__
acos arccos
acosh arccosh
angle | | | flat
asin arcsin
asinh arcsinh
atan arctan
atanh arctanh
cos
cosh
deg2rad
digamma psi
erf
erfc
erfinv
exp
exp2
expm1
frac
i0
lgamma gammaln
log
log10
log1p
log2
logit | | input, eps=None
mvlgamma multigammaln | | input, p
nan_to_num | | input, nan=0.0, posinf=None, neginf=None
neg negative __neg__
rad2deg
reciprocal
rsqrt
sgn | | | flat
sin
sinc
sinh
special.bessel_j0 | | | cuts
special.bessel_j1 | | | cuts
special.entr
special.erfcx
special.i0e
special.i1
special.i1e
special.log_ndtr
special.ndtr
special.ndtri
sqrt
square | | | | pow
tan
conj_physical
clamp clip | | input, min=None, max=None
clamp_min | | input, min | | clamp
clamp_max | | input, max | | clamp
tril | | input, diagonal=0
triu | | input, diagonal=0
ceil | | | flat
floor | | | flat
round | | input, decimals=0 | flat
sign | | | flat
trunc fix | | | flat
"""
_ASKING_EACH = """
isfinite
isinf
isnan
isneginf
isposinf
isreal
signbit
"""
_ARITHMETIC = """
add __add__ __radd__ __iadd__ | | input, other, alpha=1 | commutes
mul multiply __mul__ __rmul__ __imul__ | | | commutes
sub subtract __sub__ __isub__ | | input, other, alpha=1
div divide true_divide __truediv__ __itruediv__ __div__ __idiv__ | | \
    input, other, rounding_mode=None
"""
_BROADCASTING = """
maximum | | | commutes
minimum | | | commutes
fmax | | | commutes
fmin | | | commutes
hypot | | | commutes
logaddexp | | | commutes
logaddexp2 | | | commutes
atan2 arctan2
copysign
fmod
remainder __mod__ __imod__
pow __pow__ __ipow__ | | input, exponent
float_power | | input, exponent
floor_divide __floordiv__ __ifloordiv__
ldexp
nextafter
xlogy
special.xlog1py
special.zeta
igamma gammainc
igammac gammaincc
gcd | | | cuts commutes
lcm | | | cuts commutes
heaviside | | input, values | one-dtype
lerp | | input, end, weight | one-dtype
addcmul | | input, tensor1, tensor2, value=1
addcdiv | | input, tensor1, tensor2, value=1
masked_fill | | input, mask, value
"""
_COMPARISONS = """
eq __eq__ | | | commutes
ne not_equal __ne__ | | | commutes
lt less __lt__
le less_equal __le__
gt greater __gt__
ge greater_equal __ge__
isclose | | input, other, rtol=1e-05, atol=1e-08, equal_nan=False | one-dtype
"""
_LOGIC = """
logical_and | | | commutes
logical_or | | | commutes
logical_xor | | | commutes
bitwise_and __and__ __rand__ __iand__ | | | commutes
bitwise_or __or__ __ror__ __ior__ | | | commutes
bitwise_xor __xor__ __rxor__ __ixor__ | | | commutes
bitwise_left_shift __lshift__ __ilshift__
bitwise_right_shift __rshift__ __irshift__
"""
_SHARING = """
conj
resolve_conj
resolve_neg
positive __pos__
pin_memory
detach | | | cuts
data | | | cuts
"""
_MIRRORED: tuple[tuple[str, Family, str, str], ...] = (
    ("rsub __rsub__", "join", "sub", ""),
    ("-rdiv __rdiv__ __rtruediv__", "join", "div", ""),
    ("-rpow __rpow__", "arithmetic", "pow", ""),
    ("-rremainder __rmod__", "arithmetic", "remainder", ""),
    ("-rfloor_divide __rfloordiv__", "arithmetic", "floor_divide", ""),
    ("-rbitwise_left_shift __rlshift__", "logic", "bitwise_left_shift", "cuts"),
    ("-rbitwise_right_shift __rrshift__", "logic", "bitwise_right_shift", "cuts"),
)
_CASTS = """
bfloat16 | | input, memory_format=None
cdouble | | input, memory_format=None
cfloat | | input, memory_format=None
chalf | | input, memory_format=None
cpu | | input, memory_format=None
cuda | | input, device=None, non_blocking=False, memory_format=None
double | | input, memory_format=None
float | | input, memory_format=None
half | | input, memory_format=None
to | | input, dtype, non_blocking=False, copy=False
type | | input, dtype=None, non_blocking=False
type_as | | input, other
xpu | | input, device=None, non_blocking=False, memory_format=None
bool | | input, memory_format=None | cuts
byte | | input, memory_format=None | cuts
char | | input, memory_format=None | cuts
int | | input, memory_format=None | cuts
long | | input, memory_format=None | cuts
short | | input, memory_format=None | cuts
"""
_KEEPING = """
-identity | Identity
alias | | | view
clone | | input, memory_format=None
contiguous | | input, memory_format=None
"""


def list_operations() -> tuple[OperationInfo, ...]:
    """All of them."""
    return (
        *define_rows(_MATH, "math", "elementwise"),
        define(
            "polygamma", "math", "elementwise", "n, input",
            variants={"torch.Tensor.polygamma": "input, n"},
        ),
        *define_rows(_ASKING_EACH, "comparison", "elementwise", traits="cuts"),
        *define_rows("logical_not\nbitwise_not __invert__", "logic", "elementwise", traits="cuts"),
        *define_rows(_ARITHMETIC, "join", "broadcasts", "input, other"),
        *_mirrored(),
        *define_rows(_BROADCASTING, "arithmetic", "broadcasts", "input, other"),
        define(
            "where", "arithmetic", "broadcasts", "condition, input, other",
            variants={"torch.Tensor.where": "input, condition, other"},
        ),
        *define_rows(_COMPARISONS, "comparison", "broadcasts", "input, other", traits="cuts"),
        *define_rows(_LOGIC, "logic", "broadcasts", "input, other", traits="cuts"),
        *define_rows(_CASTS, "cast", "keeps"),
        *define_rows(_KEEPING, "identity", "keeps"),
        *define_rows(_SHARING, "cast", "keeps", traits="view"),
        *define_rows("real\nimag", "selection", "selects", traits="view"),
    )  # fmt: skip


def _mirrored() -> Iterator[OperationInfo]:
    """`2 - x`: the operands of another operation in the other order."""
    for names, family, mirrors, traits in _MIRRORED:
        yield define(names, family, "broadcasts", "other, input", mirrors=mirrors, traits=traits)
