"""Compiles on first use: `kernels.cu` with ninja, through torch's extension loader, `winograd.cpp`
with the system's C++ compiler.

Nothing here runs at import.
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

from ..runtime import folders

SOURCE = Path(__file__).with_name("kernels.cu")
FLAGS = ["-O3", "-std=c++17"]
CPU_SOURCE = Path(__file__).with_name("winograd.cpp")
CPU_FLAGS = [
    *FLAGS,
    "-march=native",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fopenmp",
    "-shared",
    "-fPIC",
]


class BuildError(Exception):
    """The kernels cannot be had here; the text says why."""


class NoCompiler(BuildError):
    """Nothing here could compile them."""


@lru_cache
def cpu_library() -> ctypes.CDLL:
    """`winograd.cpp` for this processor. A few seconds the first time, then from the user's cache.
    Raises BuildError.
    """
    compiler = next(
        filter(None, map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))), None
    )
    if sys.platform != "linux":
        raise NoCompiler("they are for Linux")
    if compiler is None:
        raise NoCompiler("there is no C++ compiler (c++, g++ or clang++)")
    flags = [*CPU_FLAGS, *_openmp_of_torch()]
    name = f"{CPU_SOURCE.stem}_{_key(CPU_SOURCE, flags, compiler, _processor())}.so"
    folder = folders.cache_folder() / "ops"
    if not folders.is_writable(folder / name):
        folder = Path(tempfile.mkdtemp())
    try:
        if not (folder / name).exists():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as building:
                made = Path(building) / name
                run = subprocess.run(
                    [compiler, str(CPU_SOURCE), *flags, "-o", str(made)],
                    capture_output=True,
                    text=True,
                )
                if run.returncode:
                    raise BuildError(f"the compiler failed: {run.stderr.strip()[:600]}")
                made.replace(folder / name)  # whole or not at all, whoever else builds it now
        return ctypes.CDLL(str(folder / name))
    except OSError as error:
        raise BuildError(f"the compiled kernels cannot be had ({error})") from None


def _processor() -> str:
    """What tells this processor's instructions from another's: a home may be shared between
    machines.
    """
    lines = (
        Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    )
    return platform.machine() + "".join(
        sorted({line for line in lines if line.startswith(("flags", "Features"))})
    )


def _openmp_of_torch() -> list[str]:
    """Linker flags for the OpenMP that torch brings, so that both use one pool of threads."""
    home = Path(torch.__file__).parent
    found = [
        path
        for folder in (home / "lib", home.with_name("torch.libs"))
        for path in sorted(folder.glob("libgomp*.so*"))
    ]
    return ["-Wl,--as-needed", str(found[0])] if found else []


@lru_cache
def library(architecture: str) -> ctypes.CDLL:
    """The kernels for one architecture ("sm_90"). Seconds the first time, then from torch's cache
    of extensions. Raises BuildError.
    """
    try:
        return ctypes.CDLL(compiled([architecture]))
    except OSError as error:
        raise BuildError(f"the compiled kernels cannot be loaded ({error})") from None


def compiled(architectures: Sequence[str]) -> str:
    """Path of the library for these architectures, built unless it is there already. Raises
    BuildError.

    The folder's name holds a hash of source, flags, torch and its CUDA: nothing stale is ever
    loaded.
    """
    from torch.utils import cpp_extension

    home = toolkit()
    name = f"essence_ops_{'_'.join(architectures)}_{_key(SOURCE, FLAGS, torch.version.cuda)}"
    folder = (
        Path(os.environ.get("TORCH_EXTENSIONS_DIR") or cpp_extension.get_default_build_root())
        / name
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _told(cpp_extension, home, architectures):
            cpp_extension.load(
                name,
                [str(SOURCE)],
                extra_cuda_cflags=FLAGS,
                extra_ldflags=_runtime(home, folder),
                build_directory=str(folder),
                is_python_module=False,
            )
    except (
        RuntimeError,
        ValueError,
        OSError,
        subprocess.SubprocessError,
    ) as error:  # Value: of an unknown architecture
        raise BuildError(f"the compiler failed: {str(error).strip()[-600:]}") from error
    return str(folder / f"{name}.so")


@contextmanager
def _told(cpp_extension: ModuleType, home: Path, architectures: Sequence[str]) -> Iterator[None]:
    """Where the compiler is, and what it compiles for: else torch takes the GPUs that it sees,
    which may be none.
    """
    numbers = [architecture.removeprefix("sm_") for architecture in architectures]
    asked = os.environ.get("TORCH_CUDA_ARCH_LIST")
    before, cpp_extension.CUDA_HOME = cpp_extension.CUDA_HOME, str(home)
    os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(
        f"{number[:-1]}.{number[-1]}" for number in numbers
    )
    try:
        yield
    finally:
        cpp_extension.CUDA_HOME = before
        if asked is None:
            del os.environ["TORCH_CUDA_ARCH_LIST"]
        else:
            os.environ["TORCH_CUDA_ARCH_LIST"] = asked


def _key(source: Path, *what: object) -> str:
    try:
        text = source.read_bytes()
    except OSError as error:
        raise BuildError(f"the kernels' source is missing ({error})") from None
    return hashlib.sha256(text + repr((what, torch.__version__)).encode()).hexdigest()[:10]


def toolkit() -> Path:
    """The folder with `bin/nvcc`: the system's, or that of the package `nvidia-cuda-nvcc`. Raises
    BuildError.

    torch guesses it from the path of nvcc, wrongly where that is a link or a script; nvcc itself
    knows.
    """
    packaged = (
        Path(sysconfig.get_path("purelib"))
        / "nvidia"
        / f"cu{(torch.version.cuda or '0').split('.')[0]}"
        / "bin"
        / "nvcc"
    )
    named = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidates = [Path(named) / "bin" / "nvcc"] if named else []
    candidates += [
        Path(found)
        for found in (shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc", packaged)
        if found
    ]
    for nvcc in candidates:
        if nvcc.is_file():
            said = subprocess.run([nvcc, "-dryrun", "x.cu"], capture_output=True, text=True).stderr
            top = re.search(r"^#\$ TOP=(.+)$", said, re.MULTILINE)
            return Path(top[1]).resolve() if top else nvcc.parents[1]
    raise BuildError(
        "there is no CUDA compiler (nvcc); install the CUDA toolkit, or the packages nvidia-cuda-nvcc, nvidia-nvvm and "
        f"nvidia-cuda-crt of version {torch.version.cuda}"
    )


def _runtime(home: Path, folder: Path) -> list[str]:
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
