"""Prepare a text for training, and show what was done to it."""

import argparse
import shlex
import sys
import time

from project.command_line import command_form, exit_code_of
from project.data.cleaning import Cleaning
from project.data.corpora import Corpus, PythonDocs, TextCorpus, TinyShakespeare
from project.data.download import data_root
from project.data.token_files import Preparation, TokenFile, prepare, token_cache
from project.data.tokenization import BPETokenizer, ByteTokenizer, CharTokenizer, Tokenizer
from project.messages import UsageError

SHOWN_TOKENS = 12  # of the most frequent

DESCRIPTION = """\
Clean, split and tokenise a text as training would, keep the tokens for it, and
say what was read, dropped and found. Training does the same by itself at its
first run.

examples:
  python -m project.prepare novel.txt
  python -m project.prepare folder_of_txts --tokenizer bpe --vocab_size 4096
  python -m project.prepare old.txt --encoding cp1252 --normal_form NFC
  python -m project.prepare PythonDocs --tokenizer char
"""


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 0, or 2 when the text cannot be used."""
    options = parser().parse_args(arguments)
    return exit_code_of(lambda: prepare_and_show(options))


def prepare_and_show(options: argparse.Namespace) -> None:
    """Prepare the text, and print what was done to it and the command that trains on it.

    Raises:
        UsageError: If it cannot be used, in the words of this command's options.
    """
    try:
        preparation = preparation_of(options)
        root = data_root(options.root)
        cache = token_cache(root, options.cache_dir)
        preparation.corpus.download(root)
        started = time.perf_counter()
        token_file = prepare(preparation, root, cache)
        seconds = time.perf_counter() - started
    except (ValueError, OSError) as error:
        message = str(error).replace(" (--data.corpus.path)", "")
        message = message.replace("--data.corpus.", "--").replace("--data.", "--")
        raise UsageError(message) from error
    preparation.tokenizer.load_state_dict(token_file.info["tokenizer"])
    print(report(token_file, preparation.tokenizer, seconds))
    print(f"\ntrain on it:\n  {training_command(options, preparation)}")


def parser() -> argparse.ArgumentParser:
    form = command_form("prepare", DESCRIPTION)
    form.add_argument(
        "text", help="a text file, a folder of .txt files, PythonDocs, TinyShakespeare"
    )
    form.add_argument("--tokenizer", choices=("bytes", "char", "bpe"), default="bytes")
    form.add_argument("--vocab_size", type=int, help="of bpe; 1024 by default")
    form.add_argument("--encoding", help="of the files; utf-8 by default")
    form.add_argument("--val_path", help="the validation text; else cut from the end")
    form.add_argument("--test_path", help="the test text; else cut from the end")
    form.add_argument("--val_fraction", type=float, default=0.05, help="0.05 by default")
    form.add_argument("--test_fraction", type=float, default=0.05, help="0.05 by default")
    form.add_argument("--control_characters", action="store_true", help="keep them")
    form.add_argument("--lower_case", action="store_true")
    form.add_argument("--normal_form", choices=("NFC", "NFD", "NFKC", "NFKD"))
    form.add_argument("--root", help="folder of data files; else $DATA_DIR, else data")
    form.add_argument("--cache_dir", help="where tokens are kept; else `tokens` in the root")
    return form


def preparation_of(options: argparse.Namespace) -> Preparation:
    """Return the corpus, tokenizer and options that were asked for.

    Raises:
        ValueError: If an option has nothing to act on, or a number is out of range.
    """
    corpus: Corpus
    named = {"PythonDocs": PythonDocs, "TinyShakespeare": TinyShakespeare}
    if options.text in named:
        for name in ("encoding", "val_path", "test_path"):
            if getattr(options, name):
                raise ValueError(f"--{name} is for files of your own, and not for {options.text}")
        corpus = named[options.text]()
    else:
        encoding = options.encoding or "utf-8"
        corpus = TextCorpus(options.text, options.val_path, options.test_path, encoding)
    if options.vocab_size and options.tokenizer != "bpe":
        raise ValueError(
            f"--vocab_size {options.vocab_size} is for bpe: {options.tokenizer} finds its own; add "
            "--tokenizer bpe"
        )
    tokenizer: Tokenizer
    if options.tokenizer == "bytes":
        tokenizer = ByteTokenizer()
    elif options.tokenizer == "char":
        tokenizer = CharTokenizer()
    else:
        tokenizer = BPETokenizer(1024 if options.vocab_size is None else options.vocab_size)
    cleaning = Cleaning(options.control_characters, options.lower_case, options.normal_form)
    return Preparation(corpus, tokenizer, cleaning, options.val_fraction, options.test_fraction)


def report(token_file: TokenFile, tokenizer: Tokenizer, seconds: float) -> str:
    """Return what preprocessing did, a line for each question."""
    info = token_file.info
    characters, num_bytes, num_tokens = info["characters"], info["bytes"], info["tokens"]
    dropped = {
        "control characters": characters["control_dropped"],
        "byte order marks": characters["marks_dropped"],
        "second halves of newlines": characters["newlines_merged"],
    }
    losses = ", ".join(f"{count:,} {name}" for name, count in dropped.items() if count)
    megabytes = sum(num_bytes.values()) / 1e6
    how = "made before" if token_file.was_cached else f"made at {megabytes / seconds:.0f} MB/s"
    lines = [
        ("characters", f"{characters['read']:,} read, {characters['kept']:,} kept"),
        ("dropped", losses or "nothing"),
        *(
            (split, f"{num_tokens[split]:,} tokens of {num_bytes[split]:,} bytes")
            for split in num_tokens
        ),
        ("vocabulary", f"{info['vocab_size']:,} tokens ({type(tokenizer).__name__})"),
        ("bytes per token", f"{sum(num_bytes.values()) / sum(num_tokens.values()):.2f}"),
        ("most frequent", most_frequent(info["occurrences"], tokenizer)),
        ("kept in", f"{token_file.folder} ({how}, {seconds:.1f} s)"),
    ]
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in lines)


def most_frequent(occurrences: list[int], tokenizer: Tokenizer) -> str:
    """Return the most frequent tokens of the training text with their shares."""
    total = sum(occurrences)
    order = sorted(range(len(occurrences)), key=lambda token: -occurrences[token])
    return ", ".join(
        f"{tokenizer.decode([token])!r} {100 * occurrences[token] / total:.1f} %"
        for token in order[:SHOWN_TOKENS]
        if occurrences[token]
    )


def training_command(options: argparse.Namespace, preparation: Preparation) -> str:
    """Return the command that trains the embedded example's GPT on this text."""
    tokenizer = preparation.tokenizer
    flags = ["--data.corpus", type(preparation.corpus).__name__]
    if isinstance(preparation.corpus, TextCorpus):
        flags += ["--data.corpus.path", options.text]
        for name in ("val_path", "test_path", "encoding"):
            if getattr(options, name) not in (None, "utf-8"):
                flags += [f"--data.corpus.{name}", getattr(options, name)]
    flags += ["--data.tokenizer", type(tokenizer).__name__]
    if isinstance(tokenizer, BPETokenizer):
        flags += ["--data.tokenizer.vocab_size", str(tokenizer.vocab_size)]
    flags += ["--model.network.vocab_size", str(len(tokenizer.vocabulary))]
    for name in ("val_fraction", "test_fraction"):
        if getattr(options, name) != 0.05:
            flags += [f"--data.{name}", str(getattr(options, name))]
    for name in ("control_characters", "lower_case"):
        if getattr(options, name):
            flags += [f"--data.cleaning.{name}", "true"]
    if options.normal_form:
        flags += ["--data.cleaning.normal_form", options.normal_form]
    for name in ("root", "cache_dir"):
        if getattr(options, name):
            flags += [f"--data.{name}", getattr(options, name)]
    pairs = [shlex.join(flags[i : i + 2]) for i in range(0, len(flags), 2)]
    start = "python -m project.train --config configs/docs_transformer.yaml"
    return " \\\n    ".join([start, *pairs])


if __name__ == "__main__":
    sys.exit(main())
