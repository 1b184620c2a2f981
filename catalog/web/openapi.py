"""An application whose OpenAPI document says what it really answers, made when somebody asks for it."""

from typing import Any

from fastapi import FastAPI

FOREIGN = ("HTTPValidationError", "ValidationError")


class ProblemApi(FastAPI):
    """FastAPI documents its own form of validation errors (422) everywhere; ours are problems, with 400."""

    def openapi(self) -> dict[str, Any]:
        """The document, without that form. To make it takes longer than the rest of a start, so it is not made before."""
        document = super().openapi()
        for methods in document["paths"].values():
            for operation in methods.values():
                found = operation["responses"].get("422", {}).get("content", {}).get("application/json", {})
                if found.get("schema", {}).get("$ref", "").endswith(f"/{FOREIGN[0]}"):
                    del operation["responses"]["422"]
        for name in FOREIGN:
            document["components"]["schemas"].pop(name, None)
        return document
