"""The text of a compiled program, taken apart: what runs how often, and how much work it is.

XLA prints a program as computations, one of them the entry, each a list of instructions; loops,
branches and fusions name the computations that they run. `ganjax.cost` is made of this.
"""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "all-to-all",
    "collective-broadcast",
    "collective-permute",
    "ragged-all-to-all",
    "reduce-scatter",
)


class Collective(NamedTuple):
    """One instruction by which devices exchange data.

    Attributes:
      kind: one of `COLLECTIVES`.
      bytes: of the array that it works on, on one device; of the gathered one for an all-gather.
      count: how often it is executed; a loop of unknown length counts once.
      conditional: whether it stands in a branch that is not taken every time.
    """

    kind: str
    bytes: int
    count: int
    conditional: bool


class Instruction(NamedTuple):
    """A line such as `%sum = f32[8]{0} all-reduce(%x), to_apply=%add`."""

    name: str
    type: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


class Program:
    """Computations and their instructions.

    Args:
      text: what `as_text()` of a compiled program returns.
    """

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        self.entry, current = "", []
        for line in text.splitlines():
            if header := _HEADER.match(line):
                current = self.computations[header[2]] = []
                self.entry = header[2] if header[1] else self.entry
            elif match := _INSTRUCTION.match(line):
                current.append(_instruction(match[1], match[2]))
        if not self.entry:
            raise ValueError(
                "expected the text of a compiled program, such as jax.jit(f).lower(x).compile()"
                f".as_text() returns, got {text[:60]!r}"
            )
        self._types = {
            name: {each.name: each.type for each in body}
            for name, body in self.computations.items()
        }

    def collectives(self) -> Iterator[Collective]:
        """Yield the instructions by which devices exchange data."""
        for name, each, times, branch in self._walk():
            kind = each.opcode.removesuffix("-start")
            if kind in COLLECTIVES:
                given = sum(_bytes(self._types[name].get(operand, "")) for operand in each.operands)
                size = given
                if kind == "all-gather":
                    # The result of the asynchronous form holds the operands as well.
                    size = _bytes(each.type) - (given if each.opcode != kind else 0)
                yield Collective(kind, size, 1 if times is None else times, branch)

    def is_complete(self) -> bool:
        """Return whether each loop's length and the work in each repeated loop are known."""
        for _, each, times, _ in self._walk():
            if times is None:
                return False
            if times > 1 and each.opcode == "custom-call" and _LIBRARY.search(each.attributes):
                return False
        return True

    def matrix_flops(self, *, repeat: bool) -> float:
        """Return the operations of matrix products and convolutions.

        Args:
          repeat: whether a loop of known length counts as often as it runs, or once. Of a
            conditional the branch with the most work counts, as in XLA's own analysis.
        """

        def total(name):
            types, flops = self._types[name], 0.0
            for each in self.computations[name]:
                if each.opcode == "dot":
                    flops += _dot_flops(each, types[each.operands[0]])
                elif each.opcode == "convolution":
                    flops += _convolution_flops(each, *(types[name] for name in each.operands))
                inner = [
                    total(called) * ((trips or 1) if repeat else 1)
                    for called, trips, _ in _calls(each)
                ]
                flops += max(inner, default=0.0) if each.opcode == "conditional" else sum(inner)
            return flops

        return total(self.entry)

    def _walk(self) -> Iterator[tuple[str, Instruction, int | None, bool]]:
        """Yield every instruction: its computation, itself, how often it runs, if in a branch."""

        def visit(name, times, branch):
            for each in self.computations[name]:
                yield name, each, times, branch
                for called, trips, is_branch in _calls(each):
                    known = times is not None and trips is not None
                    yield from visit(called, times * trips if known else None, branch or is_branch)

        return visit(self.entry, 1, False)


# Of a computation's first line, of an instruction, of an array's type, and of what does the work of
# matrix products and convolutions from outside the program.
_HEADER = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*)$")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\]")
_LIBRARY = re.compile(r'custom_call_target="[^"]*(conv|gemm|dot|matmul)', re.IGNORECASE)


def _instruction(name: str, rest: str) -> Instruction:
    type_, rest = _split_type(rest)
    opcode, _, rest = rest.partition("(")
    operands, _, attributes = rest.partition(")")
    return Instruction(name, type_, opcode, tuple(re.findall(r"%([\w.-]+)", operands)), attributes)


