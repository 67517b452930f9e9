"""The checks of compiled kernels, each on a kernel that breaks it and one that does not.

Where nvcc is, small kernels are compiled; everywhere, the parsers read what its tools once printed.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import cubins
import ptx
import pytest
import report
import sass
from kernels import DType, Kernel
from occupancy import H100
from source_lines import SourceLine, claimed_blocks, dtype_of_template, may_be_scalar

needs_nvcc = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not on PATH")

KERNEL = Kernel("a kernel", "kernel<float>", "case", "1", dtypes=(DType.FLOAT32,))

# A kernel that adds up vectors; BODY is what it does to one.
STREAM = """\
struct alignas(16) Vector {{ float element[4]; }};
template <class T>
__device__ __forceinline__ float load(const T* data, long i) {{
  const Vector v = reinterpret_cast<const Vector*>(data)[i];
  return v.element[0] + v.element[1] + v.element[2] + v.element[3];
}}
template <class T>
__global__ void __launch_bounds__(256) kernel(const T* data, long n, double d, double* sums) {{
  double sum = 0;
  for (long i = threadIdx.x; i < n; i += 256) {{
    const double x = load(data, i);
    {body}
  }}
  sums[threadIdx.x] = sum;
}}
template __global__ void kernel(const float*, long, double, double*);
"""

Violations = Callable[[str], list[str]]


@pytest.fixture
def violations(tmp_path: Path) -> Violations:
    """What is wrong with the only kernel of a source, on an H100."""

    def run(source: str, kernel: Kernel = KERNEL) -> list[str]:
        file = tmp_path / "kernel.cu"
        file.write_text(source)
        module = cubins.compile_module(file, "sm_90", tmp_path, tmp_path / "out")
        (entry,) = ptx.parse(module.ptx)
        (function,) = sass.parse(module.sass)
        usage = report.Usage.of(H100, entry, module.usage[entry.name], claimed=4)
        return list(
            report.violations(report.Compiled(kernel, kernel.symbol, usage, entry, function))
        )

    return run


@needs_nvcc
class TestCompiledHere:
    def test_nothing_is_wrong_with_a_good_kernel(self, violations: Violations) -> None:
        assert violations(STREAM.format(body="sum += x * d;")) == []

    def test_division(self, violations: Violations) -> None:
        (what,) = violations(STREAM.format(body="sum += x / d;"))
        assert what == "the streaming loop for float contains div.rn.f64"

    def test_square_root(self, violations: Violations) -> None:
        (what,) = violations(STREAM.format(body="sum += sqrt(x);"))
        assert what == "the streaming loop for float contains sqrt.rn.f64"

    def test_call(self, violations: Violations) -> None:
        body = "sum += routine(x);"
        source = "__device__ __noinline__ double routine(double x) { return x * x; }\n"
        (what,) = violations(source + STREAM.format(body=body))
        assert what.startswith("the streaming loop for float contains call")

    def test_a_division_behind_the_loop(self, violations: Violations) -> None:
        source = STREAM.format(body="sum += x;").replace("= sum;", "= sum / d;")
        assert violations(source) == []

    def test_assertion(self, violations: Violations) -> None:
        source = "#undef NDEBUG\n#include <cassert>\n" + STREAM.format(
            body="assert(x < d); sum += x;"
        )
        assert "calls __assertfail" in violations(source)

    def test_scalar_loads(self, violations: Violations) -> None:
        found = violations(STREAM.format(body="sum += x + data[n + i];"))
        assert len(found) == 1
        assert found[0].endswith("which no `Scalar:` comment explains")
        assert found[0].startswith("LDG.E at ")

    def test_no_vector_at_all(self, violations: Violations) -> None:
        source = STREAM.format(body="sum += x;").replace("load(data, i)", "data[i]")
        found = violations(source)
        assert "no loop with LDG of 128 bits for float" in found
        assert "no streaming loop in the PTX for float" in found

    def test_local_memory(self, violations: Violations) -> None:
        body = "double a[16]; for (int k = 0; k < 16; k++) a[k] = x + k; sum += a[int(d + x) % 16];"
        found = violations(STREAM.format(body=body))
        assert any(what.endswith("bytes of local memory") for what in found)
        assert any(what.startswith("local memory is accessed: STL") for what in found)

    def test_spills(self, violations: Violations) -> None:
        body = "double a[40]; for (int k = 0; k < 40; k++) a[k] = sums[k] + x * sum; " + "".join(
            f"sum += a[{k}] * a[{39 - k}];" for k in range(40)
        )
        source = STREAM.format(body=body).replace("bounds__(256)", "bounds__(256, 8)")
        assert any(what.startswith("local memory is accessed: STL") for what in violations(source))

    def test_a_kernel_of_no_entry(self, tmp_path: Path) -> None:
        source = tmp_path / "kernel.cu"
        source.write_text(STREAM.format(body="sum += x;"))
        module = cubins.compile_module(source, "sm_90", tmp_path, tmp_path / "out")
        modules = {gpu.arch: [module] for gpu in report.GPUS}
        with pytest.raises(report.UnlistedError, match=r"kernel<float> is in no entry"):
            report.read(modules, [])
        family = Kernel("kernels", "kernel<*>", "case", "1")
        (compiled, *_) = report.read(modules, [family], tmp_path)
        assert (compiled.kernel, compiled.symbol) == (family, "kernel<float>")
        missing = Kernel("gone", "gone<float>", "case", "1")
        with pytest.raises(report.UnlistedError, match=r"in no source file: gone<float>"):
            report.read(modules, [KERNEL, missing])


class TestUsage:
    def usage(self, registers: int, local_bytes: int, claimed: int | None) -> report.Usage:
        return report.Usage(H100, 256, registers, 64, local_bytes, claimed)

    def test_within_the_claim(self) -> None:
        assert list(report.usage_violations(self.usage(48, 0, 5))) == []

    def test_too_many_registers(self) -> None:
        (what,) = report.usage_violations(self.usage(52, 0, 5))
        assert what.startswith("room for 4 blocks on an SM, 5 claimed: 52 registers")

    def test_stack(self) -> None:
        assert list(report.usage_violations(self.usage(48, 8, 5))) == ["8 bytes of local memory"]

    def test_no_claim(self) -> None:
        (what,) = report.usage_violations(self.usage(48, 0, None))
        assert "claims no occupancy" in what


SASS = """\
\t.section\t.text.kernel,"ax",@progbits
.text.kernel:
\t//## File ".nv_debug_ptx_txt", line 12
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_1) ;
.L_x_0:
\t//## File ".nv_debug_ptx_txt", line 20
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0030*/                   BRA.U UP0, `(.L_x_0) ;
.L_x_1:
        /*0040*/                   STL [R1+0x4], R0 ;
        /*0050*/                   EXIT ;
.L_x_2:
        /*0060*/                   BRA `(.L_x_2);
