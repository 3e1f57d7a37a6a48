"""What a trained model does for a person, as small protocols.

The command line, the page and the API speak to these alone, so a method shows up in all three by offering one. A
capability takes raw data (pictures as PIL images, texts as strings) and returns raw data or arrays: the processors that
travel with the model do the rest. All stand in one file, longer than others, for whoever looks for what a model may offer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from intermodal.core.captioning import Caption, Captioning
    from intermodal.core.chat import Chat
    from intermodal.core.drawing import Drawing, Watcher
    from intermodal.core.progress import Progress
    from intermodal.core.reading import Line
    from intermodal.core.transcript import Alignment, Emissions, Transcribing, Transcript


@runtime_checkable
class Embeds(Protocol):
    """Embeds raw data of some modalities into one space in which the dot product is the similarity."""

    modalities: tuple[str, ...]
    """Which inputs :meth:`embed` takes, for example ``("image", "text")``."""

    def embed(self, modality: str, inputs: Sequence[Any]) -> np.ndarray:
        """Return float32 unit vectors, shape ``(len(inputs), D)``.

        Args:
            modality: one of :attr:`modalities`.
            inputs: PIL images for ``"image"``, strings for ``"text"``, paths or waveforms for ``"audio"``.
        """
        ...


@runtime_checkable
class Classifies(Protocol):
    """Assigns one of some labels to each picture."""

    def classify(
        self, images: Sequence[Image.Image], labels: Sequence[str], templates: Sequence[str] = ("{}",)
    ) -> np.ndarray:
        """Return float32 probabilities, shape ``(len(images), len(labels))``, each row summing to one.

        Args:
            images: PIL images.
            labels: the names to choose among, at least one.
            templates: prompts with one ``{}``; a label's embedding is the normalised mean over its prompts.
        """
        ...


@runtime_checkable
class HasClasses(Protocol):
    """Has classes of its own, those of its training, among which it :class:`Classifies`; not a capability by itself."""

    classes: tuple[str, ...]
    """Their names, sorted; empty if it was trained without."""


def labels_for(model: object, labels: Sequence[str]) -> tuple[str, ...]:
    """Return the labels that a person chose, or where there are none all classes of a model that has some of its own."""
    if not labels and isinstance(model, HasClasses):
        return model.classes
    return tuple(labels)


@runtime_checkable
class Generates(Protocol):
    """Makes new data of the kind that it has learnt."""

    generates: str
    """What comes out: ``image`` (PIL images), ``text`` (strings), ``point`` (tuples of numbers)."""

    def generate(self, count: int, *, prompt: str | None = None, seed: int = 0, steps: int | None = None) -> list[Any]:
        """Return ``count`` samples of the kind that :attr:`generates` names.

        Args:
            count: how many, at least 1.
            prompt: what they are to go on from or to show; None for none.
            seed: same seed, same samples.
            steps: how long each is worked on (steps of a sampler, words of a text); None for the model's own choice.

        Raises:
            DataError: if ``count`` or ``steps`` is below 1, or a prompt is given to a model that takes none.
        """
        ...


@runtime_checkable
class Draws(Protocol):
    """Draws pictures step by step, in a way that can be set and watched; it :class:`Generates` pictures too."""

    takes_prompt: bool
    """Whether it was trained with texts (or names of classes), so that prompts mean something to it."""
    guidable: bool
    """Whether the guidance of a :class:`~intermodal.core.drawing.Drawing` may differ from 1."""

    @property
    def drawing(self) -> Drawing:
        """The model's own settings."""
        ...

    def draw(
        self,
        prompts: Sequence[str | None],
        seeds: Sequence[int],
        drawing: Drawing | None = None,
        *,
        watch: Watcher | None = None,
    ) -> list[Image.Image]:
        """Return one picture for each prompt and seed.

        Args:
            prompts: what each is to show; None for nothing in particular.
            seeds: as many, at least 0: of each picture's noise, so that a picture does not depend on the others.
            drawing: steps, sampler and so on; the model's own by default.
            watch: called before each step of each batch of pictures.

        Raises:
            DataError: if a prompt is given to a model that takes none, or is too long.
            ConfigError: if the settings ask for what the model cannot do.
        """
        ...


