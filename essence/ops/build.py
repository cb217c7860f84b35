"""Compiles the kernels on first use: `winograd.cpp` with the system's C++ compiler, `kernels.cu`
with nvcc through torch's extension loader. Nothing here runs at import.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType

import torch
from filelock import FileLock
from platformdirs import user_cache_dir

from ..runtime import folders

FLAGS = ["-O3", "-std=c++17"]
CUDA_SOURCE = Path(__file__).with_name("kernels.cu")
CPU_SOURCE = Path(__file__).with_name("winograd.cpp")
CPU_FLAGS = [*FLAGS, "-march=native", "-fno-math-errno", "-fno-trapping-math"]
CPU_FLAGS += ["-fopenmp", "-shared", "-fPIC"]
SEAL = b"essence sha256 "  # between a compiled library and its checksum


class BuildError(Exception):
    """The kernels cannot be had here; the text says why."""


class NoCompiler(BuildError):
    """There is nothing here that could compile them."""


@lru_cache
def cpu_library() -> ctypes.CDLL:
    """`winograd.cpp` compiled for this CPU: a few seconds the first time, then from the user's
    cache. Raises BuildError.
    """
    if sys.platform != "linux":
        raise NoCompiler("they are for Linux")
    compilers = map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))
    compiler = next(filter(None, compilers), None)
    if compiler is None:
        raise NoCompiler("there is no C++ compiler (c++, g++ or clang++)")
    flags = list(CPU_FLAGS)
    # The OpenMP that torch brings, so that both use one pool of threads.
    home = Path(torch.__file__).parent
    places = (home / "lib", home.with_name("torch.libs"))
    openmp = [path for folder in places for path in sorted(folder.glob("libgomp*.so*"))]
    if openmp:
        flags += ["-Wl,--as-needed", str(openmp[0])]
    # A home may be shared between machines: the name tells one CPU's instructions from another's.
    instructions = ""
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        lines = sorted({line for line in lines if line.startswith(("flags", "Features"))})
        instructions = "".join(lines)
    key = _source_key(CPU_SOURCE, flags, compiler, platform.machine() + instructions)
    name = f"{CPU_SOURCE.stem}_{key}.so"
    library = folders.cache_folder() / "ops" / name
    if not is_sealed(library):
        library = folders.writable_cache_folder() / "ops" / name
    try:
        if not is_sealed(library):
            _compile_for_cpu([compiler, str(CPU_SOURCE), *flags], library)
        return ctypes.CDLL(str(library))
    except OSError as error:
        raise BuildError(f"the compiled kernels cannot be had ({error})") from None


def _compile_for_cpu(command: Sequence[str], library: Path) -> None:
    """Raises BuildError."""
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=library.parent) as building:
        made = Path(building) / library.name
        run = subprocess.run([*command, "-o", str(made)], capture_output=True, text=True)
        if run.returncode:
            raise BuildError(f"the compiler failed: {run.stderr.strip()[:600]}")
        seal(made)
        # In one piece or not at all, whatever other process builds it now.
        made.replace(library)


def seal(library: Path) -> None:
    """Append a checksum, which the loader of libraries does not read."""
    checksum = hashlib.sha256(library.read_bytes()).digest()
    with open(library, "ab") as file:
        file.write(SEAL + checksum)


def is_sealed(library: Path) -> bool:
    """Whether a library is there and is what it was when it was sealed: of one that a full disk or
    a crash has cut short, the missing pages would end the process when they are used.
    """
    if not library.is_file():
        return False
    data, _, checksum = library.read_bytes().rpartition(SEAL)
    return hashlib.sha256(data).digest() == checksum


@lru_cache
def cuda_library(architecture: str) -> ctypes.CDLL:
    """`kernels.cu` for one architecture ("sm_90"): seconds the first time, then from torch's cache
    of extensions. Raises BuildError.
    """
    try:
        return ctypes.CDLL(compile_cuda([architecture]))
    except OSError as error:
        raise BuildError(f"the compiled kernels cannot be loaded ({error})") from None


def compile_cuda(architectures: Sequence[str]) -> str:
    """Path of the library for these architectures, built unless it is there already. Raises
    BuildError.

    The folder's name holds a hash of source, flags, torch and its CUDA: nothing stale is ever
    loaded.
    """
    key = _source_key(CUDA_SOURCE, FLAGS, torch.version.cuda)
    name = f"essence_ops_{'_'.join(architectures)}_{key}"
    folder = extensions_folder() / name
    library = folder / f"{name}.so"
    if is_sealed(library):  # without asking nvcc and ninja, and without importing torch's loader
        return str(library)
    from torch.utils import cpp_extension

    home = cuda_toolkit()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            FileLock(folder / "building"),
            _compiling_for(cpp_extension, home, architectures),
        ):
            # Torch's own lock outlives a build that is killed, and would be waited for in vain.
            (folder / "lock").unlink(missing_ok=True)
            if not is_sealed(library):
                library.unlink(missing_ok=True)  # else ninja would take it for finished
            cpp_extension.load(
                name,
                [str(CUDA_SOURCE)],
                extra_cuda_cflags=FLAGS,
                extra_ldflags=_cuda_runtime_flags(home, folder),
                build_directory=str(folder),
                is_python_module=False,
            )
            if not is_sealed(library):
                seal(library)
    # ValueError: an architecture that torch does not know.
    except (RuntimeError, ValueError, OSError, subprocess.SubprocessError) as error:
        raise BuildError(f"the compiler failed: {str(error).strip()[-600:]}") from error
    return str(library)


def extensions_folder() -> Path:
    """Torch's cache of extensions, without the second that importing its loader takes."""
    named = os.environ.get("TORCH_EXTENSIONS_DIR")
    return Path(named or user_cache_dir("torch_extensions", appauthor=False))