"""


def test_sass_is_read() -> None:
    (function,) = sass.parse(SASS)
    assert function.name == "kernel"
    opcodes = [instruction.opcode for instruction in function.instructions]
    assert opcodes == ["MOV", "BRA", "LDG.E.128", "BRA.U", "STL", "EXIT", "BRA"]
    assert [i.ptx_line for i in function.instructions[:3]] == [12, 12, 20]
    assert function.instructions[1].conditional
    assert function.in_loops() == {2, 3, 6}


PTX = """\
.visible .entry kernel(
)
.maxntid 256, 1, 1
{
\t.loc\t1 10 3
\tmov.u32 \t%r1, 0;
$L__BB0_1:
\t.loc\t1 20 3, function_name $L__info_string0, inlined_at 1 10 3
\tld.global.nc.v4.f32 \t{%f1, %f2, %f3, %f4}, [%rd1];
\t{ // callseq 0, 0
\tcall.uni (retval0),
\tpow,
\t(
\tparam0
\t);
\t} // callseq 0
\t@%p1 bra \t$L__BB0_1;
\tdiv.rn.f64 \t%fd1, %fd2, %fd3;
\tret;
}
\t.file\t1 "/csrc/kernel.cuh"
\t.section\t.debug_str
\t{
$L__info_string0:
.b8 95,90,52,108,111,97,100,73,102,69,102,80,75,84,95
.b8 0
\t}
"""


def test_ptx_is_read() -> None:
    (entry,) = ptx.parse(PTX)
    assert (entry.name, entry.threads) == ("kernel", 256)
    (loop,) = entry.streaming_loops()
    assert [entry.instructions[i].opcode for i in sorted(loop)] == [
        "ld.global.nc.v4.f32",
        "call.uni",
        "bra",
    ]
    load = entry.instructions[min(loop)]
    assert load.source == SourceLine("/csrc/kernel.cuh", 20)
    assert entry.instructions[entry.index_of_line[9]] == load
    assert entry.dtype_of_loop(loop) == DType.FLOAT32


@pytest.mark.parametrize(
    ("opcode", "is_routine"),
    [
        *(("div.rn.f64", True), ("sqrt.rn.f64", True), ("rcp.rn.f64", True), ("call.uni", True)),
        *(("div.s64", True), ("rem.u32", True), ("div.rn.f32", False), ("mul.f64", False)),
    ],
)
def test_software_routines(opcode: str, is_routine: bool) -> None:
    assert ptx.is_software_routine(opcode) == is_routine


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("kernel<float>", DType.FLOAT32),
        ("map<__nv_bfloat16, Scaling<float>>", DType.BFLOAT16),
        ("each<Complex<double>, f(double)>", DType.COMPLEX128),
        ("load(float const*)", None),
        ("kernel<floating>", None),
    ],
)
def test_dtype_of_a_template(name: str, dtype: DType | None) -> None:
    assert dtype_of_template(name) == dtype


def test_scalar_comments(tmp_path: Path) -> None:
    file = tmp_path / "kernel.cuh"
    file.write_text("// Scalar: a tail.\n#pragma unroll\nload(a);\nload(b);\n// Why.\nload(c);\n")
    allowed = [line for line in range(1, 7) if may_be_scalar(SourceLine(str(file), line))]
    assert allowed == [2, 3]


def test_claimed_occupancy(tmp_path: Path) -> None:
    folder = tmp_path / "cuda"
    folder.mkdir()
    (folder / "kernels.cuh").write_text(
        "// What it does.\n// Occupancy: 5 blocks on an SM, 2 for Powers, 2 for Roots.\n"
        "template <class F>\n"
        "__global__ void __launch_bounds__(kThreads)\n    reduce(const P p) {\n}\n\n"
        "// Says nothing.\n__global__ void silent(int n) {}\n"
    )
    assert claimed_blocks(tmp_path, "reduce<Sum>") == 5
    assert claimed_blocks(tmp_path, "reduce<Powers>") == 2
    assert claimed_blocks(tmp_path, "reduce<Roots>") == 2
    assert claimed_blocks(tmp_path, "silent") is None
    assert claimed_blocks(tmp_path, "absent") is None


@pytest.mark.parametrize(
    ("demangled", "short"),
    [
        ("void gradkern::cuda::f<gradkern::A<true> >(int)", "f<A<true>>"),
        ("gradkern::Vector<float> gradkern::load<float>(float const*, bool)", "load<float>"),
        ("kernel", "kernel"),
    ],
)
def test_short_names(demangled: str, short: str) -> None:
    assert cubins.short_name(demangled) == short