@runtime_checkable
class Interpolates(Protocol):
    """Goes from one picture or text to another by pictures in between."""

    def interpolate(
        self, first: Any, second: Any, count: int, *, seed: int = 0, drawing: Drawing | None = None
    ) -> list[Image.Image]:
        """Return ``count`` pictures, at least 2, the ends included.

        Args:
            first: a PIL image, or a string where the model takes prompts.
            second: another, of the same kind.
            count: how many, at least 2.
            seed: of what the two do not decide.
            drawing: how each is drawn, by models that draw in steps; the model's own by default.

        Raises:
            DataError: if the model cannot begin from what is given, or ``count`` is below 2.
        """
        ...


@runtime_checkable
class Completes(Protocol):
    """Goes on with pictures of which the upper part is given."""

    def complete(
        self, images: Sequence[Image.Image], keep: float = 0.5, *, prompt: str | None = None, seed: int = 0
    ) -> list[Image.Image]:
        """Return one picture for each of ``images``: the upper part as it was, the rest made anew.

        Args:
            images: PIL images of any size.
            keep: the share that is kept, from the top, 0 to 1.
            prompt: what the whole is to show; None for nothing in particular.
            seed: of the first; the next has the next.

        Raises:
            DataError: if ``keep`` is out of range, or a prompt is given to a model that takes none.
        """
        ...


