"""Search on the site: the theme cuts Chinese into words with jieba, and without it says nothing and finds next to nothing.

Imported here, a missing jieba fails the build. `mkdocs.yml` names this module as a hook.
"""

import logging

import jieba


def on_config(config):
    """Keep jieba's word on its dictionary out of the build's output."""
    jieba.setLogLevel(logging.WARNING)
    return config
