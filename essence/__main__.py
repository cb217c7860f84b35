import gc
import sys

gc.disable()  # half a million objects are imported, and none of them is garbage
from .cli.commands import main  # noqa: E402

gc.enable()

if __name__ == "__main__":
    code = main()
    gc.freeze()  # else all of them would be looked through on the way out, for a second or two
    sys.exit(code)
