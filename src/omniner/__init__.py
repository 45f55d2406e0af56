"""OmniNER: experiments in fine-grained Chinese named-entity recognition."""

__version__ = "0.1.0"
