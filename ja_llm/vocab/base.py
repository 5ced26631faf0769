"""The tokenizer contract: text to ids and back, the same for SentencePiece and Hugging Face models.

Free of any machine-learning framework, so that Beam workers and GPU boxes without TensorFlow can use it.

A tokenizer's folder holds the model's own file and beside it `special_ids.json`:

    DIR/tokenizer.model     SentencePiece model, or
    DIR/tokenizer.json      Hugging Face `tokenizers` model
    DIR/special_ids.json    ids of BOS, EOS and UNK
    DIR/chat_template.jinja how a dialogue is written, where the model has such a template (as `transformers` names the file)
    DIR/published/          files that an imported model's tokenizer was published with, see `ja_llm.vocab.published`
"""

import abc
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import atomic_write, read_json, write_json

SENTENCEPIECE_FILE = "tokenizer.model"
HF_FILE = "tokenizer.json"
SPECIAL_IDS_FILE = "special_ids.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
PUBLISHED_FOLDER = "published"


class Tokenizer(abc.ABC):
    """Maps text to token ids.

    `encode` treats its whole input as text: a string such as "</s>" inside it is spelt with ordinary pieces and never
    becomes a control id. BOS and EOS are added by `document_ids` only.

    Attributes:
      chat_template: Jinja text that writes a dialogue, as `transformers` takes it; None where there is none. It goes along through
        saving, expansion and export, and is no part of the fingerprint, since it decides no ids of a text.
      published: name -> content of the tokenizer files of the Hugging Face folder that the model was imported from; they go along
        likewise, see `ja_llm.vocab.published`.
    """

    chat_template: str | None = None
    published: Mapping[str, bytes] = {}

    @property
    @abc.abstractmethod
    def vocab_size(self) -> int:
        """Number of ids; every id is in [0, vocab_size)."""

    @property
    @abc.abstractmethod
    def bos_id(self) -> int:
        """Id that opens a document (the EOS id where the model has no BOS, as GPT-2 does)."""

    @property
    @abc.abstractmethod
    def eos_id(self) -> int:
        """Id that closes a document."""

    @property
    @abc.abstractmethod
    def unk_id(self) -> int | None:
        """Id of the unknown piece, or None."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Hex SHA-256 of everything that decides ids and decoded text: pieces, scores, types, normaliser, BOS and EOS."""

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS and EOS.

        Raises:
          JaLlmError: the text holds a lone surrogate, which no UTF-8 text can.
        """

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; BOS, EOS and other control ids give no text. Bytes that are no UTF-8 give U+FFFD."""

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        """`decode` of each row of ids."""
        return [self.decode(ids) for ids in batch]

    @property
    def zero_is_real(self) -> bool:
        """Whether id 0 can stand in a document: software that takes it for padding would lose it. True where that is not known."""
        return True

    @abc.abstractmethod
    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """`encode(text)` and for each id the characters [start, end) of `text` that it covers.

        Where a character is spelt with several byte pieces, each of them covers that whole character. A piece that
        stands for nothing in the text (the space that SentencePiece puts in front) covers an empty span.
        """

    @abc.abstractmethod
    def id_to_piece(self, index: int) -> str:
        """The piece as the model writes it, e.g. "▁the" or "<0x0A>"."""

    @abc.abstractmethod
    def _save_model(self, directory: Path) -> None:
        """Write the model's own file."""

    @abc.abstractmethod
    def export_hf(self, directory: str | os.PathLike) -> None:
        """Write files that `transformers.AutoTokenizer.from_pretrained` loads and that give the same ids."""

    def save(self, directory: str | os.PathLike) -> None:
        """Write the tokenizer into `directory`; `load_tokenizer` reads it back with an equal fingerprint."""
        directory = Path(directory)
        self._save_model(directory)
        write_json(directory / SPECIAL_IDS_FILE, {"bos": self.bos_id, "eos": self.eos_id, "unk": self.unk_id})
        if self.chat_template is not None:
            with atomic_write(directory / CHAT_TEMPLATE_FILE) as file:
                file.write(self.chat_template.encode("utf-8"))
        for name, data in self.published.items():
            with atomic_write(directory / PUBLISHED_FOLDER / name) as file:
                file.write(data)

    def document_ids(self, text: str) -> list[int]:
        """Ids of a whole document: BOS, its text, EOS."""
        return [self.bos_id, *self.encode(text), self.eos_id]


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Load a tokenizer.

    Args:
      path: folder with `tokenizer.model` (SentencePiece; it wins where both are, and takes the tokens along that the other
        file adds behind its pieces) or `tokenizer.json` (Hugging Face), as `Tokenizer.save` or a Hugging Face model folder
        has them; or one of these files itself.

    Raises:
      UsageError: there is no such folder, or no tokenizer in it.
      JaLlmError: the file is damaged, of a newer format, or does not say which ids are BOS and EOS.
    """
    path = Path(path)
    if path.is_file():
        folder, names = path.parent, [path.name]
    elif path.is_dir():
        folder, names = path, [name for name in (SENTENCEPIECE_FILE, HF_FILE) if (path / name).is_file()]
    else:
        raise UsageError(
            f"{path}: this vocabulary folder does not exist; give the output of `ja-llm vocab train` or of an import."
        )
    if not names:
        raise UsageError(
            f"{path}: there is neither {SENTENCEPIECE_FILE} nor {HF_FILE} here; give a folder that holds a tokenizer."
        )
    tokenizer = _load(folder, names)
    tokenizer.chat_template = read_chat_template(folder)
    if (folder / PUBLISHED_FOLDER).is_dir():
        tokenizer.published = {path.name: path.read_bytes() for path in sorted((folder / PUBLISHED_FOLDER).iterdir())}
    return tokenizer


def _load(folder: Path, names: list[str]) -> Tokenizer:
    special = read_special_ids(folder)
    if names[0].endswith(".json"):
        from ja_llm.vocab.hf_tokenizer import HFTokenizer

        return HFTokenizer.from_file(folder / names[0], **special)
    from ja_llm.vocab.sentencepiece_tokenizer import SentencePieceTokenizer

    tokenizer = SentencePieceTokenizer.from_file(folder / names[0], **special)
    if HF_FILE not in names:
        return tokenizer
    try:
        return tokenizer.with_added_tokens(read_json(folder / HF_FILE, "tokenizer").get("added_tokens") or [])
    except (AttributeError, KeyError, TypeError, JaLlmError) as error:
        raise JaLlmError(
            f"{folder / HF_FILE}: its added tokens do not fit {names[0]} ({error}); remove one of the two."
        ) from error


def read_special_ids(folder: Path) -> dict[str, int]:
    """Keyword arguments `bos_id`, `eos_id` and `unk_id` as far as `special_ids.json` says them; {} without that file."""
    path = folder / SPECIAL_IDS_FILE
    if not path.exists():
        return {}
    value = read_json(path, "list of special ids")
    keys = ("bos", "eos", "unk")
    if not isinstance(value, dict) or any(not isinstance(value.get(key, 0), int | None) for key in keys):
        raise JaLlmError(f'{path}: an object such as {{"bos": 1, "eos": 2, "unk": 0}} is needed here.')
    return {f"{key}_id": value[key] for key in keys if value.get(key) is not None}


def read_chat_template(folder: Path) -> str | None:
    """The chat template of a folder: `chat_template.jinja`, or the (default) one that tokenizer_config.json holds.

    Raises:
      JaLlmError: it can't be read, or is no text.
    """
    path = folder / CHAT_TEMPLATE_FILE
    if path.exists():
        try:
            return path.read_bytes().decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise JaLlmError(
                f"{path}: this chat template can't be read ({error}); put the model's own there, or remove it."
            ) from error
    path = folder / "tokenizer_config.json"
    value = read_json(path, "Hugging Face configuration") if path.exists() else {}
    template = value.get("chat_template") if isinstance(value, dict) else None
    if isinstance(template, list):  # several by name
        named = {x.get("name"): x.get("template") for x in template if isinstance(x, dict)}
        template = named.get("default", next(iter(named.values()), None))
    if template is not None and not isinstance(template, str):
        raise JaLlmError(f"{path}: its chat_template is no text; put the model's own file there, or remove that entry.")
    return template


def check_text(text: str) -> None:
    """Raise JaLlmError if `text` can't be written as UTF-8 (it holds a lone surrogate)."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        around = text[max(0, error.start - 10) : error.end + 10]
        raise JaLlmError(
            f"a text holds the lone surrogate U+{ord(text[error.start]):04X} at character {error.start} ({around!r}); "
            "it was decoded wrongly, so decode it again with errors='replace'."
        ) from None
