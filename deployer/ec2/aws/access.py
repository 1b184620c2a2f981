"""How an account at AWS is reached. Holds no credentials: they stay where the AWS SDK keeps them."""

from typing import Annotated

from pydantic import Field

from signer.documents import Document


class AwsAccess(Document):
    """The region and the credentials of an account.

    Attributes:
        region: of everything that is made, such as `eu-central-1`.
        profile: of AWS's shared configuration files; empty for the SDK's usual chain.
        role_arn: a role that is assumed with the profile's credentials; empty for none.
        external_id: that the role's owner demands; empty for none.
    """

    region: Annotated[str, Field(pattern=r"^[a-z]{2}(-[a-z]+)+-[0-9]+$")]
    profile: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.@/-]{0,128}$")] = ""
    role_arn: Annotated[str, Field(pattern=r"^(arn:aws[a-z-]*:iam::[0-9]{12}:role/[A-Za-z0-9+=,.@_/-]{1,512})?$")] = ""
    external_id: Annotated[str, Field(pattern=r"^([A-Za-z0-9+=,.@:/_-]{2,1224})?$")] = ""
