"""All towers of one model, with the parameters that are deployed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn

from mtret.index.encode import Embedder, Embedders, ImageEmbedder
from mtret.model_folder.fingerprint import fingerprint, parts_of, parts_of_images
from mtret.models import hf, hf_images
from mtret.pytrees import Tree


@dataclass(frozen=True)
class Towers:
    """What reads queries and, unless they have a tower of their own, document texts; and what reads images."""

    encoder: hf.Pretrained
    documents: hf.Pretrained | None = None
    images: hf_images.PretrainedImages | None = None

    def with_params(self, params: Tree) -> "Towers":
        """The same towers with other parameters: {"tower": ...} and, where there are such, "documents" and "vision"."""
        documents = replace(self.documents, params=params["documents"]) if self.documents else None
        images = replace(self.images, params=params["vision"]) if self.images else None
        return Towers(replace(self.encoder, params=params["tower"]), documents, images)

    def with_text_towers(self, change: Callable[[nn.Module], nn.Module]) -> "Towers":
        """With the towers of texts changed."""
        documents = replace(self.documents, tower=change(self.documents.tower)) if self.documents else None
        return replace(self, encoder=replace(self.encoder, tower=change(self.encoder.tower)), documents=documents)

    @property
    def params(self) -> dict[str, Any]:
        """As `with_params` takes them."""
        found = {"tower": self.encoder.params}
        if self.documents:
            found["documents"] = self.documents.params
        if self.images:
            found["vision"] = self.images.params
        return found

    @property
    def weights_sha256(self) -> str:
        """Of all towers' files as they were loaded."""
        others = [self.documents.weights_sha256] if self.documents else []
        others += [self.images.sha256] if self.images else []
        return " ".join([self.encoder.weights_sha256, *others])

    @property
    def parts(self) -> dict[str, Any]:
        """Of all towers, what makes their vectors what they are: see `fingerprint.parts_of`."""
        found = {"queries": parts_of(self.encoder)}
        if self.documents:
            found["documents"] = parts_of(self.documents)
        if self.images:
            found["images"] = parts_of_images(self.images)
        return found

    @property
    def fingerprint(self) -> str:
        """One hash of them."""
        return fingerprint(self.parts)

    def embedders(self) -> Embedders:
        """Ready to embed."""
        return Embedders(
            queries=embedder(self.encoder),
            documents=embedder(self.documents) if self.documents else None,
            images=ImageEmbedder(self.images.tower, self.images.params) if self.images else None,
        )


def embedder(encoder: hf.Pretrained) -> Embedder:
    """A text tower, ready to embed."""
    return Embedder(encoder.tower, encoder.params, encoder.pooling, encoder.dimension)