@contextmanager
def _compiling_for(
    cpp_extension: ModuleType, home: Path, architectures: Sequence[str]
) -> Iterator[None]:
    """Tell torch where the compiler is and what to compile for; by itself it takes the GPUs that it
    sees, which may be none.
    """
    numbers = [architecture.removeprefix("sm_") for architecture in architectures]
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST")
    before, cpp_extension.CUDA_HOME = cpp_extension.CUDA_HOME, str(home)
    os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(f"{n[:-1]}.{n[-1]}" for n in numbers)
    try:
        yield
    finally:
        cpp_extension.CUDA_HOME = before
        if asked is None:
            del os.environ["TORCH_CUDA_ARCH_LIST"]
        else:
            os.environ["TORCH_CUDA_ARCH_LIST"] = asked


def _source_key(source: Path, *what: object) -> str:
    """A hash of a source, of torch's version and of whatever else a library depends on."""
    try:
        text = source.read_bytes()
    except OSError as error:
        raise BuildError(f"the kernels' source is missing ({error})") from None
    return hashlib.sha256(text + repr((what, torch.__version__)).encode()).hexdigest()[:10]


def cuda_toolkit() -> Path:
    """The folder with `bin/nvcc`: the system's, or that of the package `nvidia-cuda-nvcc`. Raises
    BuildError.

    torch guesses it from the path of nvcc, wrongly where that is a link or a script; nvcc itself
    knows.
    """
    major = (torch.version.cuda or "0").split(".")[0]
    packages = Path(sysconfig.get_path("purelib")) / "nvidia" / f"cu{major}"
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [
        named and Path(named) / "bin" / "nvcc",
        shutil.which("nvcc"),
        "/usr/local/cuda/bin/nvcc",
        packages / "bin" / "nvcc",
    ]
    for nvcc in map(Path, filter(None, candidates)):
        if nvcc.is_file():
            said = subprocess.run([nvcc, "-dryrun", "x.cu"], capture_output=True, text=True).stderr
            top = re.search(r"^#\$ TOP=(.+)$", said, re.MULTILINE)
            return Path(top[1]).resolve() if top else nvcc.parents[1]
    raise BuildError(
        "there is no CUDA compiler (nvcc); install the CUDA toolkit, or the packages "
        "nvidia-cuda-nvcc, nvidia-nvvm and "
        f"nvidia-cuda-crt of version {torch.version.cuda}"
    )


def _cuda_runtime_flags(home: Path, folder: Path) -> list[str]:
    """Linker flags for libcudart: torch asks for `-lcudart`, and the packages carry it under its
    full name alone.
    """
    found = [
        path for lib in ("lib64", "lib") for path in sorted((home / lib).glob("libcudart.so*"))
    ]
    if not found or any(path.name == "libcudart.so" for path in found):
        return []
    link = folder / "libcudart.so"
    if not link.exists():
        link.symlink_to(found[0])
    return [f"-L{folder}"]
