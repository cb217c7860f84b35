"""`python -m benchmarks.start`: how long a process takes until the bundled models are in memory,
and what takes it.

Stages are timed one after the other in one process; as a whole, where stages run beside each other,
in another.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

WHOLE = "from essence import Studio; Studio('mini').models"
TOP = {"imports": 25, "calls": 40}  # lines


def stages() -> None:
    """Print each stage's seconds."""
    began = last = time.perf_counter()

    def say(what: str) -> None:
        nonlocal last
        now = time.perf_counter()
        print(f"{now - last:7.3f} s  {what}", flush=True)
        last = now

    import torch

    say("import torch")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    say("ask for a GPU")
    torch.zeros(1, device=device)
    say(f"context of {device}")
    from essence import Studio, ops
    from essence.library import loading

    say("import essence")
    if device == "cuda":
        ops.compile_kernels()
    say("kernels")
    studio = Studio("mini")
    load = loading._load_component

    def told(kind: str, *given: Any) -> Any:
        value = load(kind, *given)
        say(f"  {kind}")
        return value

    loading._load_component = told
    models = studio.models
    say("the rest of the models")
    w = models.generator.repeat(models.generator.latent_avg[:1])
    models.render(w)
    say("first picture")
    models.render(w)
    say("second picture")
    print(f"{last - began:7.3f} s  together, {len(sys.modules)} modules", flush=True)


def run(*words: str) -> tuple[str, str]:
    """What another Python prints, and says on its error stream."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True)
    return done.stdout, done.stderr


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def imports() -> list[str]:
    """The slowest imports, with all that they import."""
    lines = run("-X", "importtime", "-c", WHOLE)[1].splitlines()
    found = [line for line in lines if line.startswith("import time:") and "self" not in line]
    return sorted(found, key=lambda line: int(line.split("|")[1]), reverse=True)[: TOP["imports"]]


def calls() -> list[str]:
    """The slowest calls of loading, imports before it excepted."""
    code = "import torch, cProfile, pstats; from essence.library import loading; import essence;"
    code += "device = 'cuda' if torch.cuda.is_available() else 'cpu'; p = cProfile.Profile();"
    code += "p.runcall(loading.load_model_set, 'mini', device);"
    code += f"pstats.Stats(p).sort_stats('cumtime').print_stats({TOP['calls']})"
    return [line[:140] for line in run("-c", code)[0].splitlines() if line.strip()]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m benchmarks.start", description=__doc__)
    parser.add_argument("--repeats", type=int, default=3, help="default %(default)s")
    parser.add_argument("--stages", action="store_true", help="only these, in this process")
    parser.add_argument("--whole", action="store_true", help="only the whole")
    a = parser.parse_args(arguments)
    if a.stages:
        return stages()
    for number in range(a.repeats):
        torch_alone = timed(lambda: run("-c", "import torch"))
        whole = timed(lambda: run("-c", WHOLE))
        print(f"{number + 1}: models in memory {whole:.2f} s, import torch {torch_alone:.2f} s")
        sys.stdout.flush()
    if not a.whole:
        print(*run("-m", "benchmarks.start", "--stages"), *imports(), *calls(), sep="\n")


if __name__ == "__main__":
    main()
