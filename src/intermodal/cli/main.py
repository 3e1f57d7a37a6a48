"""``intermodal``: finds the command's module and turns errors into one sentence and an exit code.

Only the standard library is imported here, so that help appears at once; a command imports what it needs.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from intermodal.core.config import suggestion
from intermodal.core.errors import ConfigError, IntermodalError

COMMANDS: dict[str, tuple[str, str]] = {
    "demo": ("intermodal.cli.demo", "train, judge and try a model on the shipped pictures, in minutes"),
    "methods": ("intermodal.cli.methods", "list the methods, what each can do and what it reaches"),
    "recipes": ("intermodal.cli.recipes", "list the recipes, or print one in full"),
    "doctor": ("intermodal.cli.doctor", "check what is installed, the devices, the memory and the data"),
    "train": ("intermodal.cli.train", "train a recipe or a method, on its data or on yours"),
    "eval": ("intermodal.cli.eval", "judge a trained model on held-out data"),
    "probe": ("intermodal.cli.probe", "compare what models' features hold, and what they are invariant to"),
    "report": ("intermodal.cli.report", "write a run's report, one file that opens anywhere"),
    "studio": ("intermodal.cli.studio", "open a page on which a model can be used by hand"),
    "serve": ("intermodal.cli.serve", "serve a model to other programs over HTTP"),
    "search": ("intermodal.cli.search", "find pictures by a text or by another picture"),
    "index": ("intermodal.cli.index", "build or refresh the index of a folder of pictures"),
    "embed": ("intermodal.cli.embed", "turn pictures and texts into vectors"),
    "classify": ("intermodal.cli.classify", "sort pictures under labels of your choice"),
    "caption": ("intermodal.cli.caption", "say in words what pictures show"),
    "ask": ("intermodal.cli.ask", "ask questions about pictures, one or several in a chat"),
    "read": ("intermodal.cli.read", "read the text in pictures of pages and lines"),
    "generate": ("intermodal.cli.generate", "draw pictures from a prompt, or write texts, with a model that can"),
    "interpolate": ("intermodal.cli.interpolate", "draw pictures between two pictures or two texts"),
    "encode": ("intermodal.cli.encode", "turn pictures into a file of tokens"),
    "decode": ("intermodal.cli.decode", "turn a file of tokens into pictures"),
    "tokens": ("intermodal.cli.tokens", "show what an image tokenizer makes of a picture"),
    "transcribe": ("intermodal.cli.transcribe", "write down what is said in recordings"),
    "align": ("intermodal.cli.align", "find the words and phones of a known text in a recording"),
    "features": (
        "intermodal.cli.features",
        "show what a recogniser hears of a recording: bands, cepstra, every step drawn",
    ),
    "words": ("intermodal.cli.words", "ask what is near a word, complete analogies, draw a map of words"),
    "lm": ("intermodal.cli.lm", "train, ask, prune and convert n-gram language models"),
    "info": ("intermodal.cli.info", "say what a run, a model or a folder of data is"),
    "convert": ("intermodal.cli.convert", "turn a published model into ours, or ours into a published one"),
    "completion": ("intermodal.cli.completion", "print the completion script of a shell"),
}
"""Each command, the module that runs it (``run(argv) -> exit code``), and one line of help."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code.

    Args:
        argv: the words after ``intermodal``; those of the process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _dispatch(words)
        sys.stdout.flush()
        return code
    except IntermodalError as error:
        if os.environ.get("INTERMODAL_DEBUG") == "1":
            raise
        print(f"intermodal: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("intermodal: interrupted.", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has closed it: point it elsewhere, so that Python's flush at exit is quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except SystemExit as stop:  # help was printed
        return stop.code if isinstance(stop.code, int) else 0


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-v", "--version", "-V"):
        from intermodal.core.version import __version__

        print(f"intermodal {__version__}")
        return 0
    name, *rest = words
    if name.startswith("-"):
        raise ConfigError(f"There is no option {name}; say a command first: {', '.join(COMMANDS)}.")
    if name not in COMMANDS:
        raise ConfigError(f"There is no command {name!r}{suggestion(name, COMMANDS)}")
    return importlib.import_module(COMMANDS[name][0]).run(rest)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: intermodal COMMAND [OPTIONS]",
            "",
            "Every method of multimodal learning: one way to train, load, use, judge and serve them.",
            "",
            "commands:",
            *lines,
            "",
            "  intermodal COMMAND --help says more.  -v, --version prints the version.",
            "",
            "to begin:",
            "  intermodal train clip                      train CLIP on the emoji set, in minutes",
            "  intermodal train clip --data ./my_pictures train it on a folder of captioned pictures",
            '  intermodal search RUN "a red car" --in DIR find pictures in a folder',
        ]
    )