@runtime_checkable
class Reconstructs(Protocol):
    """Turns pictures into a shorter description, codes or real numbers, and that back into pictures: an image tokenizer."""

    codebook_size: int | None
    """How many codes there are to choose from at each place; None if the description is of real numbers."""

    def latent_shape(self) -> tuple[int, ...]:
        """Return the shape of one description: ``(h, w)`` or ``(h, w, Q)`` codes, ``(Z, h, w)`` or ``(Z,)`` numbers."""
        ...

    def encode(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return the descriptions ``(len(images), *latent_shape())``: int64 codes, or float32 numbers."""
        ...

    def decode(self, latents: np.ndarray) -> list[Image.Image]:
        """Return the pictures of descriptions.

        Raises:
            DataError: if their shape is another one, a code does not exist, or a number is not finite.
        """
        ...

    def bits(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Return how many bits each picture's description takes, float32 ``(len(images),)``.

        Of codes, their number times ``log2(codebook_size)``; of real numbers with a prior, the divergence from it, which is
        what bits-back coding attains (Hinton & van Camp 1993); of others, their raw size.
        """
        ...


@runtime_checkable
class HasWords(Protocol):
    """Knows words by their vectors: what is near a word, and what is to one as another is to a third."""

    @property
    def words(self) -> Sequence[str]:
        """The words, each once, the most frequent first."""
        ...

    def word_vectors(self) -> np.ndarray:
        """Return float32 vectors, shape ``(len(words), D)``, in the order of :attr:`words`, of any length."""
        ...


@runtime_checkable
class Captions(Protocol):
    """Says in words what pictures show."""

    def caption(
        self, images: Sequence[Image.Image], settings: Captioning | None = None, *, watch: Progress | None = None
    ) -> list[Caption]:
        """Return one caption for each picture.

        Args:
            images: PIL images of any size.
            settings: beam, temperature, length and so on; greedy by default.
            watch: told how far it is.

        Raises:
            ConfigError: if the settings ask for what the model cannot do.
        """
        ...


@runtime_checkable
class Reads(Protocol):
    """Reads the text in pictures of pages or lines, and says where each line stands."""

    @property
    def reading(self) -> Captioning:
        """The model's own settings."""
        ...

    def read(
        self,
        images: Sequence[Image.Image],
        settings: Captioning | None = None,
        *,
        cut: bool = True,
        watch: Progress | None = None,
    ) -> list[list[Line]]:
        """Return the lines of each picture, from top to bottom; none of a blank page.

        Args:
            images: PIL images of any size and mode.
            settings: beam, length and so on; None for the model's own.
            cut: pictures are pages, to be cut into lines; else each is a line, read whole.
            watch: told how far it is.

        Raises:
            ConfigError: if the settings ask for what the model cannot do.
        """
        ...


@runtime_checkable
class Answers(Protocol):
    """Answers questions about pictures, in a chat of any number of turns."""

    def answer(
        self, chats: Sequence[Chat], settings: Captioning | None = None, *, watch: Progress | None = None
    ) -> list[Caption]:
        """Return the answer to the last question of each chat.

        Args:
            chats: turns (:class:`~intermodal.core.chat.Turn`); all but the last of each have their answers.
            settings: beam, temperature, length and so on; greedy by default.
            watch: told how far it is.

        Raises:
            DataError: if a chat cannot be answered, or is longer than what the model reads.
            ConfigError: if the settings ask for what the model cannot do.
        """
        ...

    def memory(self) -> Any:
        """Return the memory of a chat that has not begun, for :meth:`answering`."""
        ...

    def answering(self, chat: Chat, settings: Captioning | None = None, memory: Any = None) -> Iterator[str]:
        """Yield the answer to the last question in pieces, as they are written.

        Args:
            chat: all turns.
            settings: as of :meth:`answer`.
            memory: of this chat, from :meth:`memory`: what was read for an earlier question is not read again. The
                answer is the same without.

        Raises:
            DataError: as :meth:`answer`, when the first piece is asked for.
        """
        ...


@runtime_checkable
class Transcribes(Protocol):
    """Writes down what is said in recordings."""

    sample_rate: int
    """Samples a second that the model hears; recordings of another rate are resampled."""

    def transcribe(
        self, audios: Sequence[Any], settings: Transcribing | None = None, *, watch: Progress | None = None
    ) -> list[Transcript]:
        """Return one transcript for each recording.

        Args:
            audios: paths, encoded bytes, or :class:`~intermodal.data.audio.Waveform` objects, of any length and rate.
            settings: beam, language model and so on; greedy by default.
            watch: told how far it is.

        Raises:
            DataError: if a recording cannot be read or holds a sample that is not a number.
            ConfigError: if the settings ask for what the model cannot do.
        """
        ...


@runtime_checkable
class Aligns(Protocol):
    """Finds where in a recording the words of a known text are."""

    def align(self, audio: Any, text: str) -> Alignment:
        """Return the words, and where there are any the phones, with times.

        Raises:
            DataError: if the text has a word or letter that the model does not know, or does not fit into the recording.
        """
        ...


@runtime_checkable
class Emits(Protocol):
    """Says what it hears in each frame of a recording: what decoders work on and what can be looked at."""

    def emissions(self, audio: Any) -> Emissions:
        """Return the log-probabilities of all symbols in all frames."""
        ...


@runtime_checkable
class Listener(Protocol):
    """A recording that is still arriving, on its way to a transcript."""

    def feed(self, samples: np.ndarray) -> Transcript:
        """Take more samples, float32 ``(T,)`` at the model's rate, and return what is known so far."""
        ...

    def finish(self) -> Transcript:
        """Return the whole transcript; nothing more arrives."""
        ...


@runtime_checkable
class Streams(Protocol):
    """Transcribes while the sound arrives."""

    latency: float
    """Seconds between a sound and the moment at which all that the model looks at for it has arrived."""

    def listen(self, settings: Transcribing | None = None) -> Listener:
        """Return a listener at the start of a recording.

        Raises:
            ConfigError: if the settings ask for what cannot be done before the end.
        """
        ...


CAPABILITIES: dict[str, type] = {
    "embed": Embeds,
    "classify": Classifies,
    "reconstruct": Reconstructs,
    "generate": Generates,
    "draw": Draws,
    "interpolate": Interpolates,
    "complete": Completes,
    "words": HasWords,
    "caption": Captions,
    "answer": Answers,
    "read": Reads,
    "transcribe": Transcribes,
    "align": Aligns,
    "emit": Emits,
    "stream": Streams,
}
"""Each capability's name, as commands and method cards spell it, and its protocol."""


def capabilities_of(model: object) -> tuple[str, ...]:
    """Return the names of the capabilities that ``model`` offers."""
    return tuple(name for name, protocol in CAPABILITIES.items() if isinstance(model, protocol))
