"""What travels about flat images."""

from typing import Annotated

from pydantic import ConfigDict, Field

from catalog.image.manifest import ImageId
from catalog.schema.images import ResponseModel


class FlatImage(ResponseModel):
    """A flat image: how many bytes it has, and their SHA-512. It is read at `/v1/images/{image_id}/disk.raw`."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"image_id": "sha256:" + "2c" * 32, "size": 1073741824, "sha512": "0e" * 64}]}
    )

    image_id: ImageId
    size: Annotated[int, Field(gt=0)]
    sha512: Annotated[str, Field(pattern=r"^[0-9a-f]{128}$")]