def _split_type(rest: str) -> tuple[str, str]:
    """Split `f32[8]{0} add(...)` or `(f32[8]{0}, s32[]) tuple(...)` behind the type."""
    if not rest.startswith("("):
        type_, _, rest = rest.partition(" ")
        return type_, rest
    depth = 0
    for index, letter in enumerate(rest):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return rest[: index + 1], rest[index + 2 :]
    raise ValueError(f"this type of an instruction does not end: {rest[:60]!r}")


def _calls(instruction: Instruction) -> Iterator[tuple[str, int | None, bool]]:
    """Yield what an instruction runs: computation, how often (None: unknown), if it is a branch.

    Reducers and comparators, which run once an element, are not among them.
    """
    opcode, attributes = instruction.opcode, instruction.attributes
    if opcode == "while":
        trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', attributes)
        yield _named(attributes, "body")[0], int(trips[1]) if trips else None, False
    elif opcode == "conditional":
        for name in ("branch_computations", "true_computation", "false_computation"):
            yield from ((called, 1, True) for called in _named(attributes, name))
    elif opcode in ("call", "fusion", "async-start"):
        for name in ("to_apply", "calls"):
            yield from ((called, 1, False) for called in _named(attributes, name))


def _named(attributes: str, name: str) -> list[str]:
    """Return the computations that an attribute names: `body=%a` or `calls={%a, %b}`."""
    found = re.search(rf"\b{name}=(\{{[^}}]*\}}|%?[\w.-]+)", attributes)
    return re.findall(r"[\w.-]+", found[1]) if found else []


def _arrays(type_: str) -> list[tuple[str, tuple[int, ...]]]:
    return [
        (dtype, tuple(int(n) for n in sizes.split(",") if n))
        for dtype, sizes in _ARRAY.findall(type_)
    ]


def _bytes(type_: str) -> int:
    return sum(math.ceil(_bits(dtype) * math.prod(sizes) / 8) for dtype, sizes in _arrays(type_))


def _bits(dtype: str) -> int:
    found = re.search(r"\d+", dtype)  # f32, bf16, f8e4m3fn, c64
    return int(found[0]) if found else 8


def _dot_flops(dot: Instruction, left: str) -> float:
    sizes = _arrays(left)[0][1]
    contracted = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    dims = [int(n) for n in contracted[1].split(",") if n] if contracted else []
    return 2.0 * math.prod(_arrays(dot.type)[0][1]) * math.prod(sizes[d] for d in dims)


def _convolution_flops(convolution: Instruction, left: str, right: str) -> float:
    """Count as XLA does: only where the kernel meets a number, not padding or a dilation's zero."""
    attributes = convolution.attributes
    sizes = [_arrays(type_)[0][1] for type_ in (left, right, convolution.type)]
    labels = re.split(r"_|->", re.search(r"dim_labels=([\w>-]+)", attributes)[1])
    groups = re.search(r"batch_group_count=(\d+)", attributes)
    batch = sizes[0][labels[0].index("b")] // (int(groups[1]) if groups else 1)
    features = sizes[1][labels[1].index("i")] * sizes[1][labels[1].index("o")]
    spatial = sorted(letter for letter in labels[1] if letter.isdigit())
    meetings = 1
    for letter, (stride, low, left_dilation, right_dilation) in zip(
        spatial, _window(attributes, len(spatial)), strict=True
    ):
        given, kernel, made = (
            size[label.index(letter)] for size, label in zip(sizes, labels, strict=True)
        )
        reach = (given - 1) * left_dilation
        positions = (
            out * stride + tap * right_dilation - low
            for out in range(made)
            for tap in range(kernel)
        )
        meetings *= sum(0 <= at <= reach and at % left_dilation == 0 for at in positions)
    return 2.0 * batch * features * meetings


def _window(attributes: str, rank: int) -> list[tuple[int, int, int, int]]:
    """Return stride, padding in front, and both dilations, for each spatial dimension."""
    found = re.search(r"window=\{([^}]*)\}", attributes)
    fields = dict(field.split("=") for field in found[1].split()) if found else {}

    def column(name, default):
        entries = fields[name].split("x") if name in fields else [default] * rank
        return [int(entry.split("_")[0]) for entry in entries]

    return list(
        zip(
            column("stride", "1"),
            column("pad", "0_0"),
            column("lhs_dilate", "1"),
            column("rhs_dilate", "1"),
            strict=True,
        )
    )
