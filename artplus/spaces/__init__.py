"""What may be perturbed: inputs, embeddings, hidden states."""

from artplus.spaces._base import Per as Per
from artplus.spaces._base import Space as Space
from artplus.spaces.embedding import EmbeddingSpace as EmbeddingSpace
from artplus.spaces.hidden import Perturbed as Perturbed
from artplus.spaces.hidden import attached as attached
from artplus.spaces.hidden import run as run
from artplus.spaces.input import InputSpace as InputSpace
from artplus.spaces.latent import LatentSpace as LatentSpace
from artplus.spaces.recording import recording as recording
from artplus.spaces.region import Region as Region

__all__ = [
    "EmbeddingSpace",
    "InputSpace",
    "LatentSpace",
    "Per",
    "Perturbed",
    "Region",
    "Space",
    "attached",
    "recording",
    "run",
]
