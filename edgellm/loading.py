"""Open a bundle as what its task makes of it: a language model, a classifier, an encoder."""

import os
from typing import TYPE_CHECKING, Literal, overload

from edgellm.errors import ConfigError

if TYPE_CHECKING:
    from edgellm.runtime.classifier import ImageClassifier
    from edgellm.runtime.kernels._compiler import Progress
    from edgellm.runtime.model import Model
    from edgellm.runtime.sentence_encoder import SentenceEncoder

PathLike = str | os.PathLike[str]


@overload
def load(
    path: PathLike,
    *,
    threads: int | None = None,
    context: int | None = None,
    task: Literal["text-generation"] | None = None,
    tune: bool = False,
    device: str | None = None,
    progress: "Progress" = ...,
) -> "Model": ...


@overload
def load(
    path: PathLike,
    *,
    threads: int | None = None,
    task: Literal["image-classification"],
    device: str | None = None,
) -> "ImageClassifier": ...


@overload
def load(
    path: PathLike,
    *,
    threads: int | None = None,
    context: int | None = None,
    task: Literal["sentence-embedding"],
    device: str | None = None,
) -> "SentenceEncoder": ...


def load(  # noqa: PLR0913 (what there is to choose)
    path: PathLike,
    *,
    threads: int | None = None,
    context: int | None = None,
    task: str | None = None,
    tune: bool = False,
    device: str | None = None,
    progress: "Progress" = lambda _done, _total: None,
) -> "Model | ImageClassifier | SentenceEncoder":
    """Open a bundle; use what comes in a ``with`` block, or close it.

    Args:
        path: the bundle's directory.
        threads: worker threads; default: what the tuner found best, or one for each core that this
            process may use.
        context: most tokens of one text; default and limit: what the bundle was exported for.
        task: what the bundle must be for. Default: whatever it is for; only a type checker, which
            cannot look into the bundle, takes it for a language model then.
        tune: find out first which kernels and how many threads are fastest here (5 s), unless that
            was done before; see ``tune``. For language models.
        device: a simulated device (``edgellm devices`` lists them) that computes the operators it
            takes; the integers are the same, and slow to come.
        progress: called with the number of kernels that are compiled and of those that have to be,
            at the first start of a language model.

    Returns:
        A Model that generates text, an ImageClassifier with ``classify``, or a SentenceEncoder with
        ``embed``.

    Raises:
        BundleError: the bundle is damaged.
        ConfigError: it is for another task, or threads or context are out of range.
        UnknownNameError: there is no such device.
        NotEnoughMemoryError: the key/value cache does not fit in the free memory.
    """
    from edgellm.bundle import open_bundle
    from edgellm.runtime.encoder_contract import CLASSIFICATION, EMBEDDING

    bundle = open_bundle(path)
    found = bundle.manifest.task
    bundle.require_task(task or found)
    where = None
    if device is not None:
        from edgellm.devices import _catalog

        where = _catalog.load(device)
    if found == CLASSIFICATION:
        from edgellm.runtime.classifier import ImageClassifier

        if context is not None:
            raise ConfigError("context is for texts")
        return ImageClassifier(path, threads=threads, device=where)
    if found == EMBEDDING:
        from edgellm.runtime.sentence_encoder import SentenceEncoder

        return SentenceEncoder(path, threads=threads, context=context, device=where)
    from edgellm.runtime.model import Model

    return Model(path, threads=threads, context=context, tune=tune, device=where, progress=progress)
