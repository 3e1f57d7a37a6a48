"""Data sets that the ``datasets`` library reads: WebDataset shards, streamed Parquet files, the hub's."""

from __future__ import annotations

import tarfile
from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from intermodal.core.errors import DataError
from intermodal.data.download import offline
from intermodal.data.source import Source
from intermodal.data.splits import ALIASES, check_split, hash_share
from intermodal.data.stream import StreamSource
from intermodal.data.table import Columns, TableSource, split_table

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from intermodal.data.folder import FolderSource

HELD_OUT_ROWS = 1000
"""So many rows of a stream's validation part are read into memory, and no more."""


def open_hosted(config: FolderSource, split: str, builder: str, shards: Mapping[str, list[str]]) -> Source:
    """Open one split of a data set.

    Args:
        config: the options.
        split: ``train``, ``validation`` or ``test``.
        builder: ``webdataset``, ``parquet``, or the id of a data set on the hub.
        shards: local files by split; none for the hub.

    Raises:
        DataError: if it cannot be reached or read, or has no column of pictures or texts.
    """
    check_split(split)
    name = str(config.path)
    parts = load(name, builder, shards, config.streaming)
    if config.streaming:
        return _open_stream(config, split, name, parts)
    import pyarrow as pa

    tables, given = [], []
    for part, dataset in parts.items():
        tables.append(dataset.data.table.replace_schema_metadata(dataset.features.arrow_schema.metadata))
        given += [part] * tables[-1].num_rows
    return split_table(
        pa.concat_tables(tables, promote_options="default"),
        split,
        name=name,
        given=given,
        text_column=config.text_column,
        image_column=config.image_column,
        validation_share=config.validation_share,
    )


def load(name: str, builder: str, shards: Mapping[str, list[str]], streaming: bool) -> dict[str, Any]:
    """Return the data set's splits, by our names for them, as ``datasets`` opens them."""
    import datasets
    import pyarrow as pa

    switch = offline()
    if switch is not None:
        _switch_off()
    options: dict[str, Any] = {}
    if shards:
        options = {"data_files": dict(shards)}
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False  # opening one's own files is not reported to anyone
    try:
        loaded = datasets.load_dataset(builder, streaming=streaming, **options)
    except (
        OSError, ValueError, LookupError, RuntimeError, EOFError, tarfile.TarError, pa.ArrowException,
        datasets.exceptions.DatasetsError, datasets.exceptions.DatasetGenerationError,
    ) as error:  # fmt: skip
        reason = str(error.__cause__ or error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
        if not shards and switch is not None:
            raise DataError(
                f"{name} is not in the cache and the network is off ({switch} is set): {reason}."
            ) from error
        raise DataError(f"{name} cannot be opened ({reason}).") from error
    parts = {ALIASES.get(str(part).lower(), str(part)): dataset for part, dataset in loaded.items()}
    if "train" not in parts:
        raise DataError(f"{name} has no training split; it has {', '.join(parts)}.")
    return {part: dataset for part, dataset in parts.items() if part in ("train", "validation", "test")}


def _switch_off() -> None:
    """Keep ``datasets`` off the network: it reads its own switch only when it is imported."""
    import datasets.config
    import huggingface_hub.constants

    datasets.config.HF_HUB_OFFLINE = True
    huggingface_hub.constants.HF_HUB_OFFLINE = True


def _open_stream(
    config: FolderSource, split: str, name: str, parts: Mapping[str, datasets.IterableDataset]
) -> StreamSource | TableSource:
    part = "test" if split == "test" and "test" in parts else "train" if split == "train" else "validation"
    stated = "validation" in parts
    dataset, schema = _undecoded(parts[part] if part in parts else parts["train"], name)
    columns = Columns.find(schema, config.text_column, config.image_column, name)
    dataset = dataset.select_columns(columns.used)
    if part == "train":
        return StreamSource(
            dataset,
            columns,
            name=name,
            held_out=0.0 if stated else config.validation_share,
            block=config.shuffle_block,
            epoch_size=config.stream_epoch,
        )
    share = config.validation_share if part not in parts else 1.0
    return _first_rows(StreamSource(dataset, columns, name=name), schema, split, share)


def _first_rows(source: StreamSource, schema: pa.Schema, split: str, share: float) -> TableSource:
    """Read the first rows of a stream whose names hash below ``share`` into memory."""
    import pyarrow as pa

    columns = source.columns
    chosen = (r for r in source.rows(iter(source.dataset)) if hash_share(columns.row_name(r)) < share)
    rows = [dict(r) for r in islice(chosen, HELD_OUT_ROWS)]
    if not rows:
        raise DataError(f"{source.name} leaves no picture for {split}: it needs more of them, or a higher share.")
    return TableSource(
        pa.Table.from_pylist(rows),
        image=columns.image,
        captions=columns.captions,
        label=columns.label_of if columns.label is not None else None,
        name=f"{source.name} ({split})",
    )


def _undecoded(dataset: datasets.IterableDataset, name: str) -> tuple[datasets.IterableDataset, pa.Schema]:
    """Return the stream with pictures left as bytes, and its schema, from its first row if it states none."""
    import datasets
    import pyarrow as pa

    if dataset.features is None:
        first = next(iter(dataset), None)
        if first is None:
            raise DataError(f"{name} has no rows.")
        return dataset, pa.Table.from_pylist([first]).schema
    for column, feature in dataset.features.items():
        if isinstance(feature, datasets.Image):
            dataset = dataset.cast_column(column, datasets.Image(decode=False))
    return dataset, dataset.features.arrow_schema
