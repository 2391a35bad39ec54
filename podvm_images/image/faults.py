"""The error of a build."""


class BuildFault(Exception):
    """An image that cannot be locked or built: what failed, on what, why, and what to do."""
