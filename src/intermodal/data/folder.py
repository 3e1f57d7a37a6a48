"""A person's own pictures with texts: in a folder, Parquet files, shards, or a data set on the hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from intermodal.core.errors import DataError
from intermodal.data import layouts
from intermodal.data.images import open_image
from intermodal.data.layouts import Listing
from intermodal.data.source import CaptionedSource, Source, SourceConfig
from intermodal.data.splits import check_split, choose_split
from intermodal.data.table import TableSource, read_parquet, split_table

if TYPE_CHECKING:
    from PIL import Image

HUB = "hub:"


@dataclass(frozen=True, kw_only=True)
class FolderSource(SourceConfig):
    """Captioned pictures, in whichever of the usual layouts they are found.

    1. ``metadata.csv`` or ``metadata.jsonl`` with the columns ``file_name`` and ``text`` (``datasets``'
        imagefolder);
    2. a caption file beside each picture, ``cat.jpg`` and ``cat.txt``, one caption a line;
    3. one folder of pictures per class, whose name is the text;
    4. a Parquet file or a folder of them, with an ``image`` column;
    5. WebDataset shards, ``*.tar``;
    6. ``hub:owner/name``, a data set on the Hugging Face hub.

    Splits are those that the data states (a ``split`` column; folders or shards named ``train``,
    ``validation``, ``test``); else a stable hash of the file's name holds some pictures out.

    Attributes:
        path: the folder or file, or ``hub:owner/name``.
        text_column: where the texts are, if not in ``text``, ``caption`` or ``captions``.
        image_column: where the pictures are, if not in ``image`` (in metadata: ``file_name``).
        validation_share: held out where the data has no validation split; ``test`` is then the same part, if
            need be.
        streaming: read shards, Parquet files or the hub as a stream, without a copy and without knowing their
            length.
        shuffle_block: so many samples of a stream are shuffled at a time.
        stream_epoch: so many samples of a stream count as one epoch.
    """

    path: Path
    text_column: str | None = None
    image_column: str | None = None
    validation_share: float = 0.1
    streaming: bool = False
    shuffle_block: int = 1000
    stream_epoch: int = 10_000

    def open(self, split: str) -> Source:
        """Open one split; of a stream, ``train`` is a ``StreamSource`` and the others are read into memory.

        Raises:
            DataError: one sentence that names the file or folder and says what is wrong with it.
        """
        check_split(split)
        if str(self.path).startswith(HUB):
            return self._open_hosted(split, str(self.path).removeprefix(HUB), {})
        if not self.path.exists():
            raise DataError(f"There is no file or folder {self.path}.")
        root, files = self._files()
        layout = layouts.detect(root, files)
        if self.streaming and layout not in ("shards", "parquet"):
            raise DataError(f"{self.path} cannot be streamed: it is a folder of single files. Leave streaming off.")
        if layout == "shards" or (layout == "parquet" and self.streaming):
            return self._open_hosted(
                split, "webdataset" if layout == "shards" else "parquet", self._shards(root, files)
            )
        if layout == "parquet":
            return self._open_parquet(split, root, files)
        if layout == "metadata":
            listing = layouts.read_metadata_layout(root, files, self.text_column, self.image_column)
        elif layout == "captions":
            listing = layouts.read_captions_layout(root, files)
        else:
            listing = layouts.read_classes_layout(root, files)
        rows = choose_split(listing.files, listing.splits, split, self.validation_share, str(self.path))
        return FileSource(f"{self.path} ({split})", root, listing, rows)

    def _files(self) -> tuple[Path, list[str]]:
        """Return the folder and its files; for a metadata file all beside it, for another file it alone."""
        if self.path.is_dir():
            return self.path, layouts.scan(self.path)
        if self.path.name in layouts.METADATA:
            return self.path.parent, layouts.scan(self.path.parent)
        if self.path.suffix in (".parquet", ".tar"):
            return self.path.parent, [self.path.name]
        raise DataError(f"{self.path} is neither a folder nor a data file. {layouts.ACCEPTED}")

    def _shards(self, root: Path, files: Sequence[str]) -> dict[str, list[str]]:
        """Return the shards of each split, for ``datasets``' builders."""
        suffix = ".tar" if any(f.endswith(".tar") for f in files) else ".parquet"
        shards: dict[str, list[str]] = {}
        for file in files:
            if file.endswith(suffix):
                shards.setdefault(layouts.shard_split(file) or "train", []).append(str(root / file))
        return shards

    def _open_hosted(self, split: str, builder: str, shards: dict[str, list[str]]) -> Source:
        from intermodal.data.hosted import open_hosted

        return open_hosted(self, split, builder, shards)

    def _open_parquet(self, split: str, root: Path, files: Sequence[str]) -> TableSource:
        import pyarrow as pa

        tables, given = [], []
        for file in (f for f in files if f.endswith(".parquet")):
            tables.append(read_parquet(root / file))
            given += [layouts.shard_split(file)] * tables[-1].num_rows
        try:
            table = pa.concat_tables(tables, promote_options="default")
        except pa.ArrowException as error:
            raise DataError(f"The Parquet files in {root} have different columns ({error}).") from error
        return split_table(
            table,
            split,
            name=str(self.path),
            given=given,
            text_column=self.text_column,
            image_column=self.image_column,
            validation_share=self.validation_share,
            root=root,
        )


class FileSource(CaptionedSource):
    """Pictures in files of their own.

    Args:
        name: how errors call it.
        root: the folder that the listing's paths start from.
        listing: what is there.
        rows: the entries of the listing to use.
    """

    def __init__(self, name: str, root: Path, listing: Listing, rows: Sequence[int]) -> None:
        super().__init__(name, labelled=bool(listing.labels))
        self.root = root
        self.files = [listing.files[i] for i in rows]
        self._captions = [listing.captions[i] for i in rows]
        self._labels = [listing.labels[i] for i in rows] if listing.labels else []

    def __len__(self) -> int:
        return len(self.files)

    def picture(self, index: int) -> Image.Image:
        """Return one picture, decoded."""
        return open_image(self.root / self.files[index])

    def captions(self, index: int) -> Sequence[str]:
        """Return all captions of one picture; a caption file is read now."""
        captions = self._captions[index]
        return layouts.read_caption_file(captions) if isinstance(captions, Path) else captions

    def label(self, index: int) -> str:
        """Return the class of one picture."""
        return self._labels[index]

    def sample_name(self, index: int) -> str:
        """Return the picture's path."""
        return str(self.root / self.files[index])
