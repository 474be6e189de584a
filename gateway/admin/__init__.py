"""The admin sub-app: tokens as JSON. It has its own application, and may have its own listener."""

from gateway.admin.api import TokensApi, make_app

__all__ = ["TokensApi", "make_app"]
