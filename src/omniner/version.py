"""The version of OmniNER, for every module that signs results with it."""

__version__ = "0.1.0"
