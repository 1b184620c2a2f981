"""How a machine reaches a network."""

from typing import Annotated, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from signer.documents import Document


class Network(Document):
    """How a machine reaches a network.

    Attributes:
        kind: "none"; "user", behind the emulator's own address translation (no root, no inbound); "network", a network
            that libvirt knows; "bridge", a bridge of the host.
        name: of that network or bridge, else empty.
    """

    kind: Literal["none", "user", "network", "bridge"]
    name: Annotated[str, Field(max_length=64, pattern=r"^([A-Za-z0-9][A-Za-z0-9_.-]*)?$")] = ""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if (self.kind in {"network", "bridge"}) != bool(self.name):
            raise ValueError("a network is written none, user, network:NAME or bridge:NAME")
        return self

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `none`, `user`, `network:NAME` or `bridge:NAME`; ValueError when it is anything else."""
        kind, colon, name = text.partition(":")
        try:
            return cls(kind=text if colon and not name else kind, name=name)  # type: ignore[arg-type]
        except ValidationError as exc:
            raise ValueError(
                f"{text[:80]!r} is not a valid network; write none, user, network:NAME or bridge:NAME"
            ) from exc

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}" if self.name else self.kind


NetworkText = Annotated[
    Network,
    BeforeValidator(lambda value: Network.parse(value) if isinstance(value, str) else value),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "maxLength": 80, "examples": ["user", "network:grid"]}),
]
"""A network that documents carry as the text that people write."""

NetworkSetting = Annotated[str, AfterValidator(lambda text: str(Network.parse(text)))]
"""The same as settings keep it."""

NO_NETWORK = Network(kind="none")
